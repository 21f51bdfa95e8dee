"""Exported drafters have the tensors of the published layouts, and our own readers know them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vocabtrim.checkpoint.inspect import inspect
from vocabtrim.testbed import tensors
from vocabtrim.testbed.builtin import TOKENIZER
from vocabtrim.testbed.family import whole_medusa
from vocabtrim.testbed.sizes import ModelShape
from vocabtrim.testbed.train import llama
from vocabtrim.testbed.train.eagle import Eagle
from vocabtrim.testbed.train.eagle3 import Eagle3
from vocabtrim.testbed.train.export_drafters import write_eagle, write_eagle3, write_medusa_blocks
from vocabtrim.testbed.train.export_target import export
from vocabtrim.testbed.train.medusa import Medusa
from vocabtrim.testbed.train.sizes import END, END_OF_TEXT, TARGET, VOCAB

SHAPE = ModelShape(
    "family",
    hidden=TARGET.hidden,
    intermediate=TARGET.intermediate,
    layers=TARGET.layers,
    heads=TARGET.heads,
    kv_heads=TARGET.kv_heads,
    vocab=VOCAB,
    head_rows=VOCAB,
    bos=END_OF_TEXT,
    eos=(END, END_OF_TEXT),
    head_dim=TARGET.head_dim,
    tie=True,
)


def named(layout: list[tensors.Tensor]) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.shape for tensor in layout}


def held(file: Path) -> dict[str, tuple[int, ...]]:
    weights = load_file(file)
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    return {name: tuple(weight.shape) for name, weight in weights.items()}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained target, exported."""
    folder = tmp_path_factory.mktemp("family")
    model = llama.build(llama.config(TARGET), seed=0)
    torch.save({"module": model.state_dict()}, folder / "checkpoint.pt")
    tokenizer = TOKENIZER
    export(folder / "checkpoint.pt", tokenizer, folder / "target", TARGET)
    return folder / "target"


def test_the_target_is_a_llama_with_stop_tokens(target: Path) -> None:
    assert held(target / "model.safetensors") == named(tensors.causal_lm(SHAPE))
    assert (target / "generation_config.json").exists() and (target / "tokenizer.json").exists()


def test_eagle(target: Path, tmp_path: Path) -> None:
    write_eagle(Eagle().state_dict(), tmp_path / "eagle")
    assert held(tmp_path / "eagle" / "model.safetensors") == named(tensors.eagle(SHAPE, embed=False, fc_bias=False))
    assert inspect(tmp_path / "eagle", target).kind == "EAGLE-1/2"


def test_eagle3_has_a_full_head_and_no_maps(target: Path, tmp_path: Path) -> None:
    write_eagle3(Eagle3().state_dict(), tmp_path / "eagle3")
    layout = tensors.eagle3(SHAPE, draft_vocab=VOCAB, block="midlayer", embed=False)
    assert held(tmp_path / "eagle3" / "model.safetensors") == named(layout)
    assert inspect(tmp_path / "eagle3", target).kind == "EAGLE-3"


def test_medusa_is_whole_with_the_target_s_head(target: Path, tmp_path: Path) -> None:
    write_medusa_blocks(Medusa().state_dict(), tmp_path / "medusa")
    blocks = load_file(tmp_path / "medusa" / "medusa_blocks.safetensors")
    head = load_file(target / "model.safetensors")["model.embed_tokens.weight"]
    save_file(whole_medusa(blocks, head), tmp_path / "medusa" / "medusa_lm_head.safetensors")
    (tmp_path / "medusa" / "medusa_blocks.safetensors").unlink()
    assert held(tmp_path / "medusa" / "medusa_lm_head.safetensors") == named(tensors.medusa(SHAPE, heads=3, layers=1))
    assert inspect(tmp_path / "medusa", target).kind == "Medusa"
