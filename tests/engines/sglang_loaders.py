"""SGLang's own loaders of drafters, taken out of an installed package by name and run as they stand.

    sglang_loaders.py SITE_PACKAGES token-map FILE ANSWER.safetensors
    sglang_loaders.py SITE_PACKAGES eagle FOLDER ANSWER.safetensors
    sglang_loaders.py SITE_PACKAGES eagle3 FOLDER ANSWER.safetensors

Importing the package needs CUDA kernels. These functions do not: `load_token_map` of speculative/spec_utils.py reads
the map; `load_weights` of models/llama_eagle3.py and models/llama_eagle.py says which tensors are taken under which
names. They meet a module that has a parameter wherever SGLang's classes have one, and nothing else.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

ATTENTION, MLP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


def taken(file: Path, name: str, known: dict[str, Any]) -> Any:
    """A function, or a method as Class.name, compiled from the package's file with `known` around it."""
    body: list[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
    for part in name.split("."):
        [found] = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part]
        body = found.body
    assert isinstance(found, ast.FunctionDef)
    found.decorator_list, found.returns = [], None
    for argument in found.args.args:
        argument.annotation = None
    exec(compile(ast.Module([found], []), str(file), "exec"), known)
    return known[found.name]


class Received(nn.Module):
    """Parameters by name, each of which keeps what it is given; fused ones keep their parts."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.shapes, self.given = shapes, {}

    def named_parameters(self) -> Any:
        for name, shape in self.shapes.items():
            parameter = torch.full(shape, torch.nan)
            parameter.weight_loader = lambda _, loaded, part=None, name=name: self.keep(name, loaded, part)
            yield name, parameter

    def keep(self, name: str, loaded: torch.Tensor, part: object = None) -> None:
        self.given[name if part is None else f"{name}:{part}"] = loaded.clone()


def block(config: dict[str, Any], number: int, width: int) -> dict[str, tuple[int, ...]]:
    """The parameters of a decoder layer; attention and gates are fused."""
    hidden, inner, place = config["hidden_size"], config["intermediate_size"], f"model.layers.{number}."
    return {
        f"{place}self_attn.qkv_proj.weight": (1, width),
        f"{place}self_attn.o_proj.weight": (hidden, 1),
        f"{place}mlp.gate_up_proj.weight": (2 * inner, hidden),
        f"{place}mlp.down_proj.weight": (hidden, inner),
        f"{place}post_attention_layernorm.weight": (hidden,),
    }


def eagle3(srt: Path, folder: Path) -> dict[str, torch.Tensor]:
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle3"]
    load = taken(
        srt / "models" / "llama_eagle3.py",
        "LlamaForCausalLMEagle3.load_weights",
        {"torch": torch, "default_weight_loader": None},
    )
    hidden = config["hidden_size"]
    model = Received(
        block(config, 0, 2 * hidden)
        | {"model.layers.0.input_layernorm.weight": (hidden,), "model.layers.0.hidden_norm.weight": (hidden,)}
        | {"model.fc.weight": (hidden, 3 * hidden), "model.norm.weight": (hidden,)}
        | {"lm_head.weight": (config["draft_vocab_size"], hidden)}
    )
    load(model, load_file(folder / "model.safetensors").items())
    return model.given | {"ids": model.hot_token_id}


def eagle(srt: Path, folder: Path) -> dict[str, torch.Tensor]:
    """`LlamaForCausalLMEagle.load_weights` hands names on to its base class, which takes those that it has."""
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle"]
    hidden = config["hidden_size"]
    model = Received(block(config, 0, hidden) | {"model.fc.weight": (hidden, 2 * hidden), "model.fc.bias": (hidden,)})
    handed: list[tuple[str, torch.Tensor]] = []
    base = SimpleNamespace(load_weights=handed.extend)
    load = taken(srt / "models" / "llama_eagle.py", "LlamaForCausalLMEagle.load_weights", {"super": lambda: base})
    load(model, load_file(folder / "model.safetensors").items())
    fused = {f".{part}.": (".qkv_proj.", part[0]) for part in ATTENTION} | {
        f".{part}.": (".gate_up_proj.", number) for number, part in enumerate(MLP)
    }
    parameters = dict(model.named_parameters())
    for name, tensor in handed:
        match = next(((old, new, part) for old, (new, part) in fused.items() if old in name), None)
        place = name if match is None else name.replace(match[0], match[1])
        if place in parameters:
            parameters[place].weight_loader(None, tensor, None if match is None else match[2])
    return model.given


def token_map(srt: Path, file: Path) -> dict[str, torch.Tensor]:
    load = taken(srt / "speculative" / "spec_utils.py", "load_token_map", {"os": os, "torch": torch})
    return {"ids": load(str(file))}


if __name__ == "__main__":
    site, what, where, answer = sys.argv[1:]
    read = {"token-map": token_map, "eagle": eagle, "eagle3": eagle3}[what]
    save_file(
        {name: part.contiguous() for name, part in read(Path(site, "sglang", "srt"), Path(where)).items()}, answer
    )
