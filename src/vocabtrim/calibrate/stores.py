"""Files in object stores, by pyarrow's filesystems: s3://, gs://, abfs://, hdfs://, and file:// for this machine.

Knows URIs and bytes; knows nothing of what the files hold. Keys come from the environment, as each store's own tools
take them; a URI that carries one is never shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import PurePosixPath
from typing import IO, Any, cast

from ..errors import InputError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://")


@dataclass(frozen=True)
class StoredFile:
    """A file in a store; opens as a `Path` does, so that whoever reads need not know which of both it is.

    store: the URI it was found by, which says how to reach the store. path: in that store. size: bytes.
    """

    store: str = field(repr=False)
    path: str
    size: int

    def __str__(self) -> str:
        return shown(self.store, self.path)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def suffixes(self) -> list[str]:
        """As of a Path: [".jsonl", ".gz"]."""
        return PurePosixPath(self.path).suffixes

    def is_file(self) -> bool:
        """True: pipes and folders are none of these."""
        return True

    def open(self, mode: str = "rb", buffering: int = 0) -> IO[bytes]:
        """Its bytes as a file object that can seek; only for reading."""
        assert mode == "rb", mode
        with _refusal(str(self)):
            return cast("IO[bytes]", _filesystem(self.store)[0].open_input_file(self.path))


def is_uri(argument: str) -> bool:
    """Whether an argument names a store and not a local path."""
    return _SCHEME.match(argument) is not None


def shown(uri: str, path: str) -> str:
    """A path in a store as people write it, without the user, key and options that the URI may hold."""
    scheme = _SCHEME.match(uri)
    return f"{scheme[1] if scheme else 'file'}://{path}"


def find_stored(uri: str) -> tuple[str, tuple[StoredFile, ...], bool]:
    """What a URI means: how to show it, its files in order, and whether it is a folder.

    A folder is taken whole but for hidden names; of a pattern, * and [] stand for parts of one name.
    Raises InputError when pyarrow is missing, the store cannot be read, or there is no file.
    """
    place, pattern = _without_pattern(uri)
    store, path = _filesystem(place)
    from pyarrow.fs import FileSelector, FileType  # is there: the line above would have said

    name = shown(place, path) + ("/" + pattern if pattern else "")
    with _refusal(name):
        info = store.get_file_info(path)
        if info.type == FileType.File and not pattern:
            return name, (StoredFile(place, info.path, info.size),), False
        found = store.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
    files = {PurePosixPath(entry.path): entry.size for entry in found if entry.type == FileType.File}
    wanted = [file for file in sorted(files) if _is_wanted(file.relative_to(path).parts, pattern)]
    if not wanted:
        raise InputError(f"calibration text {name} does not exist", remedy="check the URI of the SOURCE")
    return name, tuple(StoredFile(place, str(file), files[file]) for file in wanted), not pattern


def _without_pattern(uri: str) -> tuple[str, str]:
    """The folder that a pattern is searched in, and the pattern; a ? begins the options of a URI."""
    address, mark, options = uri.partition("?")
    special = re.search(r"[*[]", address)
    if special is None:
        return uri, ""
    folder, _, beginning = address[: special.start()].rpartition("/")
    return folder + mark + options, beginning + address[special.start() :]


def _is_wanted(parts: tuple[str, ...], pattern: str) -> bool:
    """parts: of a path below the folder."""
    if not pattern:
        return not any(part.startswith(".") for part in parts)
    patterns = pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


@cache
def _filesystem(uri: str) -> tuple[Any, str]:
    """The store that a URI names, and the path in it. Kept: S3 is asked for a bucket's region once."""
    try:
        from pyarrow import ArrowException
        from pyarrow.fs import FileSystem
    except ImportError as error:
        raise InputError(
            f"{shown(uri, '')} is read by the pyarrow package",
            remedy="install it with: pip install 'vocabtrim[data]'",
        ) from error
    try:
        store, path = FileSystem.from_uri(uri)
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{shown(uri, '')} cannot be opened",
            found=str(error).replace(uri, shown(uri, "...")),  # it may hold a key
            remedy="check the URI, the region and the keys",
        ) from None
    return store, path


@contextmanager
def _refusal(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{name} cannot be read", found=error, remedy="check the path and the keys") from error
