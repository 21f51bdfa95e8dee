"""A folder that holds a drafter's body, its kept rows in ascending order, and nothing else that a loader takes for
weights: vLLM reads every `*.safetensors` of a folder, `kept.safetensors` too.

Knows stored tensors; knows no engine's config.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.layouts import with_prefix
from ..checkpoint.read import NESTED, open_checkpoint
from ..checkpoint.stored import StoredTensor
from ..checkpoint.trim import cut
from ..checkpoint.write import PlannedFile, PlannedTensor, prove_files, write_files
from ..errors import UnsupportedError
from ..vocabulary.dialects import maps_of, read_map
from ..vocabulary.kept import Ids
from .source import Source

_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")


def body(source: Source) -> list[PlannedTensor]:
    """Every tensor but the heads and the maps, as it is."""
    tensors = source.drafter.checkpoint.tensors
    return [PlannedTensor.copy(tensors[name]) for name in source.drafter.body]


def heads(source: Source, rows: Ids | None = None) -> list[PlannedTensor]:
    """Every head, its rows in the order of the kept ids, or those rows."""
    taken = source.rows if rows is None else rows
    return [tensor for head in source.drafter.heads for tensor in cut(head, taken)]


def offsets(source: Source) -> PlannedTensor:
    """The map beside them: `d2t`, int64 (kept,)."""
    data = maps_of(source.kept.ids, source.width)["d2t"].astype("<i8").tobytes()
    return PlannedTensor("d2t", "I64", (source.kept.size,), data=data)


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


def write_folder(source: Source, folder: Path, tensors: Sequence[PlannedTensor], config: Mapping[str, Any]) -> None:
    """One weight file, proven against what it was planned from, config.json, and the licence."""
    files = [PlannedFile("model.safetensors", tuple(tensors))]
    write_files(folder, files)
    prove_files(folder, files)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for licence in _licences(source.folder):
        shutil.copyfile(licence, folder / licence.name)


def read_kept(folder: Path) -> Ids:
    """The ids of such a folder's rows: by its map, or all where the head is as wide as the vocabulary."""
    checkpoint = open_checkpoint(folder)
    if "d2t" not in checkpoint.tensors:
        return np.arange(checkpoint.tensor("lm_head.weight").rows)
    return read_map(folder, "d2t", checkpoint.setting("vocab_size")).ids


def _licences(folder: Path) -> Iterator[Path]:
    return (folder / name for name in _LICENCES if (folder / name).is_file())
