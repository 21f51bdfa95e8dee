"""What vocabtrim says when it cannot go on: one line with what happened, expected, found, and the remedy.

Every error that a user can cause is one of these kinds. The command line prints the line and exits with `exit_code`;
a library caller catches `VocabTrimError`.
"""

from __future__ import annotations

from functools import partial
from typing import Any


class VocabTrimError(Exception):
    """The base of all errors raised on purpose. `exit_code` 2: wrong usage or bad input."""

    exit_code = 2

    def __init__(self, what: str, *, remedy: str, expected: object = None, found: object = None) -> None:
        self.what, self.expected, self.found, self.remedy = what, expected, found, remedy
        parts = [what]
        if expected is not None:
            parts.append(f"expected {expected}")
        if found is not None:
            parts.append(f"found {found}")
        facts = ", ".join(parts) if len(parts) < 3 else f"{what}: expected {expected}, found {found}"
        line = " ".join(f"{facts}; {remedy}".split())  # one line, whatever a library's message held
        super().__init__("".join(character if character.isprintable() else "�" for character in line))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels between processes; what was expected and found goes as words."""
        facts = {"expected": self.expected, "found": self.found, "remedy": self.remedy}
        words = {key: None if fact is None else str(fact) for key, fact in facts.items()}
        return partial(type(self), self.what, **words), ()  # type: ignore[arg-type]

    def replaced(self, old: str, new: str) -> VocabTrimError:
        """The same error with another path in its words."""
        what, expected, found, remedy = (
            None if fact is None else str(fact).replace(old, new)
            for fact in (self.what, self.expected, self.found, self.remedy)
        )
        return type(self)(str(what), expected=expected, found=found, remedy=str(remedy))


class InputError(VocabTrimError):
    """An argument or an input file is wrong: missing, empty, malformed, out of range."""


class CheckpointError(VocabTrimError):
    """A checkpoint cannot be read: truncated, hostile, incomplete, or with tensors of the wrong shape."""


class MismatchError(VocabTrimError):
    """Two files that must belong together do not: another tokenizer, another target, another head."""


class UnsupportedError(VocabTrimError):
    """The input is understood and refused by name, because trimming it would be wrong."""


class OutputError(VocabTrimError):
    """The output cannot be written: it exists already, the disk is full, permission is missing."""


class UnsafeError(VocabTrimError):
    """The thing asked for is understood but wrong or unsafe: a failed check, a losing trim under `--strict`."""

    exit_code = 1
