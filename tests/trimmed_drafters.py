"""Small drafters, trimmed, with the target they draft for: what exports start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drafters import DRAFTERS, some_ids, target
from vocabtrim.checkpoint.costs import available_ids
from vocabtrim.checkpoint.trim import trim
from vocabtrim.testbed.shapes import TINY

EAGLE3, EAGLE, DEEPSEEK = "EAGLE-3, trimmed head", "EAGLE", "MTP, DeepSeek"


def trimmed(place: Path, name: str, size: int = 100) -> tuple[Path, Path]:
    """(drafter cut to `size` ids and the stop id, its target), of the kinds in `DRAFTERS`."""
    drafter = DRAFTERS[name](place / "full")
    owner = drafter if name.startswith("MTP") else target(place / "target")
    available = available_ids(drafter, owner)
    kept = some_ids(np.arange(TINY.vocab) if available is None else available, size)
    return trim(drafter, kept, target=owner, out=place / "trimmed").out, owner
