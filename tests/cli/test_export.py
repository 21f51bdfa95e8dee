"""`vocabtrim export`, `trim --export` and `check` of what they wrote, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import assert_bad_input
from vocabtrim.testbed.builtin import write_builtin


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_builtin(tmp_path_factory.mktemp("builtin") / "models")


@pytest.fixture(scope="module")
def kept(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import vocabtrim as vt

    counts = vt.count([str(models / "chat.jsonl")], tokenizer=models / "target")
    choice = vt.choose(counts, 700, drafter=models / "eagle3", target=models / "target")
    out = tmp_path_factory.mktemp("kept") / "kept.safetensors"
    assert choice.kept is not None
    choice.kept.save(out)
    return out


def trim(models: Path, kept: Path, drafter: str, out: Path) -> list[object]:
    return ["trim", models / drafter, "--target", models / "target", "--kept", kept, "--out", out]


def test_one_list_for_many_servers(models: Path, kept: Path, tmp_path: Path, vocabtrim: Any) -> None:
    """Written beside the drafter with one manifest; check on any of them proves that all carry the same ids."""
    out = tmp_path / "out"
    command = [*trim(models, kept, "eagle3", out), "--export", "sglang,tensorrt-llm", "--export", "speculators"]
    run = vocabtrim(*command)
    assert run.code == 0, run.err
    assert "--speculative-algorithm EAGLE3" in run.out and "trtllm-serve" in run.out and "vllm serve" in run.out
    names = ["sglang", "speculators", "tensorrt-llm"]
    assert sorted(path.name for path in (out / "exports").iterdir()) == [*names, "vocabtrim-export.json"]
    for place in (out, out / "exports", *(out / "exports" / name for name in names)):
        checked = vocabtrim("check", place, "--target", models / "target")
        assert checked.code == 0 and "the same 700 kept ids" in checked.out, checked.out
    (out / "exports" / "sglang" / "config.json").write_text("{}")
    for place in (out, out / "exports" / "speculators"):
        checked = vocabtrim("check", place)
        assert checked.code == 1 and "export.changed" in checked.out


def test_json_tells_each_export(models: Path, kept: Path, tmp_path: Path, vocabtrim: Any) -> None:
    told = vocabtrim(*trim(models, kept, "eagle", tmp_path / "out"), "--export", "sglang", "--json").json
    [written] = told["exports"]
    assert written["engine"] == "sglang" and written["out"] == str(tmp_path / "out" / "exports" / "sglang")
    assert "hot_tokens.pt" in written["command"] and written["acceptance"] and written["warnings"]


def test_an_engine_that_refuses_is_named_before_anything_is_counted(
    models: Path, tmp_path: Path, vocabtrim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting may take hours: here it would fail the test."""
    from vocabtrim import job

    monkeypatch.setattr(job, "count", lambda *_, **__: pytest.fail("counted first"))
    common = ["trim", models / "independent", "--target", models / "target", "--calibrate", models / "chat.jsonl"]
    for engines, facts in ((["sglang"], ("STANDALONE",)), (["ollama"], ("no such engine", "ollama"))):
        asked = [part for engine in engines for part in ("--export", engine)]
        assert_bad_input(vocabtrim(*common, "--out", tmp_path / "out", *asked), *facts)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_that_shows_late_says_that_the_drafter_stands(
    models: Path, kept: Path, tmp_path: Path, vocabtrim: Any
) -> None:
    """A variant that only SGLang refuses: the trim is whole, and can be exported for another engine."""
    drafter = tmp_path / "drafter"
    import shutil

    shutil.copytree(models / "eagle3", drafter)
    config = json.loads((drafter / "config.json").read_text()) | {"norm_before_residual": True}
    (drafter / "config.json").write_text(json.dumps(config))
    command = [*trim(models, kept, "eagle3", tmp_path / "out"), "--export", "sglang"]
    command[1] = drafter
    assert_bad_input(vocabtrim(*command), "was written, but nothing for engines", "norm_before_residual")
    assert vocabtrim("check", tmp_path / "out").code == 0 and not (tmp_path / "out" / "exports").exists()


def test_export_writes_one_engine_or_several(models: Path, kept: Path, tmp_path: Path, vocabtrim: Any) -> None:
    assert vocabtrim(*trim(models, kept, "eagle3", tmp_path / "trimmed")).code == 0
    common = ["export", tmp_path / "trimmed", "--target", models / "target"]
    run = vocabtrim(*common, "--engine", "sglang", "--out", tmp_path / "one", "--engine-version", "0.6.1")
    assert run.code == 0 and f"{tmp_path / 'one'}: for sglang" in run.out
    assert "warning: sglang 0.6.1 is newer than 0.5.23" in run.out
    told = vocabtrim(*common, "--engine", "sglang", "--out", tmp_path / "json", "--json").json
    assert told["engine"] == "sglang" and told["out"] == str(tmp_path / "json")
    told = vocabtrim(*common, "--engine", "sglang, specforge", "--out", tmp_path / "two", "--json").json
    assert [one["out"] for one in told["exports"]] == [str(tmp_path / "two" / name) for name in ("sglang", "specforge")]
    assert vocabtrim("check", tmp_path / "two" / "specforge").code == 0
    assert_bad_input(
        vocabtrim(*common, "--engine", "sglang,specforge", "--out", tmp_path / "x", "--engine-version", "1"), "version"
    )


def test_bad_input_is_one_line_and_writes_nothing(models: Path, kept: Path, tmp_path: Path, vocabtrim: Any) -> None:
    assert vocabtrim(*trim(models, kept, "medusa", tmp_path / "medusa")).code == 0
    out = ["--engine", "sglang", "--out", tmp_path / "out"]
    assert_bad_input(vocabtrim("export", tmp_path / "medusa", *out), "Medusa", "no Medusa worker")
    untrimmed = ["export", models / "eagle", "--target", models / "target"]
    assert_bad_input(vocabtrim(*untrimmed, *out), "is not trimmed", "vocabtrim trim")
    assert_bad_input(vocabtrim("export", tmp_path / "nowhere", *out), "no checkpoint at")
    assert_bad_input(vocabtrim("export", tmp_path / "medusa", "--engine", "nope", "--out", tmp_path / "out"), "nope")
    assert_bad_input(
        vocabtrim("export", tmp_path / "medusa", "--engine", "sglang", "--out", models / "target"), "exists already"
    )
    assert not (tmp_path / "out").exists()
