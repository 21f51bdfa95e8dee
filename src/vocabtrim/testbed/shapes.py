"""Drafter and target folders in the published layouts, with random weights, at any size.

    python -m vocabtrim.testbed.shapes llama-3.1-8b-eagle OUT
    python -m vocabtrim.testbed.shapes llama-3.1-8b OUT TOKENIZER_FOLDER

Every folder is what its publisher's looks like from outside: file names, config.json, tensor names, dtypes. The same
seed writes the same bytes. Knows layouts; knows nothing of reading or trimming them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..provenance import atomic_directory
from . import mtp
from . import tensors as layout
from .sizes import LLAMA_3_1_8B, LLAMA_3_2_1B, LLAMA_3_2_3B, QWEN2_5_7B, TINY, ModelShape
from .weights import Source, Tensor, write_safetensors, write_sharded, write_torch

__all__ = ["LLAMA_3_1_8B", "LLAMA_3_2_1B", "LLAMA_3_2_3B", "QWEN2_5_7B", "TINY", "ModelShape"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def write_target(
    out: Path, shape: ModelShape, *, seed: int, tokenizer: Path | None = None, sparse: bool = False, shards: int = 1
) -> Path:
    """A Hugging Face causal LM folder.

    tokenizer: a folder whose tokenizer files are copied. sparse: headers are real and the embedding and the head are
    random, the other tensors are holes: a 16 GB target costs 2 GB of disk, but generates nothing of sense.
    """
    _write_whole(out, shape, layout.causal_lm(shape, sparse=sparse), seed=seed, tokenizer=tokenizer, shards=shards)
    return out


def write_independent(
    out: Path, shape: ModelShape, *, seed: int, tokenizer: Path | None = None, head_bias: bool = False, shards: int = 1
) -> Path:
    """An independent drafter: a causal LM of its own, tied where the shape says so; head_bias adds `lm_head.bias`."""
    tensors = layout.causal_lm(shape, head_bias=head_bias)
    _write_whole(out, shape, tensors, seed=seed, tokenizer=tokenizer, shards=shards)
    return out


def write_eagle(
    out: Path,
    target_shape: ModelShape,
    *,
    seed: int,
    embed: bool = True,
    fc_bias: bool = True,
    container: Literal["safetensors", "bin"] = "safetensors",
) -> Path:
    """An EAGLE-1/2 drafter as SafeAILab publishes it: no head; the config says `bias` only where fc has none."""
    config = _drafter_config(target_shape) | ({} if fc_bias else {"bias": False})
    with atomic_directory(out) as folder:
        _write_model(folder, layout.eagle(target_shape, embed=embed, fc_bias=fc_bias), seed, container)
        _write_config(folder, config)
    return out


def write_eagle3(
    out: Path,
    target_shape: ModelShape,
    *,
    seed: int,
    draft_vocab: int,
    kept_ids: npt.NDArray[np.int64] | None = None,
    container: Literal["safetensors", "bin"] = "safetensors",
    block: Literal["midlayer", "layers.0"] = "midlayer",
    maps: bool | Literal["zero"] = True,
    embed: bool = False,
) -> Path:
    """An EAGLE-3 drafter with a head of `draft_vocab` rows.

    kept_ids: (draft_vocab,) the target id of each head row, in any order; drawn from the seed, ascending and with
    the stop ids, where none are given. maps: both `d2t` and `t2d`, neither, or "zero": a `d2t` left at zero, alone.
    """
    ids = draw_ids(target_shape, draft_vocab, seed) if kept_ids is None else np.asarray(kept_ids, np.int64)
    tensors = layout.eagle3(target_shape, draft_vocab=draft_vocab, block=block, embed=embed)
    if maps == "zero":
        tensors.append(Tensor("d2t", (draft_vocab,), "int64", np.zeros(draft_vocab, np.int64)))
    elif maps:
        tensors += layout.maps(ids, target_shape.head_rows)
    config = _drafter_config(target_shape) | {"draft_vocab_size": draft_vocab}
    if block == "layers.0":
        config["architectures"] = ["LlamaForCausalLMEagle3"]
    with atomic_directory(out) as folder:
        _write_model(folder, tensors, seed, container)
        _write_config(folder, config)
    return out


def write_medusa(
    out: Path,
    target_shape: ModelShape,
    *,
    seed: int,
    heads: int = 5,
    layers: int = 1,
    container: Literal["pt", "safetensors"] = "pt",
    merged: bool = False,
) -> Path:
    """Medusa heads. The published config says two heads whatever the file holds; so does this one.

    merged: the later form, one checkpoint that holds the base model and the heads under `medusa_head.`.
    """
    about = {"medusa_num_heads": 2, "medusa_num_layers": layers, "base_model_name_or_path": target_shape.name}
    tensors = layout.medusa(target_shape, heads=heads, layers=layers, prefix="medusa_head." if merged else "")
    with atomic_directory(out) as folder:
        if merged:
            _write_model(folder, layout.causal_lm(target_shape) + tensors, seed, container)
            _write_config(folder, target_shape.config() | about | {"medusa_num_heads": heads})
        else:
            _write_file(folder, "medusa_lm_head", tensors, seed, container)
            _write_config(folder, about)
    return out


def write_mtp(
    out: Path,
    target_shape: ModelShape,
    *,
    seed: int,
    family: Literal["deepseek", "qwen3-next", "mimo"] = "deepseek",
    tokenizer: Path | None = None,
    shards: int = 1,
) -> Path:
    """A whole target checkpoint of the family at the given size, its prediction block inside."""
    tensors, config = mtp.FAMILIES[family](target_shape)
    _write_whole(out, target_shape, tensors, seed=seed, tokenizer=tokenizer, shards=shards, config=config)
    return out


def draw_ids(shape: ModelShape, size: int, seed: int) -> npt.NDArray[np.int64]:
    """`size` ids of the tokenizer, ascending and unique, the stop ids among them: a kept vocabulary of no meaning."""
    stops = np.array(shape.eos[:size], np.int64)
    others = np.setdiff1d(np.arange(shape.vocab), stops)
    drawn = np.random.default_rng(seed).choice(others, size - stops.size, replace=False)
    return np.sort(np.concatenate([stops, drawn]))


def _write_whole(
    out: Path,
    shape: ModelShape,
    tensors: list[Tensor],
    *,
    seed: int,
    tokenizer: Path | None,
    shards: int,
    config: dict[str, Any] | None = None,
) -> None:
    """A folder that generates by itself: weights, config, generation config, tokenizer."""
    with atomic_directory(out) as folder:
        write_sharded(folder, tensors, Source(seed), shards)
        _write_config(folder, config or shape.config())
        stops = {"bos_token_id": shape.bos, "eos_token_id": list(shape.eos), "do_sample": False}
        (folder / "generation_config.json").write_text(json.dumps(stops, indent=2))
        _copy_tokenizer(tokenizer, folder)


def _drafter_config(target_shape: ModelShape) -> dict[str, Any]:
    """What EAGLE configs share: a Llama of one layer at the target's size, never tied, one stop id."""
    return target_shape.config() | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "tie_word_embeddings": False,
        "eos_token_id": target_shape.eos[0],
        "pad_token_id": 0,
        "max_position_embeddings": min(2048, target_shape.max_positions),
        "rope_scaling": None,
    }


def _write_model(folder: Path, tensors: list[Tensor], seed: int, container: str) -> None:
    _write_file(folder, "model" if container == "safetensors" else "pytorch_model", tensors, seed, container)


def _write_file(folder: Path, stem: str, tensors: list[Tensor], seed: int, container: str) -> None:
    write = write_safetensors if container == "safetensors" else write_torch
    suffix = {"safetensors": "safetensors", "bin": "bin", "pt": "bin" if stem == "pytorch_model" else "pt"}[container]
    write(folder / f"{stem}.{suffix}", tensors, Source(seed))


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _copy_tokenizer(tokenizer: Path | None, folder: Path) -> None:
    if tokenizer is None:
        return
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, folder / name)


# The second argument is a folder with tokenizer files, for those that carry one.
REAL: dict[str, Callable[[Path, Path | None], Path]] = {
    "llama-3.1-8b": lambda out, tok: write_target(out, LLAMA_3_1_8B, seed=0, tokenizer=tok, sparse=True, shards=4),
    "llama-3.1-8b-eagle": lambda out, _: write_eagle(out, LLAMA_3_1_8B, seed=0, fc_bias=False),
    "llama-3.1-8b-eagle3": lambda out, _: write_eagle3(out, LLAMA_3_1_8B, seed=0, draft_vocab=32_000),
    "llama-3.1-8b-medusa": lambda out, _: write_medusa(out, LLAMA_3_1_8B, seed=0, container="safetensors"),
    "llama-3.2-1b": lambda out, tok: write_independent(out, LLAMA_3_2_1B, seed=1, tokenizer=tok),
    "llama-3.2-3b": lambda out, tok: write_target(out, LLAMA_3_2_3B, seed=2, tokenizer=tok, sparse=True, shards=2),
    "qwen2.5-7b": lambda out, tok: write_target(out, QWEN2_5_7B, seed=3, tokenizer=tok, sparse=True, shards=4),
    "qwen2.5-7b-eagle": lambda out, _: write_eagle(out, QWEN2_5_7B, seed=3),
}


def main(arguments: list[str]) -> int:
    """Write one of the real shapes; returns the exit code."""
    if len(arguments) not in (2, 3) or arguments[0] not in REAL:
        usage = "usage: python -m vocabtrim.testbed.shapes NAME OUT [TOKENIZER_FOLDER]"
        print(f"{usage}\nNAME: {', '.join(REAL)}", file=sys.stderr)
        return 2
    name, out, *tokenizer = arguments
    print(REAL[name](Path(out), Path(tokenizer[0]) if tokenizer else None))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
