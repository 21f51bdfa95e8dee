"""The torch container (`.bin`, `.pt`): where each tensor lies, without running its pickle's code or loading it.

Only torch itself reads the pickle, restricted to weights, and under fake tensors, which yields shapes and file
offsets and no data. See "Serialization semantics" in the PyTorch notes for `_checkpoint_offset`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import CheckpointError, InputError
from ..vocabulary.containers import load_torch
from .stored import StoredTensor

_DTYPES = {
    **{"bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64"},
    **{"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64", "complex64": "C64"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"},
}


def read_torch(path: Path) -> list[StoredTensor]:
    """The tensors of a torch checkpoint, in the pickle's order.

    Raises CheckpointError for a pickle that holds more than weights (it is never run), a truncated file, the format
    from before torch 1.6, a compressed archive, and tensors that are not contiguous.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode():
            loaded = load_torch(path, mmap=False)
    except InputError as error:
        raise CheckpointError(error.what, expected=error.expected, found=error.found, remedy=error.remedy) from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{path} holds no state dict",
            expected="names mapped to tensors",
            found=type(loaded).__name__,
            remedy="save `model.state_dict()` with safetensors",
        )
    size = path.stat().st_size
    return [_stored(name, value, path, size) for name, value in loaded.items()]


def _stored(name: object, value: object, path: Path, size: int) -> StoredTensor:
    import torch

    dtype = _DTYPES.get(str(value.dtype).removeprefix("torch.")) if isinstance(value, torch.Tensor) else None
    if not isinstance(name, str) or not isinstance(value, torch.Tensor) or dtype is None or not value.is_contiguous():
        raise CheckpointError(
            f"entry {name!r} of {path} is no plain weight",
            expected="a contiguous tensor of a dtype that safetensors has",
            found=f"{type(value).__name__} {getattr(value, 'dtype', '')}",
            remedy="save a flat state dict of contiguous tensors",
        )
    storage_offset = value.untyped_storage()._checkpoint_offset
    assert storage_offset is not None  # set by every load under fake tensors
    offset = int(storage_offset + value.storage_offset() * value.element_size())
    tensor = StoredTensor(name, dtype, tuple(value.shape), path, offset)
    if offset + tensor.nbytes > size:
        raise CheckpointError(
            f"tensor {name} of {path} reaches beyond the file",
            expected=f"at most {size:,} bytes",
            found=f"{offset + tensor.nbytes:,}",
            remedy="the file is truncated: fetch it again",
        )
    return tensor
