"""One small drafter of every kind and container, for the tests of what reads, cuts and checks them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

TARGET_SEED = 1

DRAFTERS: dict[str, Callable[[Path], Path]] = {
    "independent": lambda out: shapes.write_independent(out, TINY, seed=2),
    "independent, sharded, head bias": lambda out: shapes.write_independent(
        out, TINY, seed=2, head_bias=True, shards=3
    ),
    "independent, tied": lambda out: shapes.write_independent(out, _tied(), seed=2),
    "independent, tied, sharded": lambda out: shapes.write_independent(out, _tied(), seed=2, shards=2),
    "EAGLE": lambda out: shapes.write_eagle(out, TINY, seed=3),
    "EAGLE, .bin, no embedding": lambda out: shapes.write_eagle(out, TINY, seed=3, embed=False, container="bin"),
    "EAGLE, no fc bias": lambda out: shapes.write_eagle(out, TINY, seed=3, fc_bias=False),
    "EAGLE-3, full head": lambda out: shapes.write_eagle3(out, TINY, seed=4, draft_vocab=TINY.vocab, maps=False),
    "EAGLE-3, full head, zero map": lambda out: shapes.write_eagle3(
        out, TINY, seed=4, draft_vocab=TINY.vocab, maps="zero"
    ),
    "EAGLE-3, trimmed head": lambda out: shapes.write_eagle3(out, TINY, seed=4, draft_vocab=300),
    "EAGLE-3, trimmed head, .bin, layers.0": lambda out: shapes.write_eagle3(
        out, TINY, seed=4, draft_vocab=300, container="bin", block="layers.0"
    ),
    "Medusa, .pt": lambda out: shapes.write_medusa(out, TINY, seed=5),
    "Medusa, .safetensors, two layers": lambda out: shapes.write_medusa(
        out, TINY, seed=5, heads=3, layers=2, container="safetensors"
    ),
    "Medusa, merged": lambda out: shapes.write_medusa(out, TINY, seed=5, merged=True, container="safetensors"),
    "MTP, DeepSeek": lambda out: shapes.write_mtp(out, TINY, seed=TARGET_SEED, family="deepseek"),
    "MTP, Qwen3-Next": lambda out: shapes.write_mtp(out, TINY, seed=TARGET_SEED, family="qwen3-next"),
    "MTP, MiMo": lambda out: shapes.write_mtp(out, TINY, seed=TARGET_SEED, family="mimo"),
}


def _tied() -> shapes.ModelShape:
    from dataclasses import replace

    return replace(TINY, tie=True)


def target(out: Path) -> Path:
    """The target of all of them."""
    return shapes.write_target(out, TINY, seed=TARGET_SEED)


def some_ids(pool: np.ndarray, size: int, seed: int = 0) -> KeptVocabulary:
    """A kept vocabulary of `size` ids drawn from `pool`, the stop id among them."""
    drawn = np.random.default_rng(seed).choice(pool, size, replace=False)
    return KeptVocabulary(np.unique(np.append(drawn, TINY.eos[0])).astype(np.int64), TINY.vocab)
