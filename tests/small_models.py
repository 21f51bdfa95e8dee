"""A small target and a drafter of every kind for it, full and trimmed, as folders and opened for decoding.

Random weights never agree by themselves. A drafter is sometimes right where the vocabulary is a handful of ids, or
where it is the target itself with noise on its weights (`noisy`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import vocabtrim as vt
from vocabtrim.decoding.drafters.plans import Plan
from vocabtrim.decoding.drafters.protocol import Drafter
from vocabtrim.decoding.target import Target
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY, ModelShape
from vocabtrim.vocabulary.kept import KeptVocabulary

TARGET_SEED = 1

KINDS: dict[str, Callable[[Path, ModelShape], Path]] = {
    "independent": lambda out, shape: shapes.write_independent(out, shape, seed=2),
    "independent, tied": lambda out, shape: shapes.write_independent(out, replace(shape, tie=True), seed=2),
    "EAGLE": lambda out, shape: shapes.write_eagle(out, shape, seed=3),
    "EAGLE-3": lambda out, shape: shapes.write_eagle3(out, shape, seed=4, draft_vocab=shape.head_rows, maps=False),
    "Medusa": lambda out, shape: shapes.write_medusa(out, shape, seed=5, heads=3),
}


def shape(vocab: int) -> ModelShape:
    """TINY with four layers, of which EAGLE-3 can read three, and that many ids."""
    return replace(TINY, layers=4, vocab=vocab, head_rows=vocab, bos=1, eos=(2,), dtype="float32")


def write_target(out: Path, of: ModelShape) -> Path:
    return shapes.write_target(out, of, seed=TARGET_SEED)


def write_drafter(out: Path, kind: str, of: ModelShape) -> Path:
    return KINDS[kind](out, of)


def trim(drafter: Path, target: Path, ids: Sequence[int], vocab: int, out: Path) -> Path:
    """The drafter cut to `ids`, by the tool's own trim."""
    kept = KeptVocabulary(np.unique(np.asarray(ids, np.int64)), vocab)
    return vt.trim(drafter, kept, target=target, out=out).out


def open_both(
    target: Path, drafter: Path, *, dtype: str = "float32", plan: Plan | None = None
) -> tuple[Target, Drafter]:
    opened = vt.load_target(target, dtype=dtype)
    return opened, vt.load_drafter(drafter, opened, plan=plan)


@torch.no_grad()
def noisy(model: torch.nn.Module, scale: float, seed: int = 0) -> None:
    """Add noise to every matrix, relative to its own spread: a drafter that is right now and then."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.add_((scale * parameter.std() * noise).to(parameter.dtype))
