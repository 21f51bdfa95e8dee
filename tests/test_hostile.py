"""The bad files are bad in the way their makers say: the libraries refuse what they should, and no code runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

import hostile

Maker = Callable[[Path], Path]


@pytest.mark.parametrize("make", hostile.REFUSED_SAFETENSORS)
def test_safetensors_refuses(make: Maker, tmp_path: Path) -> None:
    with pytest.raises(SafetensorError), safe_open(make(tmp_path / "model.safetensors"), framework="np"):
        pass


def test_the_two_gigabytes_are_a_hole(tmp_path: Path) -> None:
    stat = hostile.two_gigabyte_header(tmp_path / "model.safetensors").stat()
    assert stat.st_size > 2 << 30 and stat.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("make", hostile.REFUSED_TORCH)
def test_torch_refuses_and_runs_nothing(make: Maker, tmp_path: Path) -> None:
    path = make(tmp_path / "pytorch_model.bin")
    with pytest.raises(Exception):  # noqa: B017  torch has many kinds for it
        torch.load(path, weights_only=True)
    assert [file.name for file in tmp_path.iterdir()] == ["pytorch_model.bin"]


@pytest.mark.parametrize("zipped", [True, False])
def test_the_pickle_would_run(zipped: bool, tmp_path: Path) -> None:
    """A bomb that cannot go off would prove nothing: loaded carelessly, both forms create the marker."""
    marker = tmp_path / "marker"
    path = hostile.running_pickle(tmp_path / "pytorch_model.bin", marker, zipped=zipped)
    assert not marker.exists()
    torch.load(path, weights_only=False)["config"].close()
    assert marker.exists()


def test_readable_files_are_readable(tmp_path: Path) -> None:
    head = load_file(hostile.nan_rows(tmp_path / "nan.safetensors", (1, 6)))[hostile.HEAD]
    assert np.isnan(head).all(axis=1).nonzero()[0].tolist() == [1, 6] and np.isnan(head).sum() == 8
    old = torch.load(hostile.legacy_torch(tmp_path / "old.bin"), weights_only=True)
    assert old[hostile.HEAD].shape == (8, 4)
    assert hostile.compressed_bin(tmp_path / "zip.bin").stat().st_size < 100_000
    assert isinstance(torch.load(hostile.bin_not_a_state_dict(tmp_path / "list.bin"), weights_only=True), list)


@pytest.mark.parametrize("make", hostile.BAD_FOLDERS)
def test_folders_are_made(make: Maker, tmp_path: Path) -> None:
    folder = make(tmp_path / "models" / "deep" / "drafter")
    assert folder.is_dir() and any(folder.iterdir())


def test_shard_outside_really_leaves_the_folder(tmp_path: Path) -> None:
    folder = hostile.shard_outside(tmp_path / "models" / "deep" / "drafter")
    shard = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][hostile.HEAD]
    with safe_open((folder / shard).resolve(), framework="np") as file:
        assert hostile.HEAD in file.keys()  # noqa: SIM118
    assert folder.resolve() not in (folder / shard).resolve().parents
