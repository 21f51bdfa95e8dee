"""Folders of random weights made telling: wide enough that a swapped operand or a missing norm moves every logit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Shape = tuple[int, ...]


def widen(folder: Path, config: Mapping[str, Any] | None = None, weights: Mapping[str, Shape] | None = None) -> Path:
    """Draw the weights again, far apart: matrices keep the size of what they read, norms differ by column.

    config: entries to add. weights: modules to add or to give another shape.
    """
    generator = torch.Generator().manual_seed(len(str(config)))
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file) | {f"{name}.weight": torch.empty(shape) for name, shape in (weights or {}).items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = _drawn(name, torch.randn(tensor.shape, generator=generator))
    save_file(tensors, file)
    about = folder / "config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | dict(config or {})))
    return folder


def _drawn(name: str, normal: torch.Tensor) -> torch.Tensor:
    if name.endswith("bias"):
        return 0.5 * normal
    if normal.dim() == 1:
        return 1 + 0.5 * normal
    return normal if "embed_tokens" in name else normal / normal.shape[-1] ** 0.5
