"""What a SOURCE argument means: which files, under which name, written by whom.

Knows paths, globs, URIs and origins. Opens nothing.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import InputError
from .counts import ORIGINS
from .stores import StoredFile, find_stored, is_uri

STDIN = "-"

File = Path | StoredFile


@dataclass(frozen=True)
class Source:
    """One SOURCE argument.

    name: for tables and the counts file: the file's or folder's own name; unique within one run.
    origin: "raw", "target-generated" or "drafter-generated".
    argument: the SOURCE as it was given, without the origin.
    files: what to read, in a fixed order; None stands for standard input.
    from_folder: the files were found, not named, so that one without text is no surprise.
    """

    name: str
    origin: str
    argument: str
    files: tuple[File | None, ...]
    from_folder: bool = False

    @property
    def known_bytes(self) -> int:
        """Sizes of the regular files together; pipes and standard input have none."""
        return sum(size_of(file) for file in self.files if file is not None)


def size_of(file: File) -> int:
    """Bytes of a file as stored; 0 for a pipe."""
    return file.size if isinstance(file, StoredFile) else file.stat().st_size


def find_sources(arguments: Sequence[str | Path], origin: str) -> list[Source]:
    """Resolve SOURCE arguments: files, folders (recursive, hidden names left out), globs, URIs of stores, and "-".

    An argument may begin with who wrote the text, as in "target-generated:answers.jsonl"; `origin` is the default.
    Raises InputError for an unknown origin, a missing file, a glob without a match, or no argument at all.
    """
    if not arguments:
        raise InputError("no calibration text", expected="at least one SOURCE", remedy="name a file, folder or -")
    if origin not in ORIGINS:
        raise InputError("unknown origin", expected=" or ".join(ORIGINS), found=repr(origin), remedy="correct --origin")
    sources: list[Source] = []
    for argument in map(str, arguments):
        source = _find(argument, origin)
        sources.append(_with_unique_name(source, {other.name for other in sources}))
    if sum(source.files.count(None) for source in sources) > 1:
        raise InputError("standard input is named twice", remedy="name - once")
    return sources


def _find(argument: str, origin: str) -> Source:
    prefix, colon, rest = argument.partition(":")
    if colon and prefix in ORIGINS and not Path(argument).exists():
        origin, argument = prefix, rest
    if argument == STDIN:
        return Source("stdin", origin, argument, (None,))
    if is_uri(argument):
        shown, stored, is_folder = find_stored(argument)
        single = is_folder or len(stored) == 1
        return Source(PurePosixPath(shown).name if single else shown, origin, shown, stored, from_folder=is_folder)
    path = Path(argument)
    if path.is_dir():
        return Source(path.resolve().name, origin, argument, _files_below(path, argument), from_folder=True)
    if path.exists():
        return Source(path.name, origin, argument, (path,))
    if not glob.has_magic(argument):
        raise InputError(f"calibration text {argument} does not exist", remedy="check the path of the SOURCE")
    matches = [Path(match) for match in sorted(glob.glob(argument, recursive=True))]  # noqa: PTH207  Path.glob takes no absolute pattern
    files = tuple(match for match in matches if not match.is_dir())
    if not files:
        raise InputError(f"no file matches {argument}", remedy="check the pattern of the SOURCE")
    return Source(argument, origin, argument, files)


def _files_below(folder: Path, argument: str) -> tuple[Path, ...]:
    files = tuple(_visible_files(folder))
    if not files:
        raise InputError(f"folder {argument} holds no file", remedy="check the path of the SOURCE")
    return files


def _visible_files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():  # a link may lead back up, for ever
            yield from _visible_files(entry)
        elif entry.is_file():
            yield entry


def _with_unique_name(source: Source, taken: set[str]) -> Source:
    candidates = [source.name, source.argument, *(f"{source.argument} ({n})" for n in range(2, len(taken) + 3))]
    name = next(candidate for candidate in candidates if candidate not in taken)
    return Source(name, source.origin, source.argument, source.files, source.from_folder)
