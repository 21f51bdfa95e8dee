"""TensorRT-LLM's PyTorch backend: EAGLE-3 as SafeAILab lays it out, one layer, offsets.

Facts are of 1.2.0rc2: tensorrt_llm/_torch/models/modeling_speculative.py (`Eagle3DraftModel`: names, int32 `d2t`, added
to the drafted row in _torch/speculative/eagle3.py, `draft_decoder`). Not run: its wheels need a CUDA device.
"""

from __future__ import annotations

from pathlib import Path

from ..checkpoint.layouts import EAGLE3
from ..decoding.drafters.variants import STATES, eagle3_norms, eagle3_states, entry
from ..errors import InputError, UnsupportedError
from .drafter_folder import (
    blocks_as,
    eagle3_tensors,
    flat_config,
    ids_by_offsets,
    refuse_layers,
    refuse_unread,
    write_folder,
)
from .engine import Engine, Serving
from .source import OfAKind, Source, refuse_kind, refuse_quantized

_WHERE = "tensorrt_llm/_torch/models/modeling_speculative.py"
_READ = (
    r"midlayer\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|input_layernorm|hidden_norm|post_attention_layernorm)"
    r"\.weight|(fc|norm|embed_tokens|lm_head)\.weight"
)
_SERVE = (  # JSON is YAML, and one line of it can be pasted
    'echo \'{{"enable_iter_perf_stats": true, "speculative_config": {{"decoding_type": "Eagle", '
    '"max_draft_len": {length}, "speculative_model_dir": "{{out}}"{states}}}}}\' > speculative.yaml\n'
    "trtllm-serve {{target}} --extra_llm_api_options speculative.yaml"
)


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that TensorRT-LLM cannot serve trimmed."""
    reason = "its other drafters score the target's whole vocabulary"
    refuse_kind(drafter, (EAGLE3,), "TensorRT-LLM", reason, "export an EAGLE-3 drafter, or for another engine")


def write(source: Source, folder: Path) -> Serving:
    """Write the folder that `speculative_model_dir` names."""
    refuse(source)
    refuse_quantized(source, "TensorRT-LLM", "was read for plain heads alone")
    refuse_layers(source, "TensorRT-LLM")
    norms = eagle3_norms(source.drafter.checkpoint)
    if norms.before_residual or norms.before_fc or norms.each_state or norms.output:
        raise UnsupportedError(
            f"TensorRT-LLM 1.2.0rc2 computes EAGLE-3 without further norms ({_WHERE})",
            expected="norm_before_residual, norm_before_fc, fc_norm and norm_output false",
            found=norms,
            remedy="serve the drafter with vLLM or SGLang",
        )
    tensors = eagle3_tensors(source, _one_layer)
    refuse_unread(tensors, _READ, "TensorRT-LLM", _WHERE)
    config = flat_config(source) | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    write_folder(folder, source, tensors, {key: value for key, value in config.items() if key != "bias"})
    return Serving(command(source), "specDecodingStats of /metrics", ("drafts are chains, and greedy",))


def command(source: Source) -> str:
    """What serves an EAGLE-3 folder."""
    return _SERVE.format(length=source.chain_length(3), states=_captured(source))


def _one_layer(name: str) -> str:
    """`midlayer.*`; a second layer would stand beside the first and be refused as unread."""
    renamed = blocks_as("layers.{}.")(name)
    return renamed.replace("layers.0.", "midlayer.", 1) if renamed.startswith("layers.0.") else renamed


def _captured(source: Source) -> str:
    """Which layers' outputs are read, where the drafter names them; the engine's default is EAGLE-3's own rule."""
    if not entry(source.drafter.checkpoint, STATES):
        return ""
    if source.target is None:
        raise InputError(
            f"{source.folder} names the hidden states that it reads, which TensorRT-LLM counts in another way",
            expected="the target",
            found="none",
            remedy="pass it with --target",
        )
    family, layers = str(source.target.setting("model_type", "")), source.target.setting("num_hidden_layers", 0)
    outputs = [state - 1 for state in eagle3_states(source.drafter.checkpoint, family, layers)]
    return f', "eagle3_layers_to_capture": {outputs}'


ENGINE = Engine(
    name="tensorrt-llm", tested={"tensorrt_llm": "1.2.0rc2"}, write=write, read_ids=ids_by_offsets, refuse=refuse
)
