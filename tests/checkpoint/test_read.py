"""Untrusted checkpoints: every bad file is refused in one line, none runs code, none is half-read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hostile
from drafters import DRAFTERS, target
from vocabtrim.checkpoint.layouts import identify
from vocabtrim.checkpoint.read import open_checkpoint, read_tensors
from vocabtrim.checkpoint.trim import trim
from vocabtrim.errors import CheckpointError, InputError, VocabTrimError
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

KEPT = KeptVocabulary(np.array([2, 5, 7]), TINY.vocab)


def name(make: Callable[[Path], Path]) -> str:
    return make.__name__


def assert_one_line(error: VocabTrimError) -> None:
    assert error.exit_code == 2 and "\n" not in str(error) and error.remedy in str(error), str(error)


@pytest.mark.parametrize("make", hostile.REFUSED_SAFETENSORS, ids=name)
def test_unsound_safetensors_are_refused(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a sound safetensors file") as caught:
        read_tensors(make(tmp_path / "model.safetensors"))
    assert_one_line(caught.value)


@pytest.mark.parametrize(
    "make",
    [*hostile.REFUSED_TORCH, hostile.legacy_torch, hostile.compressed_bin, hostile.bin_not_a_state_dict],
    ids=name,
)
def test_unsound_torch_files_are_refused_and_never_run(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_tensors(make(tmp_path / "pytorch_model.bin"))
    assert_one_line(caught.value)
    assert not list(tmp_path.glob("*.ran"))


@pytest.mark.parametrize("make", hostile.BAD_FOLDERS, ids=name)
def test_bad_folders_are_refused_before_anything_is_written(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "drafter")
    with pytest.raises(VocabTrimError) as caught:
        trim(folder, KEPT, target=target(tmp_path / "target"), out=tmp_path / "out")
    assert_one_line(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_cut_short_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    """The header was sound; the bytes vanish between planning and reading."""
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    tensor = open_checkpoint(drafter).tensors["lm_head.weight"]
    with tensor.path.open("r+b") as file:
        file.truncate(tensor.offset + 100)
    with pytest.raises(CheckpointError, match=r"ends inside tensor lm_head\.weight"):
        tensor.read()


def test_offsets_of_torch_tensors_are_their_bytes(tmp_path: Path) -> None:
    """Shared storages, slices into a storage, and every dtype: our byte ranges hold what torch itself loads."""
    base = torch.arange(40, dtype=torch.int64)
    saved = {
        "whole": base,
        "slice": base[7:19],
        "twin": base,
        "bf16": torch.randn(6, 3).bfloat16(),
        "half": torch.randn(5).half(),
        "mask": torch.rand(9) > 0.5,
        "fp8": torch.randn(4, 4).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(3.5),
    }
    torch.save(saved, tmp_path / "x.bin")
    found = {tensor.name: tensor for tensor in read_tensors(tmp_path / "x.bin")}
    loaded = torch.load(tmp_path / "x.bin", weights_only=True)
    for key, tensor in loaded.items():
        assert found[key].shape == tuple(tensor.shape)
        assert found[key].read() == tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else True
    assert found["scalar"].read() == np.float32(3.5).tobytes()


def test_a_transposed_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.randn(4, 3).t()}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="contiguous"):
        read_tensors(tmp_path / "x.bin")


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_every_published_layout_is_told_by_its_tensors(drafter: str, tmp_path: Path) -> None:
    kinds = {"independent": "independent", "EAGLE": "EAGLE-1/2", "EAGLE-3": "EAGLE-3", "Medusa": "Medusa", "MTP": "MTP"}
    found = identify(open_checkpoint(DRAFTERS[drafter](tmp_path / "d")), open_checkpoint(target(tmp_path / "t")))
    assert found.kind == kinds[drafter.split(",", maxsplit=1)[0]]
    assert found.tied == ("tied" in drafter)


def test_medusa_heads_are_counted_by_their_tensors(tmp_path: Path) -> None:
    """Published configs say 2 and hold 5."""
    drafter = identify(open_checkpoint(shapes.write_medusa(tmp_path / "d", TINY, seed=5, heads=5)))
    assert json.loads((tmp_path / "d" / "config.json").read_text())["medusa_num_heads"] == 2
    assert [head.name for head in drafter.heads] == [f"{i}.1.weight".removesuffix(".weight") for i in range(5)]


@pytest.mark.parametrize(
    "matrix", ["fc", "layers.0.self_attn.q_proj", "layers.0.self_attn.o_proj", "layers.0.mlp.up_proj"]
)
def test_an_eagle_drafter_with_a_hole_is_refused(matrix: str, tmp_path: Path) -> None:
    drafter = shapes.write_eagle(tmp_path / "d", TINY, seed=3)
    weights = load_file(drafter / "model.safetensors")
    del weights[f"{matrix}.weight"]
    save_file(weights, drafter / "model.safetensors")
    with pytest.raises(CheckpointError, match="incomplete"):
        identify(open_checkpoint(drafter), open_checkpoint(target(tmp_path / "t")))


def test_an_independent_drafter_with_a_missing_layer_is_refused(tmp_path: Path) -> None:
    drafter = shapes.write_independent(tmp_path / "d", TINY, seed=2)
    weights = {key: value for key, value in load_file(drafter / "model.safetensors").items() if ".layers.1." not in key}
    save_file(weights, drafter / "model.safetensors")
    with pytest.raises(CheckpointError, match="layer 1 missing"):
        identify(open_checkpoint(drafter))


def test_no_folder_and_an_empty_folder_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "nothing", "no checkpoint"), (tmp_path / "empty", "holds no weights")):
        with pytest.raises(InputError, match=message) as caught:
            open_checkpoint(path)
        assert_one_line(caught.value)
