"""SpecForge: an EAGLE-3 drafter to train on from, and the vocabulary mapping its trainer takes.

Facts are of SpecForge 0.2.0: specforge/modeling/draft/llama3_eagle.py (`LlamaForCausalLMEagle3`: names, three states,
no biases, what `norm_output` means there), specforge/modeling/draft/base.py (`load_vocab_mapping`: a torch file with
d2t and t2d), specforge/core/compact_teacher.py (the head's rows ascend: they are `lm_head[t2d]`).
"""

from __future__ import annotations

import io
from pathlib import Path

from ..checkpoint.layouts import EAGLE3
from ..decoding.drafters.variants import STATES, eagle3_norms, entry
from ..errors import UnsupportedError
from ..provenance import write_file
from ..vocabulary.dialects import maps_of
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

MAPPING = "vocab_mapping.pt"
_WHERE = "specforge/modeling/draft/llama3_eagle.py"
_READ = (
    r"midlayer\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|input_layernorm|hidden_norm|post_attention_layernorm)"
    r"\.weight|(fc|norm|fc_norm\.[012]|embed_tokens|lm_head)\.weight"
)


def refuse(drafter: OfAKind) -> None:
    """Raise UnsupportedError for kinds that SpecForge does not train trimmed."""
    reason = "of the drafters that read states here only its EAGLE-3 has a map"
    refuse_kind(drafter, (EAGLE3,), "SpecForge", reason, "export an EAGLE-3 drafter, or for another engine")


def write(source: Source, folder: Path) -> Serving:
    """Write the draft model's folder, and its mapping as the trainer's `vocab_mapping_path`."""
    refuse(source)
    refuse_quantized(source, "SpecForge", "trains plain heads alone")
    refuse_layers(source, "SpecForge")
    norms, states = eagle3_norms(source.drafter.checkpoint), entry(source.drafter.checkpoint, STATES)
    if norms.before_residual or norms.before_fc or norms.output or len(states or "012") != 3:
        raise UnsupportedError(
            f"SpecForge's EAGLE-3 reads three states, and its norms stand elsewhere ({_WHERE})",
            expected="three states; norm_before_residual, norm_before_fc and norm_output false",
            found=f"{len(states or '012')} states, {norms}",
            remedy="serve the drafter with the engine that it was made for",
        )
    tensors = eagle3_tensors(source, lambda name: blocks_as("layers.{}.")(name).replace("layers.0.", "midlayer.", 1))
    refuse_unread(tensors, _READ, "SpecForge", _WHERE)
    config = flat_config(source) | {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama"}
    # There norm_output is whether the head's input is normed at all; left out it is.
    left_out = {"norm_output", "bias"}
    write_folder(folder, source, tensors, {key: value for key, value in config.items() if key not in left_out})
    _write_mapping(source, folder)
    command = (
        "# train on from it: the draft model is in {out}, its vocabulary mapping is {out}/" + MAPPING + "\n"
        "python -m sglang.launch_server --model-path {target} --speculative-algorithm EAGLE3 "
        "--speculative-draft-model-path {out} --speculative-num-steps 3 --speculative-eagle-topk 1 "
        "--speculative-num-draft-tokens 4"
    )
    return Serving(command, "spec_accept_length in the meta_info of each of SGLang's answers")


def _write_mapping(source: Source, folder: Path) -> None:
    import torch

    saved = io.BytesIO()
    torch.save({name: torch.from_numpy(part) for name, part in maps_of(source.kept.ids, source.width).items()}, saved)
    write_file(folder / MAPPING, saved.getvalue(), "torch")


ENGINE = Engine(name="specforge", tested={"specforge": "0.2.0"}, write=write, read_ids=ids_by_offsets, refuse=refuse)
