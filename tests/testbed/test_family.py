"""A carried model is opened only when it is the one that was trained; Medusa is put together on first use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vocabtrim.cache import default_cache
from vocabtrim.errors import CheckpointError, InputError, OutputError
from vocabtrim.provenance import sha256_file
from vocabtrim.testbed.family import MANIFEST, MEDUSA_BLOCKS, MEMBERS, member


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A family of a few numbers."""
    folder = tmp_path / "family"
    for name in MEMBERS:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps({"name": name}))
    save_file({"model.embed_tokens.weight": torch.randn(10, 4)}, folder / "target" / "model.safetensors")
    blocks = {f"{head}.0.linear.{part}": torch.randn(4, 4) for head in range(2) for part in ("weight", "bias")}
    save_file(blocks, folder / "medusa" / MEDUSA_BLOCKS)
    files = [path for path in folder.rglob("*") if path.is_file()]
    listed = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
    }
    (folder / MANIFEST).write_text(json.dumps({"files": listed}))
    return folder


def test_a_whole_member_is_its_own_folder(family: Path) -> None:
    assert member("eagle", family=family) == family / "eagle"


def test_an_unknown_name_is_answered_with_the_known_ones(family: Path) -> None:
    with pytest.raises(InputError, match="expected target, eagle, eagle3, independent, medusa, found llama"):
        member("llama", family=family)


@pytest.mark.parametrize("change", ["one bit", "shorter", "gone"])
def test_a_damaged_file_is_named_with_both_hashes_or_sizes(family: Path, change: str) -> None:
    file = family / "target" / "model.safetensors"
    content = bytearray(file.read_bytes())
    if change == "gone":
        file.unlink()
    elif change == "shorter":
        file.write_bytes(content[:-1])
    else:
        content[-1] ^= 1
        file.write_bytes(content)
    told = {"one bit": "SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}", "shorter": "bytes, found", "gone": "is missing"}
    with pytest.raises(CheckpointError, match=rf"model\.safetensors .*{told[change]}.*; install vocabtrim again"):
        member("target", family=family)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"files": {}}'])
def test_a_manifest_that_says_nothing_is_damage(family: Path, content: str | None) -> None:
    (family / MANIFEST).unlink()
    if content is not None:
        (family / MANIFEST).write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        member("target", family=family)


def test_medusa_is_the_blocks_and_the_target_s_head(family: Path, tmp_path: Path) -> None:
    place = member("medusa", family=family, cache=tmp_path / "cache")
    weights = load_file(place / "medusa_lm_head.safetensors")
    head = load_file(family / "target" / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(weights["0.1.weight"], head) and torch.equal(weights["1.1.weight"], head)
    assert {name for name in weights if "linear" in name} == set(load_file(family / "medusa" / MEDUSA_BLOCKS))
    assert (place / "config.json").exists()


def test_medusa_is_made_once_and_again_only_if_hurt(family: Path, tmp_path: Path) -> None:
    place = member("medusa", family=family, cache=tmp_path)
    file = place / "medusa_lm_head.safetensors"
    made, content = file.stat().st_mtime_ns, file.read_bytes()
    assert member("medusa", family=family, cache=tmp_path) == place
    assert file.stat().st_mtime_ns == made
    file.write_bytes(content[:-8])
    member("medusa", family=family, cache=tmp_path)
    assert file.read_bytes() == content


def test_a_cache_that_cannot_be_written_says_where_to_put_it(family: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="VOCABTRIM_CACHE"):
        member("medusa", family=family, cache=tmp_path / "file" / "cache")


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VOCABTRIM_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("VOCABTRIM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "vocabtrim"
