"""Write planned tensors into safetensors files as a stream, and prove afterwards that the files hold what was planned.

Knows sources, rows and bytes; knows nothing of drafters.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..vocabulary.kept import Ids
from .safetensors_file import in_file_order, read_header, write_header
from .stored import DTYPE_BITS, StoredTensor, nonfinite_element, write_all


@dataclass(frozen=True, eq=False)
class PlannedTensor:
    """A tensor to be written: a copy of `source`, only its `rows` (n,) in their order, or the bytes in `data`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: StoredTensor | None = None
    rows: Ids | None = None
    data: bytes | None = None

    @classmethod
    def copy(cls, source: StoredTensor, name: str | None = None) -> PlannedTensor:
        return cls(name or source.name, source.dtype, source.shape, source)

    @classmethod
    def take(cls, source: StoredTensor, rows: Ids, name: str) -> PlannedTensor:
        return cls(name, source.dtype, (rows.size, *source.shape[1:]), source, rows)

    @property
    def nbytes(self) -> int:
        return StoredTensor(self.name, self.dtype, self.shape, Path(), 0).nbytes


@dataclass(frozen=True, eq=False)
class PlannedFile:
    """One safetensors file to be written."""

    name: str
    tensors: tuple[PlannedTensor, ...]


def write_files(folder: Path, files: Sequence[PlannedFile]) -> None:
    """Write every planned file into `folder`, with an index beside them where there is more than one."""
    for file in files:
        _write_file(folder / file.name, file.tensors)
    if len(files) > 1:
        weight_map = {tensor.name: file.name for file in files for tensor in file.tensors}
        total = sum(tensor.nbytes for file in files for tensor in file.tensors)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(path: Path, tensors: Sequence[PlannedTensor]) -> None:
    planned = {tensor.name: tensor for tensor in tensors}
    layout = {name: (tensor.dtype, tensor.shape) for name, tensor in planned.items()}
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        write_header(out, layout, {"format": "pt"})
        for name in in_file_order(layout):
            _write_tensor(out, planned[name])
    finally:
        os.close(out)


def _write_tensor(out: int, tensor: PlannedTensor) -> None:
    if tensor.source is None:
        write_all(out, tensor.data or b"")
    elif tensor.rows is None:
        tensor.source.copy_to(out)
    else:
        for block in tensor.source.blocks(tensor.rows):
            write_all(out, block)


def prove_files(folder: Path, files: Sequence[PlannedFile]) -> dict[str, str]:
    """Open the written files afresh and compare every tensor, bit for bit, with what it was planned from.

    Returns name -> hex SHA-256 of the bytes of every tensor that was cut by rows.
    Raises CheckpointError at the first difference, and for a head row that holds NaN or infinity: such a row would
    win or poison every draft.
    """
    pairs = []
    for file in files:
        written = {tensor.name: tensor for tensor in read_header(folder / file.name)[0]}
        if written.keys() != {tensor.name for tensor in file.tensors}:
            raise _differs(file.name, folder)
        pairs += [(tensor, written[tensor.name]) for tensor in file.tensors]
    pairs.sort(key=lambda pair: -pair[0].nbytes)  # the large ones first, so that both threads end together
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        digests = pool.map(lambda pair: _prove_tensor(*pair), pairs)
        return {planned.name: digest for (planned, _), digest in zip(pairs, digests, strict=True) if digest}


def _prove_tensor(planned: PlannedTensor, written: StoredTensor) -> str | None:
    if (written.dtype, written.shape) != (planned.dtype, planned.shape):
        raise _differs(planned.name, written.path)
    if planned.source is None:
        if written.read() != planned.data:
            raise _differs(planned.name, written.path)
        return None
    digest = hashlib.sha256()
    rows_done = 0
    for expected, found in zip_longest(
        planned.source.blocks(planned.rows), written.blocks(), fillvalue=memoryview(b"")
    ):
        if len(expected) != len(found) or not np.array_equal(_words(expected), _words(found)):
            raise _differs(planned.name, written.path)
        if planned.rows is not None:
            _prove_finite(planned, expected, rows_done)
            rows_done += len(expected) // written.row_bytes
            digest.update(expected)
    return digest.hexdigest() if planned.rows is not None else None


def _prove_finite(planned: PlannedTensor, block: memoryview, rows_done: int) -> None:
    position = nonfinite_element(block, planned.dtype)
    if position is None or planned.source is None or planned.rows is None:
        return
    row = rows_done + position * DTYPE_BITS[planned.dtype] // 8 // planned.source.row_bytes
    raise CheckpointError(
        f"row {planned.rows[row]} of {planned.source.name} in {planned.source.path} holds NaN or infinity",
        expected="finite weights",
        remedy="the head is damaged: fetch it again, or leave that id out",
    )


def _words(block: memoryview) -> np.ndarray[Any, np.dtype[Any]]:
    """The block as wide integers where it divides into them: numpy compares those eight times faster than bytes."""
    return np.frombuffer(block, np.uint64 if len(block) % 8 == 0 else np.uint8)


def _differs(name: str, where: Path) -> CheckpointError:
    return CheckpointError(
        f"{name} was not written as planned in {where}",
        expected="the source's bytes",
        found="others",
        remedy="the disk or the memory is failing, or a source changed meanwhile: try again",
    )
