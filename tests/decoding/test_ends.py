"""What drafters are built on reads the same from a target's folder as from the loaded target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PhiConfig

import small_models
import vocabtrim as vt
from generation import decoded, random_prompts
from vocabtrim.decoding.ends import FolderEnds, ModelEnds
from vocabtrim.decoding.load import open_ends
from vocabtrim.errors import CheckpointError, InputError
from vocabtrim.testbed import shapes

SHAPE = small_models.shape(40)


def phi(out: Path) -> Path:
    """A head with a bias."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = AutoModelForCausalLM.from_config(PhiConfig(vocab_size=40, **sizes))
    torch.nn.init.normal_(model.lm_head.bias)
    model.save_pretrained(out)
    return out


TARGETS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda out: small_models.write_target(out, SHAPE),
    "tied": lambda out: small_models.write_target(out, replace(SHAPE, tie=True)),
    "padded": lambda out: small_models.write_target(out, replace(SHAPE, head_rows=48)),
    "with a head bias": phi,
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_says_what_the_loaded_target_says(tmp_path: Path, kind: str, dtype: str) -> None:
    folder = TARGETS[kind](tmp_path / "target")
    model, read = ModelEnds(vt.load_target(folder, dtype=dtype)), open_ends(folder, dtype=dtype)
    for name in ("folder", "dtype", "device", "family", "vocab", "hidden_size", "layers"):
        assert getattr(model, name) == getattr(read, name), name
    assert torch.equal(model.embedding(), read.embedding())
    heads = model.head(), read.head()
    assert torch.equal(heads[0].weight, heads[1].weight) and heads[0].weight.shape[0] == model.vocab
    assert heads[0].kept_ids is None and heads[1].kept_ids is None
    assert (heads[0].bias is not None) == (kind == "with a head bias") == (heads[1].bias is not None)
    if heads[0].bias is not None and heads[1].bias is not None:
        assert torch.equal(heads[0].bias, heads[1].bias)


def test_a_drafter_built_on_a_folder_drafts_the_same(tmp_path: Path) -> None:
    """EAGLE-1/2 without an embedding: both ends are the target's."""
    folder = small_models.write_target(tmp_path / "target", SHAPE)
    eagle = shapes.write_eagle(tmp_path / "eagle", SHAPE, seed=3, embed=False)
    target = vt.load_target(folder, dtype="float64")
    drafters = [vt.load_drafter(eagle, on) for on in (target, open_ends(folder, dtype="float64"))]
    for prompt in random_prompts(2, 40, [3, 9]):
        rounds = [decoded(target, drafter, prompt, 16) for drafter in drafters]
        assert [(one.tokens, one.accepted, one.drafted) for one in rounds[0]] == [
            (one.tokens, one.accepted, one.drafted) for one in rounds[1]
        ]


def test_alone_is_no_target(tmp_path: Path) -> None:
    found = open_ends(small_models.write_drafter(tmp_path / "alone", "independent", SHAPE), alone=True)
    assert isinstance(found, FolderEnds) and found.folder is None and found.vocab == 40


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        open_ends(tmp_path / "none")
    folder = small_models.write_target(tmp_path / "target", SHAPE)
    (folder / "config.json").write_text('{"model_type": "nobody knows"}')
    with pytest.raises(CheckpointError, match="cannot read the config"):
        open_ends(folder)
    with pytest.raises(InputError, match="unknown dtype"):
        open_ends(folder, dtype="int4")
