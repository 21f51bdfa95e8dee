"""The safetensors container: where each tensor lies, and writing one as a stream.

The format's own library judges whether a file is sound; this file only adds the byte offsets that the library does
not tell, which is what lets a trim copy ranges instead of loading tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from .stored import DTYPE_BITS, StoredTensor, write_all


def read_header(path: Path) -> tuple[list[StoredTensor], dict[str, str]]:
    """The tensors of a safetensors file, in file order, and its metadata.

    Raises CheckpointError when the library refuses the file (truncated, header beyond the file or over 100 MB,
    overlapping offsets, shapes that do not fill their bytes) or a dtype is not byte-sized.
    """
    try:
        with path.open("rb") as raw:  # first: the library calls a file that may not be read missing
            with safe_open(path, framework="np") as file:
                metadata = dict(file.metadata() or {})
            length = int.from_bytes(raw.read(8), "little")
            header: dict[str, Any] = json.loads(raw.read(length))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a sound safetensors file ({path.stat().st_size:,} bytes)",
            expected="a complete file of the safetensors format",
            found=error,
            remedy="fetch or write the file again",
        ) from error
    header.pop("__metadata__", None)
    tensors = []
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in DTYPE_BITS:
            raise CheckpointError(
                f"tensor {name} of {path} has a dtype that vocabtrim does not know",
                expected=f"one of {', '.join(DTYPE_BITS)}",
                found=entry["dtype"],
                remedy="convert it to a byte-sized dtype",
            )
        start = 8 + length + entry["data_offsets"][0]
        tensors.append(StoredTensor(name, entry["dtype"], tuple(entry["shape"]), path, start))
    return tensors, metadata


def in_file_order(tensors: Mapping[str, tuple[str, Sequence[int]]]) -> list[str]:
    """Names in the order they are laid out: widest dtype first, so that every tensor is aligned; then by name."""
    return sorted(tensors, key=lambda name: (-DTYPE_BITS[tensors[name][0]], name))


def write_header(out: int, tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str]) -> None:
    """Write length and header for `tensors` (name -> dtype, shape) to `out`; their bytes follow `in_file_order`."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name in in_file_order(tensors):
        dtype, shape = tensors[name]
        nbytes = StoredTensor(name, dtype, tuple(shape), Path(), 0).nbytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins on an 8-byte boundary
    write_all(out, len(text).to_bytes(8, "little") + text)
