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

from ..errors import CheckpointError
from ..vocabulary.kept import Ids
from .picks import Pick, Rows
from .safetensors_file import in_file_order, read_header, write_header
from .stored import DTYPE_BITS, StoredTensor, first_difference, nonfinite_element, write_all


@dataclass(frozen=True, eq=False)
class PlannedTensor:
    """A tensor to be written: a copy of `source`, only what `pick` keeps of it, or the bytes in `data`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: StoredTensor | None = None
    pick: Pick | None = None
    data: bytes | None = None

    @classmethod
    def copy(cls, source: StoredTensor, name: str | None = None) -> PlannedTensor:
        return cls(name or source.name, source.dtype, source.shape, source)

    @classmethod
    def take(cls, source: StoredTensor, rows: Ids, name: str) -> PlannedTensor:
        return cls.picked(source, Rows(rows), name)

    @classmethod
    def picked(cls, source: StoredTensor, pick: Pick, name: str) -> PlannedTensor:
        return cls(name, source.dtype, pick.shape(source), source, pick)

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
    elif tensor.pick is None:
        tensor.source.copy_to(out)
    else:
        for block in tensor.pick.blocks(tensor.source):
            write_all(out, block)


def prove_files(folder: Path, files: Sequence[PlannedFile]) -> dict[str, str]:
    """Open the written files afresh and compare every tensor, bit for bit, with what it was planned from.

    Returns name -> hex SHA-256 of the bytes of every tensor that was cut.
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
    if planned.pick is None:
        pairs = zip_longest(planned.source.blocks(), written.blocks(), fillvalue=memoryview(b""))
        if any(first_difference(expected, found) is not None for expected, found in pairs):
            raise _differs(planned.name, written.path)
        return None
    if planned.pick.difference(planned.source, written) is not None:
        raise _differs(planned.name, written.path)
    return _digest(planned.source, planned.pick, written)


def _digest(source: StoredTensor, pick: Pick, written: StoredTensor) -> str:
    """Of what was written, which holds numbers alone."""
    digest = hashlib.sha256()
    done = 0
    for block in written.blocks():
        if (position := nonfinite_element(block, written.dtype)) is not None:
            place = pick.ids[pick.position(done + position, source)]
            raise CheckpointError(
                f"{pick.noun} {place} of {source.name} in {source.path} holds NaN or infinity",
                expected="finite weights",
                remedy="the head is damaged: fetch it again, or leave that id out",
            )
        done += len(block) * 8 // DTYPE_BITS[written.dtype]
        digest.update(block)
    return digest.hexdigest()


def _differs(name: str, where: Path) -> CheckpointError:
    return CheckpointError(
        f"{name} was not written as planned in {where}",
        expected="the source's bytes",
        found="others",
        remedy="the disk or the memory is failing, or a source changed meanwhile: try again",
    )
