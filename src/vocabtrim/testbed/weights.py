"""Random weights into safetensors or torch files, of any size, from a seed.

One block of random values is drawn and laid end to end, so that a 5 GB file costs little memory and runs at the
disk's speed. Knows names, dtypes and shapes; knows nothing of what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .sizes import Dtype

# Primes, so that no two rows of a tensor start at the same place of the block: all rows differ. Small models take
# the small one, which is drawn at once.
_BLOCK, _SMALL_BLOCK = 4_194_301, 65_521
_SPREAD = 0.02  # standard deviation of the weights, as models are initialised

_CODES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "int64": "I64", "bool": "BOOL"}
_ITEM = {"bfloat16": 2, "float16": 2, "float32": 4, "int64": 8, "bool": 1}


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor to write.

    fill: "random", "ones" (norms), "hole" (zeros that take no disk), or the values. like: the name of the tensor
    whose random values this one repeats.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype | Literal["int64", "bool"] = "bfloat16"
    fill: Literal["random", "ones", "hole"] | npt.NDArray[Any] = "random"
    like: str | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.size * _ITEM[self.dtype]


class Source:
    """Random values from a seed: the same seed and tensor name give the same values, in whichever file."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._blocks: dict[str, npt.NDArray[Any]] = {}

    def chunks(self, tensor: Tensor) -> Sequence[npt.NDArray[Any]]:
        """The tensor's values in order, as flat arrays that together hold `tensor.size` elements."""
        if isinstance(tensor.fill, np.ndarray):
            return [tensor.fill.reshape(-1)]
        if tensor.fill != "random":
            return [_as_bits(np.full(tensor.size, float(tensor.fill == "ones"), np.float32), tensor.dtype)]
        block = self._block(tensor.dtype, _BLOCK if tensor.size > _SMALL_BLOCK else _SMALL_BLOCK)
        start = (
            int.from_bytes(hashlib.sha256(f"{self.seed} {tensor.like or tensor.name}".encode()).digest()[:6], "big")
            % block.size
        )
        pieces, left = [block[start:][: tensor.size]], tensor.size - (block.size - start)
        while left > 0:
            pieces.append(block[:left])
            left -= block.size
        return pieces

    def _block(self, dtype: str, size: int) -> npt.NDArray[Any]:
        key = f"{dtype} {size}"
        if key not in self._blocks:
            values = np.random.default_rng(self.seed).standard_normal(size, np.float32) * np.float32(_SPREAD)
            self._blocks[key] = _as_bits(values, dtype)
        return self._blocks[key]


def _as_bits(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """Float32 values in the file's dtype; bfloat16 as its upper 16 bits, which numpy has no name for."""
    if dtype == "bfloat16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(dtype)


def write_safetensors(path: Path, tensors: Sequence[Tensor], source: Source) -> None:
    """Write one safetensors file in constant memory: the header, then each tensor in the order given."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        header[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values start on a multiple of eight bytes
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            if isinstance(tensor.fill, str) and tensor.fill == "hole":
                file.seek(tensor.nbytes, 1)
                continue
            for piece in source.chunks(tensor):
                _write_all(file, piece)
        file.truncate(8 + len(text) + end)


def _write_all(file: FileIO, piece: npt.NDArray[Any]) -> None:
    view = memoryview(np.ascontiguousarray(piece).data).cast("B")
    while len(view):
        view = view[file.write(view) :]


def write_sharded(folder: Path, tensors: Sequence[Tensor], source: Source, shards: int) -> None:
    """Write `model.safetensors`, or `shards` files of about equal bytes and their index, under Hugging Face's names."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, source)
        return
    total = sum(tensor.nbytes for tensor in tensors)
    parts: list[list[Tensor]] = [[] for _ in range(shards)]
    begin = 0
    for tensor in tensors:
        parts[begin * shards // total].append(tensor)
        begin += tensor.nbytes
    places = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        write_safetensors(folder / file, part, source)
        places.update({tensor.name: file for tensor in part})
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write_torch(path: Path, tensors: Sequence[Tensor], source: Source) -> None:
    """Write a state dict by `torch.save`. Unlike safetensors, the whole of it is held in memory."""
    import torch

    state = {}
    for tensor in tensors:
        values = torch.from_numpy(np.concatenate(source.chunks(tensor)))
        if tensor.dtype == "bfloat16":
            values = values.view(torch.bfloat16)
        state[tensor.name] = values.reshape(tensor.shape)
    torch.save(state, path)
