"""A trimmed EAGLE-3 drafter as llama.cpp's `eagle3` architecture: its tensors' names, their order of rows, its numbers.

Read from llama.cpp as llama-cpp-python 0.3.36 carries it: src/models/eagle3.cpp, what is loaded and computed, and
conversion/llama.py, which rows of q and k change places. Knows tensors and config entries; writes no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checkpoint.head_ids import head_ids
from ..checkpoint.read import Checkpoint
from ..checkpoint.stored import StoredTensor
from ..decoding.drafters.variants import eagle3_norms, eagle3_states, refuse_variants
from ..errors import MismatchError, UnsupportedError
from ..vocabulary.kept import Ids
from .source import Source

# Model types whose graphs hand their layers' inputs out (`t_layer_inp` in src/models/); with others the engine aborts.
TARGETS = (
    *("llama", "mistral", "mixtral", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5", "qwen3_5_moe", "gpt_oss"),
    *("gemma4", "deepseek_v4", "mimo_v2_flash", "minimax_m2", "nemotron_h", "lfm2", "muse_glimmer"),
)
_BLOCK = {
    "input_layernorm": "attn_norm",  # over the token's embedding
    "hidden_norm": "attn_norm_2",  # over the fused states
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NAMES = {
    "fc": "fc",
    "input_norm": "enc.output_norm",
    "norm": "output_norm",
    "embed_tokens": "token_embd",
    "lm_head": "output",
    **{f"midlayer.{ours}": f"blk.0.{theirs}" for ours, theirs in _BLOCK.items()},
}
_DERIVED = "rotary_emb.inv_freq"  # in some published files beside the weights
_DTYPES: dict[str, npt.DTypeLike] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_SERVE_ELSEWHERE = "serve the trimmed folder with vLLM or SGLang"


@dataclass(frozen=True, eq=False)
class Weights:
    """A tensor by llama.cpp's name. dtype: as safetensors names it; the bytes of BF16 come as uint16."""

    name: str
    dtype: str
    array: npt.NDArray[Any]


@dataclass(frozen=True)
class Numbers:
    """What the engine must know of the drafter's computation. rope: its positions' entry of the config, named."""

    context: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    rope: dict[str, Any]
    vocab: int
    target_layers: tuple[int, ...]
    target_hidden: int
    norm_before_residual: bool
    norm_before_fc: bool


def numbers_of(source: Source, target: Checkpoint) -> Numbers:
    """Read the configs of drafter and target, and prove that llama.cpp computes what they ask for.

    Raises UnsupportedError for what it does not, MismatchError for another target's drafter.
    """
    drafter = source.drafter.checkpoint
    _prove_target(target)
    refuse_variants(drafter, eagle3=True)
    norms = eagle3_norms(drafter)
    if norms.each_state or norms.output:
        raise _not_computed(drafter, "norm_output or fc_norm, EAGLE 3.1's norms", "its graph has neither")
    if (activation := drafter.setting("hidden_act", "silu")) not in {"silu", "swish"}:
        raise _not_computed(drafter, f"hidden_act {activation}", "its graph has SiLU")
    layers, hidden = target.setting("num_hidden_layers"), target.setting("hidden_size")
    states = eagle3_states(drafter, str(target.setting("model_type", "")), layers)
    if len(states) != 3:
        raise _not_computed(drafter, f"{len(states)} hidden states of the target", "it reads three")
    fused, heads = drafter.tensor("fc.weight").shape[-1], drafter.setting("num_attention_heads")
    if fused != 3 * hidden:
        raise MismatchError(
            f"{drafter.folder} does not read the hidden states of {target.folder}",
            expected=f"fc.weight of {3 * hidden} columns",
            found=fused,
            remedy="pass the target that the drafter was made for",
        )
    own_hidden = drafter.setting("hidden_size")
    if not source.drafter.embeddings and own_hidden != hidden:
        raise MismatchError(
            f"{drafter.folder} has no embedding, and the target's is of another width",
            expected=own_hidden,
            found=hidden,
            remedy="pass the target that the drafter was made for",
        )
    rope, theta = _rope(drafter)
    return Numbers(
        context=drafter.setting("max_position_embeddings", target.setting("max_position_embeddings", 2048)),
        hidden=own_hidden,
        intermediate=drafter.setting("intermediate_size"),
        heads=heads,
        kv_heads=drafter.setting("num_key_value_heads", heads),
        head_dim=drafter.setting("head_dim") or own_hidden // heads,
        norm_eps=drafter.setting("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope=rope,
        vocab=source.width,
        target_layers=states,
        target_hidden=hidden,
        norm_before_residual=norms.before_residual,
        norm_before_fc=norms.before_fc,
    )


def weights_of(source: Source, numbers: Numbers) -> Iterator[Weights]:
    """Every tensor of the drafter, in its own order, the head's rows in theirs.

    Raises UnsupportedError for a tensor that llama.cpp has no place for, before the first is given.
    """
    named = _named(source)
    if numbers.rope.get("rope_type") == "llama3":
        yield Weights("rope_freqs.weight", "F32", _rope_factors(numbers))
    for name, tensor in named.items():
        array: npt.NDArray[Any] = np.memmap(tensor.path, _DTYPES[tensor.dtype], "r", tensor.offset, tensor.shape)
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            array = array[_pairs_together(numbers.head_dim, tensor.rows)]
        if array.ndim == 1:  # what is added to or multiplied by is float32 there
            yield Weights(name, "F32", _as_float32(array, tensor.dtype))
        else:
            yield Weights(name, tensor.dtype, array)


def ids_of(source: Source) -> Ids:
    """(kept,) int64, the target id of each row of the head: what `d2t` holds."""
    ids = head_ids(source.drafter).ids
    assert ids is not None, "an opened source is trimmed"
    return ids


def prove_tensors(source: Source) -> None:
    """Raises UnsupportedError for several layers and for a tensor that llama.cpp has no place for."""
    _named(source)


def _named(source: Source) -> dict[str, StoredTensor]:
    """llama.cpp's name -> tensor."""
    drafter = source.drafter
    head = {f"lm_head.{suffix}": tensor for suffix, tensor in drafter.heads[0].tensors.items()}
    body = {name: drafter.checkpoint.tensors[name] for name in drafter.body if not name.endswith(_DERIVED)}
    blocks = {name.partition(".self_attn.")[0] for name in body if ".self_attn.q_proj." in name}
    if len(blocks) > 1:
        raise UnsupportedError(
            f"llama.cpp serves no EAGLE-3 drafter of several layers: {source.folder}",
            expected="one decoder layer, as its graph asserts",
            found=f"{len(blocks)}: {', '.join(sorted(blocks))}",
            remedy=_SERVE_ELSEWHERE,
        )
    named = {}
    for name, tensor in {**body, **head}.items():
        module, _, suffix = name.removeprefix("model.").replace("layers.0.", "midlayer.", 1).rpartition(".")
        if module not in _NAMES or suffix != "weight":
            raise _not_computed(drafter.checkpoint, f"the tensor {name}", "its graph has no place for it")
        if tensor.dtype not in _DTYPES:
            raise UnsupportedError(
                f"tensor {name} of {source.folder} is quantized in a way that GGUF has not",
                expected=", ".join(_DTYPES),
                found=tensor.dtype,
                remedy="trim the unquantized drafter, export it, and quantize the GGUF with llama-quantize",
            )
        named[f"{_NAMES[module]}.weight"] = tensor
    return named


def _prove_target(target: Checkpoint) -> None:
    kind = str(target.config.get("model_type", ""))
    if kind not in TARGETS:
        raise UnsupportedError(
            f"llama.cpp hands no hidden states of {target.folder} to a drafter, and aborts",
            expected=f"a target of type {', '.join(TARGETS)}",
            found=kind or "none named",
            remedy=_SERVE_ELSEWHERE,
        )


def _not_computed(drafter: Checkpoint, what: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"llama.cpp does not compute what {drafter.folder} asks for: {why}", found=what, remedy=_SERVE_ELSEWHERE
    )


def _rope(drafter: Checkpoint) -> tuple[dict[str, Any], float]:
    """How positions are turned, by transformers 5's entry or the older two, and the base."""
    rope = dict(drafter.setting("rope_parameters") or drafter.setting("rope_scaling") or {})
    rope.setdefault("rope_type", rope.get("type", "default"))
    if rope["rope_type"] not in {"default", "linear", "llama3", "yarn"}:
        raise _not_computed(drafter, f"rope_type {rope['rope_type']}", "a GGUF cannot say that of a drafter")
    theta = rope.get("rope_theta")
    return rope, float(drafter.setting("rope_theta", 10_000.0) if theta is None else theta)


def _rope_factors(numbers: Numbers) -> npt.NDArray[np.float32]:
    """(head_dim / 2,) by what Llama 3.1 divides each frequency: 1 for short waves, `factor` for long ones, in between
    a blend. The rule is that of transformers' rotary embeddings (`rope_type` llama3)."""
    rope, width = numbers.rope, numbers.head_dim
    waves = 2 * np.pi * numbers.rope_theta ** (np.arange(0, width, 2) / width)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    blend = np.clip((rope["original_max_position_embeddings"] / waves - low) / (high - low), 0, 1)
    factors: npt.NDArray[np.float32] = (1 / ((1 - blend) / rope["factor"] + blend)).astype(np.float32)
    return factors


def _pairs_together(head_dim: int, rows: int) -> Ids:
    """(rows,) the order in which the engine wants the rows of q and k.

    It turns neighbours, 2i and 2i + 1 of a head; checkpoints turn i and i + head_dim / 2.
    """
    order: Ids = np.arange(rows, dtype=np.int64).reshape(-1, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)
    return order


def _as_float32(array: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)
