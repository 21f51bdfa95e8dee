"""SGLang: a folder for EAGLE-3, a token map beside the body for EAGLE-1/2, a token map alone for MTP.

Facts are of SGLang 0.5.23: srt/speculative/eagle_worker_v2.py (`init_token_map`, `init_lm_head`: which head is cut,
and where), srt/speculative/spec_utils.py (`load_token_map`), srt/models/llama_eagle.py, qwen2_eagle.py and
llama_eagle3.py (names, biases), srt/models/qwen3_5_mtp.py (tied heads), srt/models/llama.py (`bias` of a config),
srt/speculative/standalone_worker_v2.py (`_validate_vocab_compatibility`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..checkpoint.layouts import EAGLE, EAGLE3, INDEPENDENT, MTP, head_of, identify, with_prefix
from ..checkpoint.write import PlannedTensor
from ..decoding.drafters.variants import STATES, eagle3_norms, entry
from ..errors import InputError, UnsupportedError
from ..vocabulary.dialects import read_map, write_map
from ..vocabulary.draft_map import DraftMap
from ..vocabulary.kept import Ids
from .drafter_folder import (
    blocks_as,
    body_tensors,
    eagle3_tensors,
    flat_config,
    ids_by_offsets,
    refuse_unread,
    write_folder,
)
from .engine import Engine, Serving
from .source import OfAKind, Source, refuse_kind, refuse_quantized

TOKEN_MAP = "hot_tokens.pt"

_MATRICES = r"(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_READ_EAGLE = (
    rf"layers\.\d+\.({_MATRICES}|input_layernorm|post_attention_layernorm)\.weight|fc\.(weight|bias)"
    r"|layers\.\d+\.self_attn\.[qkv]_proj\.bias|embed_tokens\.weight"
)
_READ_EAGLE3 = (
    rf"(midlayer|layers\.\d+)\.({_MATRICES}|input_layernorm|hidden_norm|post_attention_layernorm)\.weight"
    r"|(fc|norm|input_norm|fc_norm\.\d|embed_tokens|lm_head)\.weight"
)
_LAUNCH = "python -m sglang.launch_server --model-path {target}"
_SHAPE = "--speculative-num-steps {} --speculative-eagle-topk {} --speculative-num-draft-tokens {}"
_ACCEPTANCE = (
    "spec_accept_length in the meta_info of each answer (emitted tokens per target pass), or "
    "sglang:spec_accept_length among the metrics with --enable-metrics"
)
_NO_REJECTION = "serve it without --speculative-use-rejection-sampling: SGLang refuses a trimmed drafter with it"
_ONE_SHARD = (
    "serve it with --tp 1: SGLang cuts the rows of a token map from one shard of the target's head, out of range with "
    "tensor parallelism above 1"
)
_WHY_NOT = {
    INDEPENDENT: "its STANDALONE worker demands the target's vocabulary size and a head as wide",
    "Medusa": "it has no Medusa worker",
}


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that SGLang cannot serve trimmed."""
    why = _WHY_NOT.get(drafter.kind, "it knows no such drafter")
    refuse_kind(drafter, (EAGLE, EAGLE3, MTP), "SGLang", why, "export an EAGLE or MTP drafter, or for another engine")


def write(source: Source, folder: Path) -> Serving:
    """Write what SGLang loads of a drafter of this kind."""
    refuse(source)
    return {EAGLE: _write_eagle, EAGLE3: _write_eagle3, MTP: _write_mtp}[source.kind](source, folder)


def _write_eagle3(source: Source, folder: Path) -> Serving:
    norms = eagle3_norms(source.drafter.checkpoint)
    if norms.before_residual:
        raise UnsupportedError(
            "SGLang adds the unnormed feature to the attention's output (srt/models/llama_eagle3.py)",
            expected="norm_before_residual false",
            found="true",
            remedy="serve the drafter with vLLM",
        )
    refuse_quantized(source, "SGLang", "was read for plain heads alone")
    tensors = eagle3_tensors(source, blocks_as("layers.{}."))
    refuse_unread(tensors, _READ_EAGLE3, "SGLang", "srt/models/llama_eagle3.py")
    config = flat_config(source) | {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama"}
    config |= {"norm_before_fc": norms.before_fc, "fc_norm": norms.each_state, "norm_output": norms.output}
    states = entry(source.drafter.checkpoint, STATES)
    about = config.get("eagle_config")
    config["eagle_config"] = (about if isinstance(about, dict) else {}) | {"use_aux_hidden_state": True}
    if states:  # SGLang looks for them nowhere else
        config["eagle_config"][STATES] = states
    write_folder(folder, source, tensors, _without_biases(config))
    command = f"{_LAUNCH} --speculative-algorithm EAGLE3 --speculative-draft-model-path {{out}} {_shape(source)}"
    return Serving(command, _ACCEPTANCE, (_NO_REJECTION, "no --speculative-token-map here: it would be ignored"))


def _write_eagle(source: Source, folder: Path) -> Serving:
    """The body, in SGLang's own classes; the head is cut out of the target's as the server starts."""
    tensors = body_tensors(source, blocks_as("layers.{}."))
    refuse_unread(tensors, _READ_EAGLE, "SGLang", "srt/models/llama_eagle.py")
    names = {tensor.name: tensor for tensor in tensors}
    if "fc.bias" not in names:  # its fc always has one, and what is not loaded stays random
        bias = PlannedTensor("fc.bias", names["fc.weight"].dtype, names["fc.weight"].shape[:1])
        tensors.append(replace(bias, data=bytes(bias.nbytes)))
    biased = "layers.0.self_attn.q_proj.bias" in names
    config = flat_config(source) | {"model_type": "qwen2" if biased else "llama"}
    config["architectures"] = ["Qwen2ForCausalLMEagle" if biased else "LlamaForCausalLMEagle"]
    write_folder(folder, source, tensors, _without_biases(config))
    _write_token_map(source, folder)
    command = (
        f"{_LAUNCH} --speculative-algorithm EAGLE --speculative-draft-model-path {{out}} "
        f"--speculative-token-map {{out}}/{TOKEN_MAP} {_shape(source)}"
    )
    return Serving(command, _ACCEPTANCE, (_ONE_SHARD, _NO_REJECTION, *_of_target(source)))


def _write_mtp(source: Source, folder: Path) -> Serving:
    """The map alone: SGLang takes the module out of the target's own checkpoint."""
    if source.target is None:
        raise InputError(
            "SGLang takes an MTP module out of its target's checkpoint",
            expected="the target",
            found="none",
            remedy="pass it with --target",
        )
    whole = identify(source.target, source.target)
    if whole.kind != MTP:
        raise InputError(
            f"{source.target.folder} holds no MTP module, and SGLang looks for it there",
            found=whole.kind,
            remedy="pass the checkpoint that the module was taken out of as --target",
        )
    if source.drafter.modules > 1:
        raise UnsupportedError(
            "SGLang serves several MTP modules in turn by a worker that reads no token map "
            "(srt/speculative/multi_layer_eagle_worker_v2.py)",
            expected="one module",
            found=source.drafter.modules,
            remedy="serve the target as it is",
        )
    if source.target.setting("tie_word_embeddings", False):
        raise UnsupportedError(
            "SGLang keeps the whole head of a tied MTP drafter and still maps its rows (srt/models/qwen3_5_mtp.py), so "
            "it would draft wrong ids",
            expected="tie_word_embeddings false in the target's config",
            found="true",
            remedy="serve the target as it is",
        )
    _write_token_map(source, folder)
    command = f"{_LAUNCH} --speculative-algorithm NEXTN --speculative-token-map {{out}}/{TOKEN_MAP} {_shape(source)}"
    return Serving(command, _ACCEPTANCE, (_ONE_SHARD, _NO_REJECTION, *_of_target(source)))


def _shape(source: Source) -> str:
    """A chain of three, or what was tuned: steps, ways that each goes on, and rows of the target's pass."""
    tuned = source.tuned
    if tuned is None or tuned.draft_length is None:
        return _SHAPE.format(3, 1, 4)
    nodes = tuned.nodes or tuned.draft_length + 1
    return _SHAPE.format(tuned.draft_length, tuned.branching or 1, nodes)


def _without_biases(config: dict[str, object]) -> dict[str, object]:
    """SGLang's Llama gives its attention biases for either entry (srt/models/llama.py), and EAGLE's `bias` is fc's."""
    return {key: value for key, value in config.items() if key not in {"bias", "attention_bias"}}


def _of_target(source: Source) -> list[str]:
    """What depends on the target's head, out of which SGLang cuts the rows."""
    if source.target is None:
        return ["the target must have an unquantized head: SGLang cannot index the rows of a packed one"]
    told = []
    head = head_of(source.target)[0]
    packed = sorted(set(with_prefix(source.target.tensors, head)) - {"weight", "bias"})
    if packed:
        told.append(
            f"the target's head is quantized ({head}.{packed[0]}), and SGLang cannot index its rows: serve a target "
            "with an unquantized head"
        )
    if source.target.setting("tie_word_embeddings", False):
        told.append(
            "the target ties its head to its embedding: leave tie_word_embeddings false in the drafter's config, where "
            "SGLang would load one over the other"
        )
    return told


def _write_token_map(source: Source, folder: Path) -> None:
    kept = source.kept
    told = DraftMap(str(source.folder), "ids", kept.ids, kept.target_vocab, kept.tokenizer_hash)
    write_map(told, "token-map", folder / TOKEN_MAP)


def read_ids(folder: Path) -> Ids:
    """As `load_token_map` reads the list, or `load_weights` of llama_eagle3.py the offsets."""
    if not (folder / TOKEN_MAP).is_file():
        return ids_by_offsets(folder)
    return read_map(folder / TOKEN_MAP, "token-map").ids


ENGINE = Engine(name="sglang", tested={"sglang": "0.5.23"}, write=write, read_ids=read_ids, refuse=refuse)
