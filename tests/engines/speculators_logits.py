"""Run by the python of an environment that holds vllm-project/speculators: an EAGLE-3 drafter's logits by that library.

    speculators_logits.py DRAFTER_FOLDER INPUT.safetensors OUTPUT.safetensors

INPUT: `tokens` (pairs,) and `hidden` (pairs, states * hidden), what is read pair by pair. OUTPUT: `logits` (steps,
pairs, ids): at step 0 behind each pair, at step i after i of the tokens that follow it were drafted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig

STEPS = 3


def load(folder: Path) -> Eagle3DraftModel:
    """From our folder's files, whose tensors already have the library's names."""
    said = json.loads((folder / "config.json").read_text())
    config = Eagle3SpeculatorConfig(**said)
    config.transformer_layer_config._attn_implementation = "eager"
    model = Eagle3DraftModel(config).float()
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    left_out = [name for name in missing if not name.startswith("verifier_")]  # these score what is trained on
    if left_out or unexpected:
        raise SystemExit(f"other tensors than the library's: lacks {left_out}, has {unexpected}")
    return model.eval()


@torch.no_grad()
def main(folder: Path, asked: Path, answer: Path) -> None:
    model, inputs = load(folder), load_file(asked)
    logits: list[torch.Tensor] = []
    model.lm_head.register_forward_hook(lambda _, __, out: logits.append(out[0]))
    pairs = len(inputs["tokens"])
    model(
        hidden_states=inputs["hidden"][None],
        input_ids=inputs["tokens"][None],
        document_ids=torch.zeros(1, pairs, dtype=torch.long),
        ttt_steps=STEPS,
    )
    save_file({"logits": torch.stack(logits)}, answer)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
