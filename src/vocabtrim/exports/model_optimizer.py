"""NVIDIA Model-Optimizer: EAGLE-3 in its exporter's own form, and the bare `d2t.pt` that its trainer takes.

Facts are of nvidia-modelopt 0.47.0: torch/export/plugins/hf_spec_export.py (`LLAMA_EAGLE_SINGLE_LAYER`: names),
hf_spec_configs.py (config entries), torch/speculative/plugins/hf_eagle.py (`load_draft_vocab_cache`: an int64 tensor of
the drafter's size, `draft_vocab_size` below `vocab_size`), modeling_eagle.py (`EagleModule`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..checkpoint.layouts import EAGLE3
from ..decoding.drafters.variants import STATES, eagle3_norms, entry
from ..errors import UnsupportedError
from ..vocabulary.dialects import read_map, write_map
from ..vocabulary.draft_map import DraftMap
from ..vocabulary.kept import Ids
from .drafter_folder import blocks_as, eagle3_tensors, flat_config, ids_by_offsets, refuse_unread, write_folder
from .engine import Engine, Serving
from .source import OfAKind, Source, refuse_kind, refuse_quantized

MAP = "d2t.pt"
_WHERE = "modelopt/torch/export/plugins/hf_spec_export.py"
_READ = (
    r"layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|input_layernorm|hidden_norm"
    r"|post_attention_layernorm)\.weight|(fc|norm|lm_head)\.weight"
)
_EMBEDDING = "embed_tokens.weight"  # the target's is used


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that Model-Optimizer does not keep trimmed."""
    reason = "its map belongs to an EAGLE-3 module"
    refuse_kind(drafter, (EAGLE3,), "Model-Optimizer", reason, "export an EAGLE-3 drafter, or for another engine")


def write(source: Source, folder: Path) -> Serving:
    """Write the folder that `EagleExporter` would, and the map for `data.draft_vocab_cache`."""
    refuse(source)
    refuse_quantized(source, "Model-Optimizer", "trains plain heads alone")
    norms = eagle3_norms(source.drafter.checkpoint)
    if norms.before_residual or norms.before_fc or norms.each_state or norms.output:
        raise UnsupportedError(
            "Model-Optimizer's EAGLE-3 has no further norms (modelopt/torch/speculative/plugins/modeling_eagle.py)",
            expected="norm_before_residual, norm_before_fc, fc_norm and norm_output false",
            found=norms,
            remedy="serve the drafter with vLLM or SGLang",
        )
    tensors = [
        tensor for tensor in eagle3_tensors(source, blocks_as("layers.{}.")) if tensor.name not in {"t2d", _EMBEDDING}
    ]
    refuse_unread(tensors, _READ, "Model-Optimizer", _WHERE)
    config = flat_config(source) | {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama"}
    config["eagle_config"] = {
        STATES: entry(source.drafter.checkpoint, STATES),
        "use_aux_hidden_state": True,
        "use_input_layernorm_in_first_layer": True,
        "use_last_layernorm": True,
        "use_mtp_layernorm": False,
        "next_layer_regular": True,
        "parallel_draft_step": 1,
        "parallel_draft_heads_num_layers": None,
    }
    write_folder(folder, source, tensors, {key: value for key, value in config.items() if key != "bias"})
    told = DraftMap(str(source.folder), "ids", source.kept.ids, source.kept.target_vocab, source.kept.tokenizer_hash)
    write_map(told, "d2t", folder / MAP)
    command = (
        "# in the recipe of a training run: data.draft_vocab_cache: {out}/" + MAP + "\n"
        "# to serve the drafter, export it for an engine: vllm, sglang, tensorrt-llm"
    )
    return Serving(command, "shown by the engine that it is exported for")


def read_ids(folder: Path) -> Ids:
    """By the trainer's file; the head's own offsets must say the same."""
    ids, of_head = read_map(folder / MAP, "d2t").ids, ids_by_offsets(folder)
    if not np.array_equal(ids, of_head):
        raise _differ(folder)
    return ids


def _differ(folder: Path) -> UnsupportedError:
    return UnsupportedError(
        f"{folder / MAP} and the offsets beside the head of {folder} name other ids", remedy="export the drafter again"
    )


ENGINE = Engine(
    name="model-optimizer", tested={"nvidia-modelopt": "0.47.0"}, write=write, read_ids=read_ids, refuse=refuse
)
