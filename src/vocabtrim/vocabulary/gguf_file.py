"""What a GGUF file says of itself, and where its tensors lie: its header, read in one pass that a hostile file cannot
prolong.

The format, by ggml-org/llama.cpp, ggml/include/gguf.h: magic, version, number of tensors and of entries; the entries;
name, shape, type and place of every tensor; their bytes, aligned. Knows the container; knows no model. The `gguf`
package writes our files and reads them back; it takes a stranger's lengths at their word, and builds an array for each
of a tokenizer's hundred thousand strings.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_INTEGERS = {24: "int8", 25: "int16", 26: "int32", 27: "int64"}  # ggml's types that a map may have
_LARGEST_DIMENSIONS = 4


@dataclass(frozen=True)
class GgufTensor:
    """One tensor. shape: slowest axis first, as numpy counts. type: ggml's number. offset: of its bytes in the file."""

    path: Path
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def dtype(self) -> str:
        """numpy's name for an integer type; others by ggml's number."""
        return _INTEGERS.get(self.type, f"ggml type {self.type}")

    def integers(self) -> npt.NDArray[np.integer[Any]]:
        """The tensor, of one of the integer types. Raises ValueError where the file ends inside it."""
        found = np.fromfile(self.path, np.dtype(self.dtype).newbyteorder("<"), prod(self.shape), offset=self.offset)
        if found.size != prod(self.shape):
            raise ValueError("the file ends inside a tensor")
        return found.astype(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """entries: name -> number, truth value or string; arrays are passed over. tensors: by name."""

    entries: Mapping[str, int | float | bool | str]
    tensors: Mapping[str, GgufTensor]


def read_gguf(path: Path) -> GgufHeader:
    """The header of a file. Raises ValueError for one that is no GGUF, cut short, or says what cannot be."""
    if not path.stat().st_size:
        raise ValueError("an empty file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _Cursor(content).header(path)


class _Cursor:
    """A place in the file that only moves on, and never past the end: so every loop here is bounded by its size."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.at = content, 0

    def take(self, size: int) -> bytes:
        if size > len(self.content) - self.at:
            raise ValueError(f"{size:,} bytes promised at {self.at:,} of {len(self.content):,}")
        self.at += size
        return self.content[self.at - size : self.at]

    def skip(self, size: int) -> None:
        if size > len(self.content) - self.at:
            raise ValueError(f"{size:,} bytes promised at {self.at:,} of {len(self.content):,}")
        self.at += size

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def header(self, path: Path) -> GgufHeader:
        if self.take(4) != _MAGIC or self.number("I") not in _VERSIONS:
            raise ValueError("no little-endian GGUF of version 2 or 3")
        tensor_count, entry_count = self.number("Q"), self.number("Q")
        entries: dict[str, int | float | bool | str] = {}
        for _ in range(entry_count):
            name, kind = self.string(), self.number("I")
            if kind == _ARRAY:
                self._pass_over_array()
            else:
                entries[name] = self.string() if kind == _STRING else self.number(_code(kind))
        told = [self._tensor() for _ in range(tensor_count)]
        alignment = entries.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1:
            raise ValueError(f"an alignment of {alignment!r}")
        data = -(-self.at // alignment) * alignment
        tensors = {name: GgufTensor(path, shape, kind, data + offset) for name, shape, kind, offset in told}
        if len(tensors) != tensor_count:
            raise ValueError("two tensors of one name")
        if beyond := [name for name, tensor in tensors.items() if tensor.offset > len(self.content)]:
            raise ValueError(f"tensor {beyond[0]} begins behind the end of the file")
        return GgufHeader(entries, tensors)

    def _pass_over_array(self) -> None:
        kind, count = self.number("I"), self.number("Q")
        if kind != _STRING:
            self.skip(count * struct.calcsize(f"<{_code(kind)}"))
            return
        for _ in range(count):
            self.skip(self.number("Q"))

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self.string(), self.number("I")
        if dimensions > _LARGEST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        shape = tuple(reversed([self.number("Q") for _ in range(dimensions)]))
        return name, shape, self.number("I"), self.number("Q")


def _code(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"an entry of the unknown type {kind}")
    return _SCALARS[kind]
