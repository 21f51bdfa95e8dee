"""Cutting calibration files where each part can be counted by itself, and all parts are counted as the whole is.

Knows where containers may be cut: JSON lines behind a line, plain text behind a document, Parquet between row groups.
A JSON array and a compressed file are left whole: nobody knows what a later part means without those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from itertools import accumulate, pairwise
from typing import Any

from .container import container_of, is_parquet
from .records import json_lines, open_parquet, parquet_rows
from .sources import File, Source, size_of
from .streams import BLOCK, is_compressed, open_stream
from .text import LOOKAHEAD, document_lengths, text_documents


@dataclass(frozen=True)
class Section:
    """A file of calibration text, or a part of one.

    file: None for standard input. name: the file's, as it was given. from_folder: it was found, not named.
    bytes: how many of the file's this is, about so many of a Parquet file's.
    part: from where up to where, in bytes, in row groups of a Parquet file; None for the whole file, then the rest is
        None too. container: how to read the part. story: size and hash of the whole file, with its first part.
    """

    file: File | None
    name: str
    from_folder: bool
    bytes: int
    part: tuple[int, int] | None = None
    container: Callable[..., Iterator[Any]] | None = None
    story: dict[str, Any] | None = None

    @property
    def is_start(self) -> bool:
        """Whether the file begins here."""
        return self.part is None or self.part[0] == 0

    @property
    def in_sight(self) -> tuple[int, int] | None:
        """The bytes to read for it."""
        if self.part is None or self.container is not text_documents:
            return self.part
        return self.part[0], self.part[1] + LOOKAHEAD


def whole(file: File | None, source: Source) -> Section:
    """All of a file of that source."""
    if file is None:
        return Section(None, "standard input", source.from_folder, 0)
    return Section(file, str(file), source.from_folder, size_of(file))


def cut(section: Section, size: int) -> list[Section]:
    """A whole file as parts of about `size` bytes, or as it is where it cannot be cut.

    Goes through the file once, at the speed of reading, to find the places and to hash it.
    Raises InputError for a damaged file.
    """
    file = section.file
    story: dict[str, Any] = {"path": section.name}
    if file is None or is_compressed(file):
        return [section]
    if is_parquet(file):
        with open_stream(file, lambda _: None, story):
            pass  # for its size and hash
        with open_parquet(file) as table:
            groups = [table.metadata.row_group(number).total_byte_size for number in range(table.num_row_groups)]
        stretches = list(_stretches(groups, size * max(sum(groups), 1) // section.bytes))
        scale = section.bytes / max(sum(groups), 1)  # what is stored of them is compressed
        return _parts(section, story, parquet_rows, [(n, round(weight * scale)) for n, weight in stretches])
    with open_stream(file, lambda _: None, story) as stream:
        container = container_of(file, stream)
        lengths: Iterable[int] = ()
        if container is json_lines:
            lengths = _line_lengths(stream)
        elif container is text_documents:
            lengths = document_lengths(stream)
        stretches = list(_stretches(lengths, size))
    return _parts(section, story, container, [(n_bytes, n_bytes) for _, n_bytes in stretches])


def _line_lengths(stream: BufferedReader) -> Iterator[int]:
    length = 0
    while part := stream.readline(BLOCK):  # a line may be longer than memory
        length += len(part)
        if part.endswith(b"\n"):
            yield length
            length = 0
    if length:
        yield length


def _stretches(weights: Iterable[int], size: int) -> Iterator[tuple[int, int]]:
    """(how many, their weight together) of neighbours that reach `size`; the last may be lighter."""
    number = together = 0
    for weight in weights:
        number, together = number + 1, together + weight
        if together >= size:
            yield number, together
            number = together = 0
    if number:
        yield number, together


def _parts(
    section: Section,
    story: dict[str, Any],
    container: Callable[..., Iterator[Any]] | None,
    stretches: list[tuple[int, int]],
) -> list[Section]:
    """stretches: of each part, how far it goes in the units of `Section.part`, and its bytes."""
    if len(stretches) < 2:
        return [section]
    places = [0, *accumulate(length for length, _ in stretches)]
    parts = [
        replace(section, bytes=n_bytes, part=part, container=container)
        for part, (_, n_bytes) in zip(pairwise(places), stretches, strict=True)
    ]
    return [replace(parts[0], story=story), *parts[1:]]
