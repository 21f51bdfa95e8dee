"""A weight from its place in a file to a tensor to compute with.

Knows stored tensors and dtypes; knows nothing of models.
"""

from __future__ import annotations

import numpy as np
import torch

from ..checkpoint.stored import StoredTensor
from ..errors import UnsupportedError

# Weights that layers compute with, as safetensors calls them.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_weight(stored: StoredTensor) -> torch.Tensor:
    """Raises UnsupportedError for dtypes that no layer computes with."""
    if stored.dtype not in FLOATS:
        raise UnsupportedError(
            f"tensor {stored.name} of {stored.path} is quantized",
            expected=" or ".join(FLOATS),
            found=stored.dtype,
            remedy="use the unquantized model",
        )
    data = np.fromfile(stored.path, np.uint8, stored.nbytes, offset=stored.offset)
    return torch.from_numpy(data).view(FLOATS[stored.dtype]).reshape(stored.shape)
