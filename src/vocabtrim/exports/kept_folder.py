"""What vLLM's folders share beyond `drafter_folder.py`: the map alone, the embedding, a config that stays nested."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.layouts import with_prefix
from ..checkpoint.read import NESTED, open_checkpoint
from ..checkpoint.stored import StoredTensor
from ..checkpoint.trim import planned_maps
from ..checkpoint.write import PlannedTensor
from ..errors import UnsupportedError
from ..vocabulary.dialects import read_map
from ..vocabulary.kept import Ids
from .source import Source


def offsets(source: Source) -> PlannedTensor:
    """The map beside them: `d2t`, int64 (kept,)."""
    return planned_maps(source.kept, source.width)[0]


def embedding(source: Source) -> StoredTensor:
    """The input embedding of an independent drafter. Raises UnsupportedError for one that is no plain matrix."""
    prefix = source.drafter.embeddings[0]
    found = with_prefix(source.drafter.checkpoint.tensors, prefix)
    if set(found) != {"weight"}:
        raise UnsupportedError(
            f"the embedding of {source.folder} is quantized",
            expected=f"{prefix}.weight alone",
            found=", ".join(sorted(found)),
            remedy="export the drafter with an unquantized embedding",
        )
    return found["weight"]


def config_of(source: Source, top: Mapping[str, Any], language_model: Mapping[str, Any]) -> dict[str, Any]:
    """The drafter's config with entries of ours. language_model: goes where vocab_size stands, nested or not."""
    config = {**source.drafter.checkpoint.config, **top}
    config.pop("vocabtrim", None)  # tells hashes of the folder it was written in
    holder = None if "vocab_size" in config else next((n for n in NESTED if "vocab_size" in config.get(n, {})), None)
    if holder is None:
        return config | dict(language_model)
    return config | {holder: config[holder] | dict(language_model)}


def read_kept(folder: Path) -> Ids:
    """The ids of such a folder's rows: by its map, or all where the head is as wide as the vocabulary."""
    checkpoint = open_checkpoint(folder)
    if "d2t" not in checkpoint.tensors:
        return np.arange(int(checkpoint.setting("draft_vocab_size")))
    return read_map(folder, "d2t", checkpoint.setting("vocab_size")).ids
