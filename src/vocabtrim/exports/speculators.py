"""vllm-project/speculators: EAGLE-3 in its own config form, for its trainer and for `vllm serve FOLDER`.

Facts are of speculators 0.9.0: models/eagle3/config.py (entries), models/eagle3/core.py (names, variants), model.py
(`DraftVocabMixin`: t2d is as wide as the layer config's vocabulary and marks as many ids as the head has rows; the
embedding comes from the verifier), models/eagle3/model_definitions.py (Llama and Qwen3 layers).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checkpoint.layouts import EAGLE3
from ..decoding.drafters.variants import STATES, eagle3_norms, eagle3_states, entry
from ..errors import InputError
from .drafter_folder import blocks_as, eagle3_tensors, flat_config, ids_by_offsets, refuse_unread, write_folder
from .engine import Engine, Serving
from .source import OfAKind, Source, refuse_kind, refuse_quantized

VERSION = "0.9.0"
_READ = (
    r"layers\.\d+\.(self_attn\.([qkvo]_proj|[qk]_norm)|mlp\.(gate|up|down)_proj|input_layernorm|hidden_norm"
    r"|post_attention_layernorm)\.weight|(fc|norm|input_norm|fc_norm\.\d+|embed_tokens|lm_head)\.weight"
)
# Entries that stand at the top, beside the layer's own config.
_ABOVE = ("draft_vocab_size", "norm_before_residual", "norm_before_fc", "fc_norm", "norm_output", "target_hidden_size")
_NOT_THE_LAYERS = (*_ABOVE, STATES, "architectures", "eagle_config", "bias", "embed_requires_grad", "_name_or_path")


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that speculators does not keep trimmed."""
    reason = "its map belongs to an EAGLE-3 drafter"
    refuse_kind(drafter, (EAGLE3,), "speculators", reason, "export an EAGLE-3 drafter, or for another engine")


def write(source: Source, folder: Path) -> Serving:
    """Write a folder that `SpeculatorModel.from_pretrained` opens."""
    refuse(source)
    refuse_quantized(source, "speculators", "makes plain heads alone")
    if source.target is None or source.target_name is None:
        raise InputError(
            "a folder of speculators names its verifier", expected="the target", found="none", remedy="pass --target"
        )
    tensors = eagle3_tensors(source, blocks_as("layers.{}."))
    refuse_unread(tensors, _READ, "speculators", "speculators/models/eagle3/core.py")
    write_folder(folder, source, tensors, _config(source, any("q_norm" in tensor.name for tensor in tensors)))
    told = f'"num_speculative_tokens": {source.chain_length(3)}, "use_local_argmax_reduction": true'
    config = f'{{"method": "eagle3", "model": "{{out}}", {told}}}'
    command = f"vllm serve {{target}} --speculative-config '{config}'"
    return Serving(command, "vllm:spec_decode_num_accepted_tokens_total and its like at /metrics")


def _config(source: Source, qwen3: bool) -> dict[str, Any]:
    assert source.target is not None
    flat, norms = flat_config(source), eagle3_norms(source.drafter.checkpoint)
    layer = {key: value for key, value in flat.items() if key not in _NOT_THE_LAYERS}
    return {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "speculators_version": VERSION,
        "draft_vocab_size": source.kept.size,
        "target_hidden_size": flat.get("target_hidden_size"),
        "norm_before_residual": norms.before_residual,
        "norm_before_fc": norms.before_fc,
        "fc_norm": norms.each_state,
        "norm_output": norms.output,
        STATES: _states(source),
        "tie_word_embeddings": False,
        "torch_dtype": flat.get("torch_dtype"),
        "transformer_layer_config": layer | {"model_type": "qwen3" if qwen3 else "llama"},
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": source.chain_length(3)}],
            "verifier": {
                "name_or_path": source.target_name,
                "architectures": source.target.config.get("architectures", []),
            },
        },
    }


def _states(source: Source) -> list[int] | None:
    """By the inputs of layers, as the library counts them; None where the drafter goes by EAGLE-3's own rule."""
    checkpoint, target = source.drafter.checkpoint, source.target
    if target is None or not entry(checkpoint, STATES):
        return None
    family, layers = str(target.setting("model_type", "")), target.setting("num_hidden_layers", 0)
    return list(eagle3_states(checkpoint, family, layers))


ENGINE = Engine(
    name="speculators", tested={"speculators": VERSION}, write=write, read_ids=ids_by_offsets, refuse=refuse
)
