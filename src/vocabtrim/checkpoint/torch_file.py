"""The torch container (`.bin`, `.pt`): where each tensor lies, without running its pickle's code or loading it.

Only torch itself reads the pickle, restricted to weights, and under fake tensors, which yields shapes and file
offsets and no data. See "Serialization semantics" in the PyTorch notes for `_checkpoint_offset`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ..errors import CheckpointError
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
    _prove_plain_zip(path)
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode():
            loaded = torch.load(path, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ... for bad files
        # torch's own advice here is to load the file carelessly: only the name of what it refused is passed on.
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        reason = str(error).strip().partition("\n")[0].partition(". ")[0] or type(error).__name__
        raise CheckpointError(
            f"{path} holds more than tensors, and reading that could run code" if forbidden else f"{path} is broken",
            expected="a torch checkpoint of tensors only",
            found=forbidden[1] if forbidden else reason,
            remedy="do not trust it, and ask its author for safetensors; nothing of it was run",
        ) from error
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


def _prove_plain_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise CheckpointError(
            f"{path} is not a torch checkpoint of torch 1.6 or later ({path.stat().st_size:,} bytes)",
            expected="a complete zip archive",
            found=error,
            remedy="fetch it again, or have its author save it as safetensors",
        ) from error
    if compressed:
        raise CheckpointError(
            f"{path} is compressed",
            expected="stored entries, as torch writes them",
            found=compressed[0],
            remedy="load and save it with torch",
        )
