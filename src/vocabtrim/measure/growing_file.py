"""A file of JSON lines that grows while something runs: whole lines count, and one process writes.

What was killed leaves at most half a line at the end, which reading leaves out and the next writer removes. The first
line says what the file is of, and with what it may be gone on. Knows lines; knows nothing of what they say.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import InputError, OutputError
from ..provenance import refuse_unwritable


def whole_lines(path: Path) -> Iterator[bytes]:
    """Every line that has its end. Empty where the file is not there."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line


def prove_same_run(place: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], what: str = "a run") -> None:
    """Raise InputError, with the first entry that differs, unless what stands in `place` may be gone on with."""
    for name in {**wanted, **found}:
        if wanted.get(name) != found.get(name):
            asked, held = _difference(wanted.get(name), found.get(name))
            raise InputError(
                f"{place} holds {what} of {'other' if name == 'methods' else 'another'} {name}",
                expected=shown(asked),
                found=shown(held),
                remedy="choose another --out, or repeat the command that began it",
            )


def _difference(here: object, there: object) -> tuple[object, object]:
    """Of two tables only the entries that differ."""
    if not (isinstance(here, dict) and isinstance(there, dict)):
        return here, there
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    return {name: here.get(name, "none") for name in names}, {name: there.get(name, "none") for name in names}


def shown(value: object) -> str:
    """A value of a header in an error: JSON, cut."""
    return json.dumps(value, ensure_ascii=False)[:200]


def refuse_other_folder(folder: Path, name: str, what: str) -> None:
    """Raise OutputError unless `folder` is new, empty or holds a file `name`, and can be written to."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is no folder", remedy=f"choose another place for the {what}")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / name).is_file():
        raise OutputError(
            f"{folder} exists and holds no {what}",
            expected=name,
            remedy=f"choose another place for the {what}, or remove it",
        )
    refuse_unwritable(folder / name)


class GrowingFile:
    """The file, open to be written to by this process alone. Raises OutputError where that cannot be."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("ab", buffering=0)
        except OSError as error:
            raise OutputError(f"cannot write {path}", found=error.strerror, remedy="choose another place") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            remedy = "wait for it, or choose another place"
            raise OutputError(f"another process writes to {path.parent}", remedy=remedy) from error

    @property
    def empty(self) -> bool:
        """Whether not even a first line is there."""
        return next(whole_lines(self.path), None) is None

    def forget_half_a_line(self) -> None:
        """Before the first line is written to what another process left."""
        whole = sum(map(len, whole_lines(self.path)))
        self._file.truncate(whole)
        self._file.seek(whole)

    def write(self, line: Mapping[str, Any]) -> None:
        """All of a line or nothing; when this returns, a kill of the process no longer loses it."""
        rest = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        before = self._file.tell()
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(before)
            self._file.seek(before)
            raise cannot_go_on(self.path, error) from error

    def close(self) -> None:
        """Let another process write."""
        self._file.close()


def cannot_go_on(path: Path, error: OSError) -> OutputError:
    """What is said where a disk is full in the middle of a run."""
    return OutputError(
        f"cannot write {path}",
        found=error.strerror or str(error),
        remedy="free space there and run the same command again: it goes on behind the last whole line",
    )
