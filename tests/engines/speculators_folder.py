"""Run by the python of an environment that holds vllm-project/speculators: a drafter's folder, read or made by it.

    speculators_folder.py read FOLDER ANSWER.safetensors [FOLDER ANSWER.safetensors ...]
    speculators_folder.py make FOLDER TARGET KEPT.safetensors

read: what the library's own class holds after loading, name by name. make: a random EAGLE-3 drafter, saved by it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from speculators import SpeculatorModel
from speculators.config import SpeculatorsConfig, VerifierConfig
from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig
from speculators.proposals.greedy import GreedyTokenProposalConfig
from transformers import AutoConfig


def read(folder: Path, answer: Path) -> None:
    model = SpeculatorModel.from_pretrained(str(folder))
    assert type(model) is Eagle3DraftModel
    state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    drafted = torch.arange(model.draft_vocab_size)
    save_file(state | {"ids": drafted + model.d2t}, answer)


def make(folder: Path, target: Path, kept: Path) -> None:
    torch.manual_seed(0)
    layer = AutoConfig.from_pretrained(target)
    ids, width = load_file(kept)["kept_ids"], layer.vocab_size
    layer.num_hidden_layers, layer._attn_implementation = 1, "eager"
    verifier = VerifierConfig(name_or_path=str(target), architectures=layer.architectures)
    how = SpeculatorsConfig(
        algorithm="eagle3",
        proposal_methods=[GreedyTokenProposalConfig(speculative_tokens=3)],
        default_proposal_method="greedy",
        verifier=verifier,
    )
    config = Eagle3SpeculatorConfig(
        transformer_layer_config=layer, draft_vocab_size=len(ids), norm_before_residual=False, speculators_config=how
    )
    model = Eagle3DraftModel(config)
    mask = torch.zeros(width, dtype=torch.bool)
    mask[ids] = True
    model.load_vocab_mappings(mask, ids - torch.arange(len(ids)))
    model.load_verifier_weights()
    torch.nn.init.normal_(model.lm_head.weight)
    model.save_pretrained(str(folder))


if __name__ == "__main__":
    paths = list(map(Path, sys.argv[2:]))
    if sys.argv[1] == "make":
        make(*paths)
    else:
        for pair in zip(paths[::2], paths[1::2], strict=True):
            read(*pair)
