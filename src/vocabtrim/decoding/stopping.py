"""Where a generation ends: stop ids, stop strings, a number of tokens. Cuts what is emitted right there.

Knows ids, and text through a function of the caller's; knows nothing of models or drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from ..errors import InputError


class Reason(str, Enum):
    """Why a generation ended."""

    STOP_ID = "stop id"
    STOP_STRING = "stop string"
    LENGTH = "length"


@dataclass(frozen=True)
class Stop:
    """ids: emitted, and then the end. strings: the token that completes one is the last; text: ids -> text, needed with
    strings, special tokens written out. length: the most tokens.

    Strings are looked for in what was emitted, not in the prompt.
    """

    length: int
    ids: Collection[int] = ()
    strings: Sequence[str] = ()
    text: Callable[[Sequence[int]], str] | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(
                "max_new_tokens is out of range", expected="1 or more", found=self.length, remedy="ask for a token"
            )
        if any(not string for string in self.strings) or (self.strings and self.text is None):
            raise InputError(
                "stop strings need a tokenizer and at least a letter each",
                found=list(self.strings),
                remedy="pass `text`, a function from ids to text, and no empty string",
            )

    def cut(self, before: Sequence[int], new: Sequence[int]) -> tuple[int, Reason | None]:
        """How many of the `new` tokens are emitted behind those `before`, and why they are the last; None to go on."""
        end, reason = len(new), None
        if len(before) + end >= self.length:
            end, reason = self.length - len(before), Reason.LENGTH
        for position, token in enumerate(new[:end]):
            if token in self.ids:
                end, reason = position + 1, Reason.STOP_ID
                break
        found = self._completes_string(before, new[:end])
        return (end, reason) if found is None else (found, Reason.STOP_STRING)

    def _completes_string(self, before: Sequence[int], new: Sequence[int]) -> int | None:
        """How many of `new` it takes until the text holds a stop string; None where it does not.

        Only the end of what was emitted can be part of a string.
        """
        if not self.strings or self.text is None:
            return None
        tail = self._tail(before)
        tokens, known = [*tail, *new], len(tail)
        if not self._holds_string(tokens):
            return None
        return next(count for count in range(1, len(new) + 1) if self._holds_string(tokens[: known + count]))

    def _tail(self, before: Sequence[int]) -> Sequence[int]:
        """The last tokens, as many as it takes for a text longer than any string: some tokens have no text at all."""
        longest = max(len(string.encode()) for string in self.strings)
        size = longest
        while size < len(before) and self.text is not None and len(self.text(before[-size:])) <= longest:
            size *= 2
        return before[-size:] if before else ()

    def _holds_string(self, tokens: Sequence[int]) -> bool:
        text = self.text(tokens) if self.text is not None else ""
        return any(string in text for string in self.strings)
