"""Writing, reading back, refusing: what all engines share."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vocabtrim as vt
from trimmed_drafters import EAGLE, EAGLE3, trimmed
from vocabtrim.errors import CheckpointError, InputError, OutputError, UnsupportedError
from vocabtrim.exports import export as module
from vocabtrim.exports.engine import Serving
from vocabtrim.exports.engines import ENGINES, engine_named, engines_named
from vocabtrim.exports.export import export, export_all
from vocabtrim.exports.manifest import MANIFEST
from vocabtrim.testbed.shapes import TINY


@pytest.fixture(scope="module")
def eagle3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return trimmed(tmp_path_factory.mktemp("eagle3"), EAGLE3)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_says_what_was_tested_and_reads_back_what_it_wrote(
    name: str, eagle3: tuple[Path, Path], tmp_path: Path
) -> None:
    engine = engine_named(name)
    assert engine.name == name and engine.tested and all(engine.tested.values())
    try:
        written = export(eagle3[0], name, out=tmp_path / "out", target=eagle3[1])
    except (UnsupportedError, InputError) as error:  # another kind, or a tokenizer is wanted: said before it writes
        assert not (tmp_path / "out").exists() and error.remedy
        return
    kept = vt.KeptVocabulary.load(eagle3[0] / "kept.safetensors")
    assert np.array_equal(np.sort(engine.read_ids(tmp_path / "out")), kept.ids)
    assert "{" not in written.serving.command.replace('{"', "") and str(tmp_path / "out") in written.serving.command
    assert written.serving.acceptance
    assert not [path for path in tmp_path.rglob("*.safetensors") if path.name == "kept.safetensors"]
    assert vt.check(tmp_path / "out").ok


def test_what_reads_back_otherwise_is_never_shown(
    eagle3: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line of defence: an engine's reader that finds other ids than were kept."""
    wrong = replace(engine_named("sglang"), read_ids=lambda folder: np.arange(101, dtype=np.int64))
    monkeypatch.setattr(module, "engine_named", lambda name: wrong)
    with pytest.raises(CheckpointError, match="what sglang would read is not what was written"):
        export(eagle3[0], "sglang", out=tmp_path / "out", target=eagle3[1])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_engine_lists_the_known_ones(eagle3: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no such engine: expected {', '.join(ENGINES)}, found ollama"):
        export(eagle3[0], "ollama", out=tmp_path / "out")
    for names in (["sglang", "sglang"], ["sglang,sglang"], [], [""]):
        with pytest.raises(InputError):
            export_all(eagle3[0], names, out=tmp_path / "out")
    assert list(engines_named(["sglang,specforge", "speculators tensorrt-llm"])) == [
        "sglang",
        "specforge",
        "speculators",
        "tensorrt-llm",
    ]


def test_a_newer_engine_is_warned_of_with_both_versions(eagle3: tuple[Path, Path], tmp_path: Path) -> None:
    for number, (version, newer) in enumerate(
        {"0.5.23": False, "0.5.9": False, "0.5.23+cu130": False, "0.5.24rc1": True, "0.5.24": True, "1.0": True}.items()
    ):
        out = tmp_path / str(number)
        told = " ".join(export(eagle3[0], "sglang", out=out, engine_version=version).serving.warnings)
        assert (f"sglang {version} is newer than 0.5.23" in told) == newer, version
    with pytest.raises(InputError, match=r"no version of an engine: .* found newest"):
        export(eagle3[0], "sglang", out=tmp_path / "out", engine_version="newest")
    assert not (tmp_path / "out").exists()


def test_the_installed_engine_is_what_counts_where_no_version_is_given(
    eagle3: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.metadata, "version", lambda package: "9.0")
    told = " ".join(export(eagle3[0], "sglang", out=tmp_path / "out").serving.warnings)
    assert "sglang 9.0 is newer than 0.5.23" in told


def test_what_stands_there_is_left_alone(eagle3: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    for write in (export, lambda *given, **how: export_all(given[0], [given[1]], **how)):
        with pytest.raises(OutputError, match="exists already"):
            write(eagle3[0], "sglang", out=tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()  # an empty folder is taken over
    assert (export(eagle3[0], "sglang", out=tmp_path / "out").out / MANIFEST).exists()


def test_one_engine_that_refuses_leaves_none(tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, EAGLE)
    with pytest.raises(UnsupportedError, match="TensorRT-LLM serves no trimmed"):
        export_all(drafter, ["sglang", "tensorrt-llm"], out=tmp_path / "out", target=owner)
    assert not (tmp_path / "out").exists()


def test_the_folder_carries_the_drafters_companions_and_no_map_of_ours(tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, EAGLE3)
    (drafter / "LICENSE").write_text("terms")
    (drafter / "tokenizer_config.json").write_text("{}")
    export(drafter, "sglang", out=tmp_path / "out", target=owner)
    assert (tmp_path / "out" / "LICENSE").read_text() == "terms"
    assert (drafter / "README.md").exists() and not (tmp_path / "out" / "README.md").exists()
    assert not (tmp_path / "out" / "kept.safetensors").exists()  # engines load every safetensors file they find
    assert "vocabtrim" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize("engine", ["sglang", "tensorrt-llm", "speculators", "specforge", "model-optimizer"])
def test_an_exported_folder_is_a_drafter_again(engine: str, eagle3: tuple[Path, Path], tmp_path: Path) -> None:
    """Checked, converted, trimmed a second time and exported for another engine, as anyone's drafter of that form."""
    drafter, owner = eagle3
    export(drafter, engine, out=tmp_path / "theirs", target=owner)
    (tmp_path / "theirs" / MANIFEST).unlink()
    report = vt.check(tmp_path / "theirs", owner)
    assert report.ok and report.kind == "EAGLE-3", report.problems
    kept = vt.KeptVocabulary.load(drafter / "kept.safetensors")
    read = vt.convert(tmp_path / "theirs", "ids", tmp_path / "ids.safetensors", target=None, target_vocab=512)
    assert np.array_equal(read.ids, kept.ids)
    half = vt.KeptVocabulary(np.union1d(kept.ids[::2], TINY.eos).astype(np.int64), kept.target_vocab)
    vt.trim(tmp_path / "theirs", half, out=tmp_path / "again")
    vt.trim(drafter, half, out=tmp_path / "once")
    again, once = (load_file(tmp_path / name / "model.safetensors") for name in ("again", "once"))
    assert torch.equal(again["lm_head.weight"], once["lm_head.weight"]) and torch.equal(again["d2t"], once["d2t"])
    export(tmp_path / "theirs", "specforge", out=tmp_path / "specforge", target=owner)
    first, last = (load_file(place / "model.safetensors") for place in (drafter, tmp_path / "specforge"))
    assert torch.equal(first["d2t"], last["d2t"]) and torch.equal(first["lm_head.weight"], last["lm_head.weight"])


def test_commands_are_quoted_only_as_words() -> None:
    """Inside a JSON argument, which has quotes of its own, a path stands as it is."""
    serving = Serving('serve {target} --map {out}/hot.pt --json \'{"model": "{out}"}\'', "see {out}", ("of {out}",))
    at = serving.at(Path("a b"), "it's")
    assert at.command == "serve 'it'\"'\"'s' --map 'a b/hot.pt' --json '{\"model\": \"a b\"}'"
    assert at.acceptance == "see a b" and at.warnings == ("of a b",)
    assert Serving("{target}", "").at(Path("x"), "{out}").command == "'{out}'"


@pytest.mark.parametrize("engine", ["vllm", "tensorrt-llm", "speculators", "sglang", "specforge"])
def test_a_shell_takes_the_command_as_it_is_printed(engine: str, eagle3: tuple[Path, Path], tmp_path: Path) -> None:
    """Whatever stands in the paths: each word comes out whole, and JSON is JSON."""
    import subprocess

    out, owner = tmp_path / "a b'c\"d$HOME", tmp_path / "t g't\"x"
    shutil.copytree(eagle3[1], owner)
    command = export(eagle3[0], engine, out=out, target=owner).serving.command
    spy = "".join(f"{name}() {{ printf '%s\\0' \"$@\"; }}; " for name in ("vllm", "trtllm-serve", "python"))
    done = subprocess.run(["bash", "-c", spy + command], capture_output=True, text=True, check=True, cwd=tmp_path)
    words = done.stdout.split("\0")
    assert str(owner) in words and not done.stderr
    if engine in {"vllm", "speculators"}:
        assert json.loads(words[words.index("--speculative-config") + 1])["model"] == str(out)
    elif engine == "tensorrt-llm":
        told = json.loads((tmp_path / "speculative.yaml").read_text())
        assert told["speculative_config"]["speculative_model_dir"] == str(out)
    else:
        assert str(out) in words


def test_a_program_takes_any_path() -> None:
    serving = Serving('# once: convert {target}\nload("{out}/draft.json", "{target}")', "", python=True)
    told = serving.at(Path("a b'c\"d"), 't"x').command
    seen: list[tuple[str, str]] = []
    exec(told, {"load": lambda *given: seen.append(given)})
    assert seen == [("a b'c\"d/draft.json", 't"x')] and told.startswith("# once: convert 't\"x'")
