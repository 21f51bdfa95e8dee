"""Where what can be made again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """VOCABTRIM_CACHE, or vocabtrim's folder in the user's cache."""
    if told := os.environ.get("VOCABTRIM_CACHE"):
        return Path(told)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vocabtrim"
