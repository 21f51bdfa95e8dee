"""What of a record the target writes: recognises chats, completions and plain text, record by record.

Knows fields; knows nothing of containers, files or ids, and leaves the rendering of chats to the template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .chat import ChatTemplate, openai_messages, tool_definitions
from .collected import COMPLETION, KEY, recorded_ids
from .request_log import Exchange, exchange
from .tokenizer import TokenizerFacts

NO_FIELD = "no usable field"
NO_TEXT = "no text in it"
NO_TURN = "chat without an assistant turn"
NO_CHAT = "no chat"
UNKNOWN_ID = "id that the tokenizer does not have"

CHAT_FIELDS = ("messages", "conversations", "conversation")
_COMPLETION_FIELDS = (("prompt", "completion"), ("prompt", "response"))


@dataclass(frozen=True)
class Document:
    """What is counted and split as one.

    form: "text", "completion", "chat", "request log", or "collected" where the ids themselves were recorded.
    texts: what the target writes, each tokenised by itself.
    stops: ids of the stop tokens behind them; of collected answers all ids.
    key: decides between calibration and held-out; the text itself, for chats and completions the whole record, for
        collected answers the key of their prompt.
    skipped: why parts of it were left out, one reason each.
    label: the value of the field that the collection is split by; None where there is none.
    answer: the text of a collected answer, which tells its language.
    """

    form: str
    texts: tuple[str, ...]
    stops: tuple[int, ...]
    key: str
    skipped: tuple[str, ...] = ()
    label: str | None = None
    answer: str = ""


class UnusableError(Exception):
    """A record that holds nothing to count; `fields` where it lacks the field that was wanted."""

    def __init__(self, reason: str, fields: Sequence[str] | None = None) -> None:
        super().__init__(reason)
        self.reason, self.fields = reason, fields


@dataclass(frozen=True)
class Forms:
    """Which fields to look at. A field that is named is the only one looked at; else the first form that fits is taken.

    The order: a collected answer with its ids, a logged request with its response, chat (`messages`, `conversations`),
    prompt and completion (or response), text. facts: of the tokenizer that ids are counted under; None takes no ids.
    """

    template: ChatTemplate
    text_field: str | None = None
    prompt_field: str | None = None
    completion_field: str | None = None
    chat_only: bool = False
    facts: TokenizerFacts | None = None
    label_field: str | None = None

    @property
    def _named(self) -> list[str]:
        return [name for name in (self.text_field, self.prompt_field, self.completion_field) if name]

    @property
    def columns(self) -> list[str] | None:
        """The fields worth reading; None where any record may be told by what it holds."""
        label = [self.label_field] if self.label_field else []
        return [*self._named, *label] if self._named else None

    @property
    def wanted(self) -> str:
        """The fields that a record should have, for an error."""
        if self._named:
            return " and ".join(map(repr, self._named))
        return "messages" if self.chat_only else "messages, prompt and completion, or text"

    def document(self, record: Any) -> Document:
        """The document in a record. Raises UnusableError with the reason when there is none."""
        document = self._document(record)
        label = record.get(self.label_field) if self.label_field and isinstance(record, Mapping) else None
        # Lists and objects are no kinds; as if the field were not there.
        return document if label is None or isinstance(label, list | dict) else replace(document, label=str(label))

    def _document(self, record: Any) -> Document:
        if isinstance(record, str) and not self._named and not self.chat_only:
            return _text(record)
        if not isinstance(record, Mapping):
            raise UnusableError(NO_FIELD, [type(record).__name__])
        if self.text_field is not None:
            return _text(self._field(record, self.text_field))
        if self.completion_field is not None:
            prompt = "" if self.prompt_field is None else self._field(record, self.prompt_field)
            return self._completion(str(prompt), self._field(record, self.completion_field))
        return self._recognised(record)

    def _recognised(self, record: Mapping[str, Any]) -> Document:
        if self.facts is not None and (ids := recorded_ids(record, self.facts)) is not None:
            return _collected(record, ids, self.facts.vocab_size)
        if (logged := exchange(record)) is not None:
            return self._logged(logged)
        for name in CHAT_FIELDS:
            if isinstance(record.get(name), list):
                return self._chat(record[name], record.get("tools"))
        if self.chat_only:
            raise UnusableError(NO_CHAT, list(record))
        for prompt, completion in _COMPLETION_FIELDS:
            if record.get(prompt) is not None and record.get(completion) is not None:
                return self._completion(str(record[prompt]), record[completion])
        if record.get("text") is not None:
            return _text(record["text"])
        raise UnusableError(NO_FIELD, list(record))

    def _field(self, record: Mapping[str, Any], name: str) -> Any:
        if record.get(name) is None:
            raise UnusableError(f"no field {name!r}", list(record))
        return record[name]

    def _completion(self, prompt: str, completion: Any) -> Document:
        """A completion is a string, a list of them (several samples), or the target's turns as messages."""
        texts = [completion] if isinstance(completion, str) else completion
        if isinstance(texts, list) and texts and all(isinstance(text, Mapping) for text in texts):
            texts = [message.get("content") for message in texts if message.get("role") == "assistant"]
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise UnusableError(NO_TEXT)
        stop = self.template.stop
        stops = () if stop is None else (stop,) * len(texts)
        return Document("completion", tuple(texts), stops, "\0".join((prompt, *texts)))

    def _logged(self, logged: Exchange) -> Document:
        """Of a request log only the response: the turns before it were answers to requests of their own.

        With the request a chat's answer is rendered by the template, without one it is taken as it stands. An answer
        that the length limit ended has no stop token.
        """
        written: list[tuple[str, int | None]] = []
        skipped: list[str] = []
        messages = None if logged.messages is None else openai_messages(logged.messages)
        for answer in logged.answers:
            turn = None if answer.message is None else openai_messages([answer.message])
            if turn is not None and messages:
                turns, refused = self.template.turns([*messages, *turn], tool_definitions(logged.tools), last=True)
                written += ((one.text, one.stop if answer.stopped else None) for one in turns)
                skipped += refused
            else:
                text = turn[0]["content"] if turn else answer.text
                written += [(text, self.template.stop if answer.stopped else None)] if text else []
        texts = tuple(text for text, _ in written if text)
        stops = tuple(stop for _, stop in written if stop is not None)
        if not texts and not stops and not skipped:
            raise UnusableError(NO_TEXT)
        asked = [f"{one['role']}\0{one['content']}" for one in messages or ()] or [logged.prompt or ""]
        return Document("request log", texts, stops, "\0".join([*asked, *texts]), tuple(skipped))

    def _chat(self, conversation: list[Any], tools: Any) -> Document:
        messages = openai_messages(conversation)
        if messages is None:
            raise UnusableError("malformed chat message")
        turns, skipped = self.template.turns(messages, tool_definitions(tools))
        if not turns and not skipped:
            raise UnusableError(NO_TURN)
        texts = tuple(turn.text for turn in turns)
        return Document(
            form="chat",
            texts=texts,
            stops=tuple(turn.stop for turn in turns if turn.stop is not None),
            key="\0".join([*(f"{message['role']}\0{message['content']}" for message in messages), *texts]),
            skipped=tuple(skipped),
        )


def _collected(record: Mapping[str, Any], ids: Sequence[int], vocab_size: int) -> Document:
    known = tuple(token for token in ids if 0 <= token < vocab_size)
    completion = record.get(COMPLETION)
    written = completion[0].get("content") if isinstance(completion, list) and completion else completion
    answer = written if isinstance(written, str) else ""
    skipped = (UNKNOWN_ID,) if len(known) < len(ids) else ()
    return Document("collected", (), known, record[KEY], skipped, answer=answer)


def _text(text: Any) -> Document:
    if not isinstance(text, str) or not text:
        raise UnusableError(NO_TEXT)
    return Document("text", (text,), (), text)
