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
        if isinstance(self.strings, str):
            raise InputError(
                "stop strings are one string",
                expected="a list of strings",
                found=self.strings,
                remedy="put it in a list",
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

        Token by token and from the first one on, so that rounds make no difference: a decoder may join the bytes of
        several tokens, and a text that is cut in between reads otherwise.
        """
        if not self.strings or self.text is None:
            return None
        for count in range(1, len(new) + 1):
            text = self.text([*before, *new[:count]])
            if any(string in text for string in self.strings):
                return count
        return None
