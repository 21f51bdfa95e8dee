"""What an OpenAI-compatible server answers, in one piece or as a stream of events -> one reply.

Knows the fields of chat and completions, and those in which vLLM (`token_ids`) and SGLang (`response_token_ids`) tell
ids. Knows nothing of connections or of tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

_BROKEN_OFF = ("abort", "error")  # finish reasons of an answer that its server did not finish


class CutError(Exception):
    """The answer is not whole: the stream ended too early, or the server gave up in the middle."""


class ToldError(Exception):
    """The server said an error in the middle of a stream. code: the HTTP status that it would have had."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Reply:
    """text: the answer. reasoning: what a server takes out of it as such. token_ids: None where none were told.

    ended: the finish reason. tokens: how many the server says it wrote. model: the name of what answered.
    """

    text: str = ""
    reasoning: str = ""
    token_ids: list[int] | None = None
    ended: str | None = None
    tokens: int | None = None
    model: str | None = None
    _holes: bool = field(default=False, repr=False)

    def take(self, told: Any) -> None:
        """One JSON object: the whole answer, or the next piece of it."""
        if not isinstance(told, dict):
            raise CutError("no JSON object")
        if told.get("error"):
            raise _told(told["error"])
        if isinstance(told.get("model"), str):
            self.model = told["model"]
        usage = told.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self.tokens = usage["completion_tokens"]
        for choice in told.get("choices") or ():
            self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> None:
        said = choice.get("delta") or choice.get("message") or {}
        text = said.get("content") or choice.get("text") or ""
        reasoning = said.get("reasoning_content") or said.get("reasoning") or ""
        self.text, self.reasoning = self.text + text, self.reasoning + reasoning
        ids = next((choice[name] for name in ("token_ids", "response_token_ids") if choice.get(name) is not None), None)
        if ids is None:
            self._holes = self._holes or bool(text or reasoning)
        else:
            self.token_ids = [*(self.token_ids or ()), *map(int, ids)]
        self.ended = choice.get("finish_reason") or self.ended

    def whole(self) -> Reply:
        """The reply, once all of it is there. Raises CutError where it is not.

        Ids that leave out a part of the text, or are not as many as the server counts, are none.
        """
        if self.ended is None or self.ended in _BROKEN_OFF:
            raise CutError("the answer broke off" + (f" ({self.ended})" if self.ended else ""))
        self.text, self.reasoning = _characters(self.text), _characters(self.reasoning)
        if self._holes or (self.token_ids is not None and self.tokens not in (None, len(self.token_ids))):
            self.token_ids = None
        return self


def _characters(text: str) -> str:
    """Surrogates, which JSON may hold, put together to characters; the replacement character for half a pair."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def whole_reply(body: bytes) -> Reply:
    """An answer in one piece. Raises CutError for what is none."""
    reply = Reply()
    try:
        reply.take(json.loads(body))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CutError(f"no answer in JSON: {error}") from error
    return reply.whole()


async def streamed_reply(lines: AsyncIterator[str]) -> Reply:
    """An answer as server-sent events, one JSON object in each `data:` line, `[DONE]` behind the last.

    Raises CutError where the stream ends before the answer does, ToldError for an error that it holds.
    """
    reply = Reply()
    async for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            break
        try:
            reply.take(json.loads(data))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CutError(f"no answer in JSON: {error}") from error
    return reply.whole()


def _told(error: Any) -> ToldError:
    """Servers write an object, or the message alone."""
    message = error.get("message", error) if isinstance(error, dict) else error
    code = error.get("code") if isinstance(error, dict) else None
    return ToldError(str(message)[:300], code if isinstance(code, int) else 500)
