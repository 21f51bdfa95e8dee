"""A drafter's folder as several engines load it: tensors under an engine's names, flat config, tokenizer beside them.

Which names, which config entries and what is refused is each engine's; here is what they share. The kept file stays
out of such folders, since engines load every safetensors file they find: an export's manifest takes its place.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoint.head_ids import KEPT_FILE
from ..checkpoint.read import NESTED, WEIGHT_SUFFIXES, open_checkpoint
from ..checkpoint.trim import cut, planned_maps
from ..checkpoint.tuned import TUNED_FILE
from ..checkpoint.write import PlannedFile, PlannedTensor, prove_files, write_files
from ..errors import UnsupportedError
from ..vocabulary.kept import Ids
from .source import Source

_BLOCK = re.compile(r"^(?:model\.)?(?:midlayer|layers\.(\d+))\.")
_OURS = ("vocabtrim", "auto_map", "transformers_version")  # of the folder that was read; none of them is true here
_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE")
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def blocks_as(pattern: str) -> Callable[[str], str]:
    """Names with each decoder block under `pattern`, in which {} is its number: "midlayer.", "layers.{}."."""

    def renamed(name: str) -> str:
        found = _BLOCK.match(name)
        if found is None:
            return name.removeprefix("model.")
        return pattern.format(found[1] or 0) + name[found.end() :]

    return renamed


def body_tensors(source: Source, rename: Callable[[str], str] = str) -> list[PlannedTensor]:
    """The body unchanged, under new names."""
    tensors = source.drafter.checkpoint.tensors
    return [PlannedTensor.copy(tensors[name], rename(name)) for name in source.drafter.body]


def head_tensors(source: Source, rows: Ids | None = None) -> list[PlannedTensor]:
    """The heads with their rows in ascending order of ids, whatever order the drafter has them in; or those rows."""
    taken = source.rows if rows is None else rows
    return [tensor for head in source.drafter.heads for tensor in cut(head, taken)]


def eagle3_tensors(source: Source, rename: Callable[[str], str]) -> list[PlannedTensor]:
    """All of an EAGLE-3 drafter: body, `lm_head`, `d2t` as offsets, `t2d` as wide as the target's head."""
    return [*body_tensors(source, rename), *head_tensors(source), *planned_maps(source.kept, source.width)]


def refuse_layers(source: Source, engine: str) -> None:
    """Raise UnsupportedError for a drafter of several decoder layers, where the engine has one."""
    blocks = {found[0] for name in source.drafter.body if (found := _BLOCK.match(name))}
    if len(blocks) > 1:
        raise UnsupportedError(
            f"{engine} drafts with one decoder layer, and {source.folder} has several",
            expected="one",
            found=", ".join(sorted(blocks)),
            remedy="serve the drafter with vLLM or SGLang",
        )


def refuse_unread(tensors: Sequence[PlannedTensor], read: str, engine: str, where: str) -> None:
    """Raise UnsupportedError for the first tensor that the engine would leave unread, silently.

    read: a pattern of all names that it reads. where: its file that says so.
    """
    for tensor in tensors:
        if tensor.name not in {"d2t", "t2d"} and not re.fullmatch(read, tensor.name):
            raise UnsupportedError(
                f"{engine} has no place for {tensor.name} and would draft without it, silently ({where})",
                expected=f"the tensors of {engine}'s own class",
                found=f"{tensor.name} {list(tensor.shape)}",
                remedy="serve the drafter with the engine that it was made for",
            )


def flat_config(source: Source) -> dict[str, Any]:
    """The drafter's config on one level: nested layer configs come up, under what stands at the top already.

    Rotary positions are told both as transformers 5 and as older readers take them; the dtype is the weights' own.
    """
    given = source.drafter.checkpoint.config
    below = {key: value for name in NESTED if isinstance(given.get(name), dict) for key, value in given[name].items()}
    above = {key: value for key, value in given.items() if key not in {*NESTED, *_OURS} and value is not None}
    config = {**below, **{key: value for key, value in above.items() if not key.startswith("speculators_")}}
    rope = config.get("rope_parameters")
    if isinstance(rope, dict):
        config.setdefault("rope_theta", rope.get("rope_theta", 10_000.0))
        if rope.get("rope_type", "default") != "default":
            config.setdefault("rope_scaling", {key: value for key, value in rope.items() if key != "rope_theta"})
    dtype = _DTYPES.get(source.drafter.heads[0].main.dtype)
    said = config.get("torch_dtype") or config.get("dtype") or dtype
    vocabulary = {"vocab_size": source.width, "draft_vocab_size": source.kept.size, "tie_word_embeddings": False}
    return config | vocabulary | ({} if said is None else {"torch_dtype": said})


def write_folder(
    folder: Path,
    source: Source,
    tensors: Sequence[PlannedTensor],
    config: Mapping[str, Any],
    *,
    tokenizer: bool = True,
) -> None:
    """Write one safetensors file, prove it against its sources bit for bit, and put config and companions beside it.

    tokenizer: whether all companions are; else only the licence.
    """
    files = (PlannedFile("model.safetensors", tuple(tensors)),)
    write_files(folder, files)
    prove_files(folder, files)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if tokenizer:
        copy_companions(folder, source)
        return
    for name in _LICENCES:
        if (source.folder / name).is_file():
            shutil.copyfile(source.folder / name, folder / name)


def copy_companions(folder: Path, source: Source) -> None:
    """Tokenizer and licence of the drafter: every small file that is neither weights nor config nor a map. Not the
    card, which speaks of the trimmed folder.
    """
    ours = {"config.json", "README.md", KEPT_FILE, TUNED_FILE, *(path.name for path in source.drafter.checkpoint.files)}
    for path in sorted(source.folder.iterdir()):
        weights = path.suffix in {*WEIGHT_SUFFIXES, ".npy", ".sha256"} or path.name.endswith(".index.json")
        if path.is_file() and not path.name.startswith(".") and path.name not in ours and not weights:
            shutil.copyfile(path, folder / path.name)


def ids_by_offsets(folder: Path) -> Ids:
    """(kept,), row i stands for i + d2t[i]: how every engine reads an EAGLE-3 folder."""
    offsets = open_checkpoint(folder).tensor("d2t").array()
    return np.asarray(offsets.reshape(-1) + np.arange(offsets.size), np.int64)
