"""A manifest is anyone's file: what is in it is proven, and what it speaks of is read as the engines read it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from trimmed_drafters import EAGLE, EAGLE3, trimmed
from vocabtrim.errors import InputError
from vocabtrim.exports.check import check
from vocabtrim.exports.export import export, export_all
from vocabtrim.exports.manifest import MANIFEST, manifest_of, read_manifest
from vocabtrim.vocabulary.kept import KeptVocabulary

ENGINES = ["sglang", "specforge", "model-optimizer"]


@pytest.fixture(scope="module")
def drafter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return trimmed(tmp_path_factory.mktemp("drafter"), EAGLE3)


@pytest.fixture
def served(drafter: tuple[Path, Path], tmp_path: Path) -> Path:
    export_all(drafter[0], ENGINES, out=tmp_path / "served", target=drafter[1])
    return tmp_path / "served"


def rules(path: Path, target: Path | None = None) -> list[str]:
    return [problem.rule for problem in check(path, target).problems]


def test_it_says_what_was_exported(served: Path, drafter: tuple[Path, Path]) -> None:
    kept = KeptVocabulary.load(drafter[0] / "kept.safetensors")
    told = json.loads((served / MANIFEST).read_text())
    assert told["kept_hash"] == kept.hash and told["tokenizer_hash"] == kept.tokenizer_hash
    assert told["made"]["tool"] == "vocabtrim" and told["made"]["version"]
    assert list(told["engines"]) == ENGINES
    for name, part in told["engines"].items():
        files = {path.name for path in (served / name).iterdir()}
        assert files == {MANIFEST, *part["files"]}, "every file is hashed"
        for file, digest in part["files"].items():
            assert hashlib.sha256((served / name / file).read_bytes()).hexdigest() == digest


def test_it_is_found_from_every_folder_that_it_names(served: Path) -> None:
    for place in (served, *(served / name for name in ENGINES), served / "sglang" / "model.safetensors"):
        found = manifest_of(place)
        assert found is not None and found.file == served / MANIFEST
        report = check(place)
        assert report.ok and [note.rule for note in report.notes] == ["export.same"]
        assert all(name in report.notes[0].message for name in ENGINES)


def test_a_neighbour_that_it_does_not_name_is_judged_by_itself(served: Path, drafter: tuple[Path, Path]) -> None:
    shutil.copytree(drafter[0], served / "neighbour")
    assert manifest_of(served / "neighbour") is None
    assert check(served / "neighbour").kind == "EAGLE-3"


@pytest.mark.parametrize("change", ["a byte", "gone", "replaced"])
def test_a_file_that_changed_is_named(change: str, served: Path) -> None:
    file = served / "specforge" / "model.safetensors"
    if change == "a byte":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif change == "gone":
        file.unlink()
    else:
        file.unlink()
        file.mkdir()
    for place in (served, served / "sglang", served / "specforge"):
        [problem] = check(place).problems
        assert problem.rule == "export.changed" and "specforge/model.safetensors" in problem.message
        assert ("is gone" in problem.message) is (change != "a byte")


def test_a_file_that_was_added_is_named(served: Path, drafter: tuple[Path, Path]) -> None:
    """vLLM, say, takes every safetensors file of a folder."""
    shutil.copy(drafter[0] / "kept.safetensors", served / "sglang")
    [problem] = check(served).problems
    assert problem.rule == "export.changed" and "kept.safetensors is no file of the export" in problem.message


def test_one_engines_folder_speaks_for_itself_where_it_goes_alone(served: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(served / "sglang", tmp_path / "alone")
    [note] = check(alone).notes
    assert note.rule == "export.same" and "specforge" not in note.message
    (alone / "config.json").write_text("{}")
    assert rules(alone) == ["export.changed"]


def test_another_number_of_ids_than_there_are_is_found(served: Path) -> None:
    told = json.loads((served / MANIFEST).read_text())
    (served / MANIFEST).write_text(json.dumps(told | {"kept_size": told["kept_size"] + 1}))
    assert rules(served) == ["export.ids"] * len(ENGINES)


def test_a_target_that_is_not_there_is_no_proof(served: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer at"):
        check(served, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert rules(served, tmp_path / "empty") == []  # nobody knows a tokenizer here
    told = json.loads((served / MANIFEST).read_text()) | {"tokenizer_hash": "0" * 64}
    (served / MANIFEST).write_text(json.dumps(told))
    with pytest.raises(InputError, match="no tokenizer at"):
        check(served, tmp_path / "empty")


def rehash(served: Path, engine: str) -> None:
    """As if the manifest had been written with what lies there now."""
    told = json.loads((served / MANIFEST).read_text())
    files = told["engines"][engine]["files"]
    files |= {name: hashlib.sha256((served / engine / name).read_bytes()).hexdigest() for name in files}
    (served / MANIFEST).write_text(json.dumps(told))


def test_other_kept_ids_in_one_engine_are_found(served: Path) -> None:
    """The hashes of files agree; only reading the ids as the engine does shows it."""
    file = served / "sglang" / "model.safetensors"
    weights = load_file(file)
    ids = weights["d2t"] + torch.arange(len(weights["d2t"]))
    free = np.setdiff1d(np.arange(int(ids[3]), 512), ids.numpy())[0]
    ids[3] = int(free)
    save_file(weights | {"d2t": ids - torch.arange(len(ids))}, file)
    assert rules(served) == ["export.changed"]
    rehash(served, "sglang")
    assert rules(served) == rules(served / "model-optimizer") == ["export.ids"]


def test_a_map_that_contradicts_the_head_beside_it_is_found(served: Path) -> None:
    """Model-Optimizer's trainer reads d2t.pt, engines the offsets in the checkpoint."""
    torch.save(
        torch.load(served / "model-optimizer" / "d2t.pt", weights_only=True) + 1, served / "model-optimizer" / "d2t.pt"
    )
    rehash(served, "model-optimizer")
    assert rules(served) == ["export.ids"]


def test_another_kept_vocabulary_in_the_manifest_is_found(served: Path) -> None:
    told = json.loads((served / MANIFEST).read_text()) | {"kept_hash": "0" * 64}
    (served / MANIFEST).write_text(json.dumps(told))
    assert rules(served) == ["export.ids"] * len(ENGINES)


def test_a_target_with_another_tokenizer_is_found(served: Path, tmp_path: Path, drafter: tuple[Path, Path]) -> None:
    import tiny_tokenizer

    told = json.loads((served / MANIFEST).read_text()) | {"tokenizer_hash": "0" * 64}
    (served / MANIFEST).write_text(json.dumps(told))
    other = shutil.copytree(drafter[1], tmp_path / "other")
    tiny_tokenizer.train(other)
    assert rules(served) == [] and rules(served, other) == ["tokenizer.other"]


def whole(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda told: told | changes


def of_sglang(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda told: told | {"engines": {"sglang": told["engines"]["sglang"] | changes}}


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a list": lambda told: [told],
    "no object": lambda told: 7,
    "another schema": whole(schema=2),
    "schema as text": whole(schema="1"),
    "no engines": whole(engines={}),
    "engines as a list": whole(engines=["sglang"]),
    "an engine as a list": whole(engines={"sglang": []}),
    "an unknown engine": whole(engines={"os": {"folder": ".", "tested": {}, "files": {}}}),
    "a size as text": whole(target_vocab="512"),
    "a size of true": whole(kept_size=True),
    "a size below zero": whole(target_vocab=-1),
    "an enormous size": whole(target_vocab=1 << 60),
    "a hash as a number": whole(kept_hash=3),
    "a tokenizer as a list": whole(tokenizer_hash=[]),
    "a folder above": of_sglang(folder=".."),
    "a folder above, hidden": of_sglang(folder="sglang/../.."),
    "an absolute folder": of_sglang(folder="/etc"),
    "a folder of no name": of_sglang(folder=None),
    "a file above": of_sglang(files={"../../secret": "0" * 64}),
    "an absolute file": of_sglang(files={"/etc/passwd": "0" * 64}),
    "a file with a zero byte": of_sglang(files={"a\0b": "0" * 64}),
    "a file that commands a terminal": of_sglang(files={"\x1b[31mred\n\nvocabtrim: ok": "0" * 64}),
    "a file of half a character": of_sglang(files={"\ud800": "0" * 64}),
    "a file of a long name": of_sglang(files={"a" * 5000: "0" * 64}),
    "a number of many digits": whole(kept_size=10**400),
    "files as a list": of_sglang(files=["model.safetensors"]),
    "a digest as a number": of_sglang(files={"model.safetensors": 0}),
    "versions as a list": of_sglang(tested=["0.5.23"]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_one_line(name: str, served: Path) -> None:
    told = json.loads((served / MANIFEST).read_text())
    (served / MANIFEST).write_text(json.dumps(HOSTILE[name](told)))
    with pytest.raises(InputError) as refused:
        read_manifest(served / MANIFEST)
    assert str(refused.value).isprintable() and MANIFEST in str(refused.value)
    assert len(str(refused.value)) < 600
    with pytest.raises(InputError):
        check(served / "sglang")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"{" + b" " * (17 << 20) + b"}"])
def test_a_manifest_that_is_no_json_is_one_line(content: bytes, served: Path) -> None:
    (served / MANIFEST).write_bytes(content)
    with pytest.raises(InputError, match="is no manifest of an export"):
        check(served)


def test_a_manifest_that_is_a_pipe_is_not_waited_for(served: Path) -> None:
    (served / MANIFEST).unlink()
    os.mkfifo(served / MANIFEST)
    with pytest.raises(InputError, match="no regular file"):
        check(served)


def test_a_manifest_that_names_no_file_proves_nothing(served: Path) -> None:
    told = json.loads((served / MANIFEST).read_text())
    told["engines"]["sglang"]["files"] = {}
    (served / MANIFEST).write_text(json.dumps(told))
    assert rules(served) == ["export.changed"]


def test_a_token_map_that_would_run_code_is_a_problem_and_runs_nothing(tmp_path: Path) -> None:
    import hostile

    drafter, owner = trimmed(tmp_path, EAGLE)
    export(drafter, "sglang", out=tmp_path / "out", target=owner)
    marker = tmp_path / "marker"
    (tmp_path / "out" / "hot_tokens.pt").unlink()
    hostile.running_pickle(tmp_path / "out" / "hot_tokens.pt", marker)
    told = json.loads((tmp_path / "out" / MANIFEST).read_text())
    digest = hashlib.sha256((tmp_path / "out" / "hot_tokens.pt").read_bytes()).hexdigest()
    told["engines"]["sglang"]["files"]["hot_tokens.pt"] = digest
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(told))
    assert rules(tmp_path / "out") == ["export.ids"] and not marker.exists()


def test_exports_beside_a_drafter_are_checked_with_it(tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path / "one", EAGLE3)
    export_all(drafter, ENGINES, out=drafter / "exports", target=owner)
    report = check(drafter, owner)
    assert report.ok and report.kind == "EAGLE-3" and "export.same" in {note.rule for note in report.notes}
    again, _ = trimmed(tmp_path / "two", EAGLE3, size=90)
    shutil.copytree(drafter / "exports", again / "exports")
    assert rules(again, owner) == ["export.ids"]
    weights = load_file(drafter / "model.safetensors")
    weights["lm_head.weight"][0, 0] = float("nan")
    save_file(weights, drafter / "model.safetensors")
    assert "head.nonfinite" in rules(drafter, owner)
