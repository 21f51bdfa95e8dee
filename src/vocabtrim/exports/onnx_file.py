"""One tensor of an ONNX model, read without the library: the few fields of its protobuf that lead to it.

Field numbers: onnx/onnx.proto. Models that keep their weights beside them are small files, and the tensor's bytes are
read from beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..vocabulary.kept import Ids

_GRAPH, _INITIALIZER = 7, 5  # of ModelProto, of GraphProto
_DTYPE, _NAME, _RAW, _EXTERNAL = 2, 8, 9, 13  # of TensorProto
_INT64 = 7
_LARGEST = 1 << 31  # bytes that protobuf itself allows a message


def int64_initializer(model: Path, name: str) -> Ids:
    """(n,) the initializer of that name. Raises ValueError where there is none of int64, OSError for missing files."""
    if model.stat().st_size > _LARGEST:
        raise ValueError("a model that keeps its weights inside")
    content = memoryview(model.read_bytes())
    for graph in _messages(content, _GRAPH):
        for tensor in _messages(graph, _INITIALIZER):
            if [bytes(found) for found in _messages(tensor, _NAME)] == [name.encode()]:
                return _values(tensor, model.parent)
    raise ValueError(f"no initializer {name}")


def _values(tensor: memoryview, folder: Path) -> Ids:
    if [number for field, number in _fields(tensor) if field == _DTYPE] != [_INT64]:
        raise ValueError("an initializer of another type than int64")
    entries = [dict(_fields(entry)) for entry in _messages(tensor, _EXTERNAL)]
    told = {_text(entry.get(1)): _text(entry.get(2)) for entry in entries}
    if not told:
        [held] = _messages(tensor, _RAW)
        return np.frombuffer(held, "<i8").astype(np.int64)
    if Path(told["location"]).name != told["location"]:
        raise ValueError("weights outside the folder")
    with (folder / told["location"]).open("rb") as file:
        file.seek(int(told.get("offset", "0")))
        return np.frombuffer(file.read(int(told["length"])), "<i8").astype(np.int64)


def _text(value: object) -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else ""


def _messages(content: memoryview, field: int) -> Iterator[memoryview]:
    for number, value in _fields(content):
        if number == field and isinstance(value, memoryview):
            yield value


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field: a whole number, or the bytes of a message, text or packed list."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(content, place)
            yield key >> 3, value
        elif kind in {1, 2, 5}:
            size, place = _varint(content, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            if place + size > len(content):
                raise ValueError("cut short")
            yield key >> 3, content[place : place + size]
            place += size
        else:
            raise ValueError("no protobuf")


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(content) and shift < 64:
        byte = content[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place
    raise ValueError("cut short")
