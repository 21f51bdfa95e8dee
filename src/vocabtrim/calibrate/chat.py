"""What the target writes in a chat: its turns, as the tokenizer's own chat template renders them.

Knows chat templates; knows nothing of files or counts. A turn is what the template adds to the conversation before
it, from the end of the generation prompt up to the stop token. The template itself is run by transformers, in its
sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import InputError
from .tokenizer import OpenTokenizer, chat_templates, eos_token

Message = Mapping[str, Any]

NOT_RENDERED = "chat that the template refuses"
NOT_CONTINUED = "turn that the template does not render as a continuation"

_SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}


@dataclass(frozen=True)
class Turn:
    """What the target wrote in one turn: the text, and the id of the stop token behind it where there is one.

    before: the conversation that it read, as the template renders it.
    """

    before: str
    text: str
    stop: int | None


class ChatTemplate:
    """The chat template of a tokenizer; transformers is loaded when the first chat is rendered."""

    def __init__(self, opened: OpenTokenizer) -> None:
        self._opened = opened
        decoder = opened.tokenizer.get_added_tokens_decoder()
        # A stop token that swallows the whitespace before it must stay in the text for the tokenizer to see.
        self._id_of = {
            token.content: token_id for token_id, token in decoder.items() if token.special and not token.lstrip
        }

    @property
    def exists(self) -> bool:
        """Whether the tokenizer has a chat template at all."""
        return bool(chat_templates(self._opened.folder))

    @cached_property
    def _tokenizer(self) -> Any:
        if not self.exists:
            raise InputError(
                f"the tokenizer at {self._opened.folder} has no chat template, and the calibration text holds chats",
                expected="chat_template in tokenizer_config.json, or chat_template.jinja",
                remedy="pass the tokenizer of the instruction-tuned target, or count one field with --text-field",
            )
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(
                str(self._opened.folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # whatever its many loaders raise
            raise InputError(
                f"transformers cannot load the tokenizer at {self._opened.folder}",
                found=error,
                remedy="put tokenizer_config.json beside tokenizer.json",
            ) from error

    def prompt(self, messages: Sequence[Message]) -> str:
        """A conversation up to where the target's next turn begins. Raises InputError where the template refuses it."""
        try:
            return self._render(messages, None, generation_prompt=True)
        except _RefusedError as error:
            raise InputError(
                f"the chat template of {self._opened.folder} refuses the prompt",
                found=error.__cause__,
                remedy="pass the prompt as the target is to read it, with --no-chat",
            ) from error

    def turns(
        self, messages: Sequence[Message], tools: Sequence[Any] | None, *, last: bool = False
    ) -> tuple[list[Turn], list[str]]:
        """The assistant's turns of a conversation, and why others were left out.

        messages: role and content each, OpenAI's keys; tools: tool definitions that the template shows to the target.
        last: only the last message's turn.
        """
        turns: list[Turn] = []
        skipped: list[str] = []
        first = len(messages) - 1 if last else 0
        for position, message in enumerate(messages):
            if position < first or message.get("role") != "assistant":
                continue
            try:
                before = self._render(messages[:position], tools, generation_prompt=True)
                after = self._render(messages[: position + 1], tools, generation_prompt=False)
            except _RefusedError:
                skipped.append(NOT_RENDERED)
                continue
            if after.startswith(before):
                turns.append(self._turn(before, after[len(before) :]))
            else:
                skipped.append(NOT_CONTINUED)
        return turns, skipped

    @cached_property
    def stop(self) -> int | None:
        """The id that ends a turn: found by rendering a small chat, the eos token without a template."""
        if self.exists:
            probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            turns, _ = self.turns(probe, None)
            if turns and turns[0].stop is not None:
                return turns[0].stop
        return self._eos

    @cached_property
    def _eos(self) -> int | None:
        name = eos_token(self._opened.folder)
        return None if name is None else self._opened.tokenizer.token_to_id(name)

    def _turn(self, before: str, rendered: str) -> Turn:
        """Cut what the template puts behind the stop token: the target does not write Qwen's newline there."""
        written = rendered.rstrip()
        for length in self._stop_lengths:
            stop = self._id_of.get(written[-length:])
            if stop is not None:
                return Turn(before, written[:-length], stop)
        return Turn(before, rendered, self._eos)

    @cached_property
    def _stop_lengths(self) -> list[int]:
        return sorted({len(token) for token in self._id_of}, reverse=True)

    def _render(self, messages: Sequence[Message], tools: Sequence[Any] | None, *, generation_prompt: bool) -> str:
        refusal: Exception | None = None
        for arguments_as in (_mapping, _string):  # most templates want tool arguments as an object, some as JSON text
            chat = [_with_tool_arguments(message, arguments_as) for message in messages]
            try:
                rendered: str = self._tokenizer.apply_chat_template(
                    chat, tools=tools or None, tokenize=False, add_generation_prompt=generation_prompt
                )
                return rendered
            except InputError:
                raise
            except Exception as error:  # templates raise jinja2's errors, TypeError, IndexError and more
                refusal = error
                if not any(message.get("tool_calls") for message in messages):
                    break
        raise _RefusedError from refusal


class _RefusedError(Exception):
    """The template raised an error on these messages."""


def _with_tool_arguments(message: Message, arguments_as: Any) -> dict[str, Any]:
    plain = {key: value for key, value in message.items() if value is not None}  # Parquet fills absent keys with null
    if not plain.get("tool_calls"):
        plain.pop("tool_calls", None)  # templates ask whether the key is there
        return plain
    plain["tool_calls"] = [
        {**call, "function": {**call["function"], "arguments": arguments_as(call["function"].get("arguments"))}}
        if isinstance(call, dict) and isinstance(call.get("function"), dict)
        else call
        for call in plain["tool_calls"]
    ]
    return plain


def _mapping(arguments: Any) -> Any:
    if isinstance(arguments, str):
        try:
            return json.loads(arguments)
        except ValueError:
            return arguments
    return arguments


def _string(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def openai_messages(conversation: Sequence[Any]) -> list[dict[str, Any]] | None:
    """A conversation in OpenAI's keys, whether it was written so (role, content) or as ShareGPT does (from, value).

    A ShareGPT function call becomes a tool call, an observation the tool's answer. None when an element is no message.
    """
    messages: list[dict[str, Any]] = []
    for element in conversation:
        if not isinstance(element, Mapping):
            return None
        if isinstance(element.get("role"), str):
            content = _plain_text(element.get("content"))
            if content is None:
                return None
            messages.append({**element, "content": content})
        elif isinstance(element.get("from"), str) and isinstance(element.get("value"), str):
            messages.append(_from_sharegpt(element["from"], element["value"]))
        else:
            return None
    return messages


def _plain_text(content: Any) -> str | None:
    """Content as one string: "" for none, the text parts joined where it is a list of parts, None for anything else."""
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        return "".join(str(part["text"]) for part in content if isinstance(part.get("text"), str))
    return "" if content is None else content if isinstance(content, str) else None


def _from_sharegpt(speaker: str, value: str) -> dict[str, Any]:
    role = _SHAREGPT_ROLES.get(speaker, speaker)
    if speaker == "function_call":
        calls = _mapping(value)
        calls = calls if isinstance(calls, list) else [calls]
        if all(isinstance(call, dict) and "name" in call for call in calls):
            functions = [{"name": call["name"], "arguments": call.get("arguments", {})} for call in calls]
            tool_calls = [{"type": "function", "function": function} for function in functions]
            return {"role": role, "content": "", "tool_calls": tool_calls}
    return {"role": role, "content": value}


def tool_definitions(tools: Any) -> list[Any] | None:
    """Tool definitions as templates want them: a list, read from JSON text where need be, each under "function"."""
    tools = _mapping(tools)
    if not isinstance(tools, list) or not tools:
        return None
    return [
        {"type": "function", "function": tool} if isinstance(tool, dict) and "function" not in tool else tool
        for tool in tools
    ]
