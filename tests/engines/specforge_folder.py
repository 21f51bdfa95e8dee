"""Run by the python of an environment that holds SpecForge: a drafter's folder, read or made by it.

    specforge_folder.py read FOLDER ANSWER.safetensors [FOLDER ANSWER.safetensors ...]
    specforge_folder.py make FOLDER CONFIG KEPT.safetensors

read: what its class holds after loading the folder, name by name; its loader of vocab_mapping.pt must give the same.
make: a random drafter as its exporter writes it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from specforge.core.compact_teacher import validate_vocab_mapping_consistency
from specforge.data.preprocessing import process_token_dict_to_mappings
from specforge.export.checkpoint_io import apply_legacy_rope_scaling
from specforge.export.to_sglang import _serving_state
from specforge.modeling.auto import AutoDraftModel, AutoDraftModelConfig


def read(folder: Path, answer: Path) -> None:
    model = AutoDraftModel.from_pretrained(str(folder))
    of_checkpoint = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.t2d.zero_(), model.d2t.zero_()
    model.load_vocab_mapping(str(folder / "vocab_mapping.pt"))
    assert torch.equal(model.d2t, of_checkpoint["d2t"]) and torch.equal(model.t2d, of_checkpoint["t2d"])
    validate_vocab_mapping_consistency(model.t2d, model.d2t)
    save_file(of_checkpoint | {"ids": model.d2t + torch.arange(len(model.d2t))}, answer)


def make(folder: Path, config: Path, kept: Path) -> None:
    torch.manual_seed(0)
    ids = load_file(kept)["kept_ids"].tolist()
    said = json.loads(config.read_text()) | {
        "architectures": ["LlamaForCausalLMEagle3"],
        "draft_vocab_size": len(ids),
    }
    asked = folder.parent / "asked.json"
    asked.write_text(json.dumps(said))
    model = AutoDraftModel.from_config(AutoDraftModelConfig.from_file(str(asked)), torch_dtype=torch.bfloat16)
    d2t, t2d = process_token_dict_to_mappings(Counter(ids), len(ids), said["vocab_size"])
    torch.save({"d2t": d2t, "t2d": t2d}, folder.parent / "vocab_mapping.pt")
    model.load_vocab_mapping(str(folder.parent / "vocab_mapping.pt"))
    state = {name: tensor for name, tensor in model.state_dict().items() if "embed" not in name}
    model.save_pretrained(str(folder), state_dict=_serving_state(state, {}))
    apply_legacy_rope_scaling(str(folder))


if __name__ == "__main__":
    paths = list(map(Path, sys.argv[2:]))
    if sys.argv[1] == "make":
        make(*paths)
    else:
        for pair in zip(paths[::2], paths[1::2], strict=True):
            read(*pair)
