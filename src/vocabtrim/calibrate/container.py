"""Which container a file is: told by its name where the name says, else by how it begins. Knows nothing of records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from .records import json_lines, json_values
from .stores import StoredFile
from .streams import COMPRESSED_SUFFIXES
from .text import text_documents

_TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst")


def is_parquet(file: Path | StoredFile) -> bool:
    """Whether a file begins as Parquet does; False for pipes."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return bool(opened.read(4) == b"PAR1")


def container_of(file: Path | StoredFile | None, stream: BufferedReader) -> Callable[..., Iterator[Any]] | None:
    """How to read a file that is no Parquet; `stream` is its decompressed bytes. None: binary."""
    beginning = stream.peek(1)
    suffix = _suffix(file)
    if suffix in (".jsonl", ".ndjson"):
        return json_lines
    if suffix == ".json":
        return json_values
    if b"\0" in beginning[:8192]:
        return None
    if suffix in _TEXT_SUFFIXES:
        return text_documents
    start = beginning.lstrip()
    if start.startswith(b"[") and start[1:].lstrip().startswith(b"{"):
        return json_values
    return json_lines if _is_json_object(start) else text_documents


def _suffix(file: Path | StoredFile | None) -> str:
    suffixes = [] if file is None else [suffix.lower() for suffix in file.suffixes]
    while suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _is_json_object(beginning: bytes) -> bool:
    if not beginning.startswith(b"{"):
        return False
    line, newline, _ = beginning.partition(b"\n")
    if not newline:  # the first line is longer than what is in sight
        return beginning[1:].lstrip().startswith(b'"')
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
