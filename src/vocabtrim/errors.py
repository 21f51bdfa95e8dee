"""What vocabtrim says when it cannot go on: one line with what happened, expected, found, and the remedy.

Every error that a user can cause is one of these kinds. The command line prints the line and exits with `exit_code`;
a library caller catches `VocabTrimError`.
"""


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
