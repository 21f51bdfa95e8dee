"""Run by the python of an environment that holds NVIDIA's Model-Optimizer: a drafter's folder, read or made by it.

    model_optimizer_folder.py read FOLDER ANSWER.safetensors [FOLDER ANSWER.safetensors ...]
    model_optimizer_folder.py make FOLDER CONFIG KEPT.safetensors

read: what its module and its loader of d2t.pt hold afterwards, name by name. make: a random drafter and its d2t.pt, in
frequency order.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from modelopt.torch.export.plugins.hf_spec_export import EagleExporter
from modelopt.torch.speculative.plugins.hf_eagle import HFEagleModel
from modelopt.torch.speculative.plugins.modeling_eagle import EagleModule
from modelopt.torch.speculative.utils import calibrate_frequent_vocab
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer


def build(said: dict[str, object]) -> SimpleNamespace:
    """The module as `HFEagleModel` builds it, and what the exporter and the map loader ask of the model around it."""
    config = LlamaConfig(**{key: value for key, value in said.items() if key != "eagle_config"})
    config.use_last_layernorm = config.use_aux_hidden_state = True
    config.has_lm_head, config.eagle_decoder_type = False, "llama"
    config.eagle_aux_hidden_state_layer_ids = [1, 2, 3]
    config._attn_implementation = "eager"
    return SimpleNamespace(eagle_config=config, eagle_module=EagleModule(config, LlamaDecoderLayer))


def read(folder: Path, answer: Path) -> None:
    model = build(json.loads((folder / "config.json").read_text()))
    weights = load_file(folder / "model.safetensors")
    EagleExporter(model)._check_valid_sd({name: tensor for name, tensor in weights.items() if name != "d2t"})
    model.eagle_module.load_state_dict(weights, strict=True)
    of_checkpoint = model.eagle_module.d2t.clone()
    model.eagle_module.d2t.zero_()
    HFEagleModel.load_draft_vocab_cache(model, str(folder / "d2t.pt"))
    assert torch.equal(model.eagle_module.d2t, of_checkpoint)
    state = {name: tensor.clone() for name, tensor in model.eagle_module.state_dict().items()}
    save_file(state | {"ids": of_checkpoint + torch.arange(len(of_checkpoint))}, answer)


class Words:
    """A tokenizer of nothing but ids, so that the library's own counting puts them in the order of frequency."""

    def apply_chat_template(self, conversation: list[int], **_: object) -> list[int]:
        return conversation


def make(folder: Path, config: Path, kept: Path) -> None:
    torch.manual_seed(0)
    ids = load_file(kept)["kept_ids"]
    said = json.loads(config.read_text()) | {"draft_vocab_size": len(ids), "architectures": ["LlamaForCausalLMEagle3"]}
    model = build(said)
    order = ids[torch.randperm(len(ids))].tolist()
    told = [token for rank, token in enumerate(order) for _ in range(len(order) - rank)]
    d2t = calibrate_frequent_vocab(Words(), told, len(ids))
    folder.mkdir()
    torch.save(d2t, folder / "d2t.pt")
    HFEagleModel.load_draft_vocab_cache(model, str(folder / "d2t.pt"))
    state = {name: tensor.contiguous() for name, tensor in model.eagle_module.state_dict().items()}
    EagleExporter(model)._check_valid_sd({name: tensor for name, tensor in state.items() if name != "d2t"})
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(said))


if __name__ == "__main__":
    paths = list(map(Path, sys.argv[2:]))
    if sys.argv[1] == "make":
        make(*paths)
    else:
        for pair in zip(paths[::2], paths[1::2], strict=True):
            read(*pair)
