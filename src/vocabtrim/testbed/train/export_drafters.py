"""Trained drafters as folders in the published layouts, bfloat16.

    python -m vocabtrim.testbed.train.export_drafters RUN OUT

Writes OUT/eagle, OUT/eagle3, OUT/independent and OUT/medusa, those of them that RUN holds. Medusa's output matrices
are the target's head: OUT/medusa holds the residual blocks alone, family.py puts the published file together.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...provenance import atomic_directory
from ..family import MEDUSA_BLOCKS
from . import llama
from .export_target import export
from .sizes import END, END_OF_TEXT, INDEPENDENT, MEDUSA_HEADS, ONE_LAYER, VOCAB


def write_eagle(weights: dict[str, Tensor], out: Path) -> None:
    """EAGLE-1/2: fc and one layer; the embedding is the target's."""
    _write(out, weights, _config() | {"bias": False})


def write_eagle3(weights: dict[str, Tensor], out: Path) -> None:
    """EAGLE-3 with a full head: no maps, as some published files with a full head have none."""
    named = {"architectures": ["LlamaForCausalLMEagle3"]}  # by which engines know it
    _write(out, weights, _config() | named | {"draft_vocab_size": VOCAB})


def write_medusa_blocks(weights: dict[str, Tensor], out: Path) -> None:
    """Medusa's residual blocks: `{head}.0.linear.weight` and `.bias`."""
    blocks = {name.removeprefix("heads."): weight for name, weight in weights.items()}
    _write(out, blocks, {"medusa_num_heads": MEDUSA_HEADS, "medusa_num_layers": 1}, Path(MEDUSA_BLOCKS).stem)


def _config() -> dict[str, Any]:
    """What EAGLE configs share: a Llama of one layer at the target's size, never tied, one stop id."""
    config: dict[str, Any] = llama.config(ONE_LAYER).to_dict()
    return config | {
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": False,
        "eos_token_id": END,
        "pad_token_id": END_OF_TEXT,
        "max_position_embeddings": 2048,
        "rope_theta": ONE_LAYER.rope_theta,
    }


def _write(out: Path, weights: dict[str, Tensor], config: dict[str, Any], stem: str = "model") -> None:
    from safetensors.torch import save_file

    with atomic_directory(out) as folder:
        tensors = {name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()}
        save_file(tensors, folder / f"{stem}.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main(run: Path, out: Path) -> None:
    """Write every drafter that has been trained."""
    writers = {"eagle": write_eagle, "eagle3": write_eagle3, "medusa": write_medusa_blocks}
    for kind, write in writers.items():
        if (run / kind / "checkpoint.pt").exists():
            write(torch.load(run / kind / "checkpoint.pt", weights_only=True)["module"], out / kind)
    if (run / "independent" / "checkpoint.pt").exists():
        export(run / "independent" / "checkpoint.pt", run / "tokenizer", out / "independent", INDEPENDENT)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
