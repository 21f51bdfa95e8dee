"""`vocabtrim tune` on a target of a few ids: what it writes, what others make of that, and what it refuses.

Models this small say nothing of speed, so no figure of time is asserted; what pays and what does not is decided on
made-up times in tests/tuning/.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vocabtrim as vt
from conftest import Finished, assert_bad_input
from vocabtrim.calibrate.tokenizer import tokenizer_facts
from vocabtrim.checkpoint.layouts import EAGLE
from vocabtrim.checkpoint.read import open_checkpoint
from vocabtrim.checkpoint.stored import fingerprint
from vocabtrim.checkpoint.tuned import TUNED_FILE, Tuned, read_tuned, write_tuned
from vocabtrim.provenance import this_machine
from vocabtrim.testbed.builtin import write_builtin
from vocabtrim.vocabulary.kept import KeptVocabulary

FAST = ("--minutes", "0.05", "--max-new-tokens", "12", "--dtype", "float32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/ with target and drafters, and questions.jsonl."""
    root = tmp_path_factory.mktemp("tune")
    write_builtin(root / "models")
    asked = [{"prompt": text} for text in ("Why?", "Name a river.", "One and one?", "Say it again.")]
    (root / "questions.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in asked))
    return root


@pytest.fixture
def tune(place: Path, vocabtrim: Any, tmp_path: Path) -> Callable[..., Finished]:
    def call(*options: object, **other: object) -> Finished:
        told = {
            "target": place / "models" / "target",
            "drafter": place / "models" / "eagle",
            "questions": place / "questions.jsonl",
            "out": tmp_path / "tuned",
        } | other
        named = [word for name, value in told.items() if value is not None for word in (f"--{name}", value)]
        return vocabtrim("tune", *named, *FAST, *options)  # type: ignore[no-any-return]

    return call


@pytest.fixture
def tuned(place: Path, tmp_path: Path) -> Callable[..., Path]:
    """A folder as tune would have written it: the built-in drafter, trimmed, with a tuned.json of these entries."""

    def make(**entries: Any) -> Path:
        out = tmp_path / "made"
        target, vocab = place / "models" / "target", vocabulary(place)
        kept = KeptVocabulary(np.delete(np.arange(vocab), np.s_[100 : vocab // 2]), vocab)  # stop ids come last
        vt.trim(place / "models" / "eagle", kept, target=target, out=out)
        found = Tuned(
            speculate=True,
            verdict="trim",
            reason="twice the target alone",
            kept_size=kept.size,
            target=fingerprint(open_checkpoint(target).tensors.values()),
            dtype="float32",
            device="cpu",
            machine=this_machine(),
            draft_length=2,
            nodes=6,
            branching=3,
            chain=2,
        )
        write_tuned(out, replace(found, **entries))
        return out

    return make


def vocabulary(place: Path) -> int:
    """Ids of the tokenizer; the head has a few rows more."""
    return tokenizer_facts(place / "models" / "target").vocab_size


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if ".partial-" in path.name)


def test_what_is_written_is_a_drafter_that_generate_and_bench_go_by(
    tune: Any, vocabtrim: Any, place: Path, tmp_path: Path
) -> None:
    run = tune("--json")
    assert run.code == 0, run.err
    found, out = run.json, tmp_path / "tuned"
    assert set(found) >= {"verdict", "reason", "kept_size", "draft_length", "branching", "speedup_interval", "measured"}
    assert found["verdict"] in {"trim", "do not trim", "do not speculate"}
    assert found["predicted"] > 100 and found["replayed_tokens"] > 0 and left_behind(tmp_path) == []
    assert found["measured"][0]["name"] == "autoregressive" and len(found["measured"]) > 2
    assert found["full_size"] in found["kept_sizes"] and len(found["kept_sizes"]) > 1
    told = read_tuned(out)
    assert told is not None and told.kept_size == found["kept_size"] and told.made["tool"] == "vocabtrim"
    assert told.speculate == found["speculate"] and told.machine == this_machine()
    target = place / "models" / "target"
    opened = vt.load_target(target, dtype="float32")
    assert vt.load_drafter(out, opened).body.head.weight.shape[0] == found["kept_size"]  # type: ignore[attr-defined]
    assert vocabtrim("check", out, "--target", target).code == 0
    said = vocabtrim("generate", "Why?", "--target", target, "--drafter", out, "--dtype", "float32", "--json")
    assert said.code == 0 and "tuned" in said.err and (said.json["kind"] is None) == (not found["speculate"])


def test_people_are_told_what_was_tried_and_how_sure_it_is(tune: Any) -> None:
    run = tune()
    assert run.code == 0, run.err
    for words in ("Tried: ", "combinations of kept size", "measured live", "How sure: ", "Verdict: ", "tuned.json"):
        assert words in run.out
    assert "the target answers 4 questions" in run.err


@pytest.mark.parametrize("kind", ["independent", "medusa"])
def test_every_kind_of_drafter(kind: str, tune: Any, place: Path, tmp_path: Path) -> None:
    run = tune("--json", drafter=place / "models" / kind)
    assert run.code == 0, run.err
    told = read_tuned(tmp_path / "tuned")
    assert told is not None
    if kind == "medusa":
        assert told.nodes is not None and told.draft_length is told.branching is told.chain is None
    else:
        assert told.draft_length is not None and told.chain is not None


def test_kept_vocabularies_are_taken(tune: Any, place: Path, tmp_path: Path) -> None:
    vocab = vocabulary(place)
    kept = KeptVocabulary(np.arange(vocab // 4, dtype=np.int64), vocab)
    kept.save(tmp_path / "kept.safetensors")
    by_kept = tune("--json", "--kept", tmp_path / "kept.safetensors")
    assert by_kept.json["kept_sizes"] == [vocab // 4, by_kept.json["full_size"]]
    assert by_kept.json["calibrated"] == "given kept vocabularies"
    assert_bad_input(tune("--kept", "kept.safetensors", "--calibrate", "text.txt", out=tmp_path / "third"), "both")


@pytest.mark.slow
def test_calibration_text_is_counted(tune: Any, place: Path) -> None:
    text = place / "models" / "text.txt"
    by_text = tune("--json", "--calibrate", text)
    assert by_text.json["calibrated"] == str(text) and len(by_text.json["kept_sizes"]) > 2


def test_a_drafter_that_stays_as_it_is_is_linked(place: Path, tmp_path: Path, tuned: Any) -> None:
    from vocabtrim.tuning.folder import fill

    drafter, told = place / "models" / "eagle", read_tuned(tuned())
    assert told is not None
    out = tmp_path / "linked"
    out.mkdir()
    fill(out, drafter, told, ours=False)
    weights = next(out.glob("*.safetensors"), None) or next(out.glob("*.bin"))
    assert weights.is_symlink() and weights.resolve().parent == drafter.resolve()
    assert read_tuned(out) == told and read_tuned(drafter) is None
    vt.load_drafter(out, vt.load_target(place / "models" / "target", dtype="float32"))


# What others make of it


def test_generate_drafts_as_it_was_tuned(tuned: Any, vocabtrim: Any, place: Path) -> None:
    command = ("generate", "Why?", "--target", place / "models" / "target", "--drafter", tuned(), "--json")
    run = vocabtrim(*command, "--dtype", "float32", "--max-new-tokens", 6)
    assert run.json["notes"] == ["made was tuned: draft length 2, nodes 6, branching 3"]
    assert run.json["drafted"] <= 5 * run.json["rounds"]
    given = vocabtrim(*command, "--dtype", "float32", "--max-new-tokens", 6, "--branching", 1, "--draft-length", 3)
    assert given.json["notes"] == [] and given.json["drafted"] <= 3 * given.json["rounds"]
    other = vocabtrim(*command, "--max-new-tokens", 6)
    assert other.json["notes"][1].startswith("it was tuned in float32: what is best here may differ")


def test_generate_leaves_a_slow_drafter_alone_and_says_why(tuned: Any, vocabtrim: Any, place: Path) -> None:
    folder = tuned(speculate=False, verdict="do not speculate", reason="The target alone is faster")
    command = ("generate", "Why?", "--target", place / "models" / "target", "--drafter", folder, "--json")
    run = vocabtrim(*command, "--dtype", "float32", "--max-new-tokens", 6)
    assert run.json["kind"] is None and run.json["drafted"] == 0
    assert run.json["notes"] == ["made was tuned: do not speculate. The target alone is faster"]
    asked = vocabtrim(*command, "--dtype", "float32", "--max-new-tokens", 6, "--draft-length", 2)
    assert asked.json["kind"] == EAGLE and asked.json["drafted"] > 0


def test_bench_measures_it_as_it_was_tuned(tuned: Any, vocabtrim: Any, place: Path, tmp_path: Path) -> None:
    folder = tuned(speculate=False, verdict="do not speculate", reason="The target alone is faster")
    command = ["bench", "--target", place / "models" / "target", "--drafter", place / "models" / "eagle"]
    command += ["--trimmed", folder, "--questions", place / "questions.jsonl", "--max-new-tokens", 8]
    command += ["--dtype", "float32", "--limit", 2, "--json"]
    run = vocabtrim(*command, "--out", tmp_path / "run")
    assert run.code == 0, run.err
    assert any("draft length 2, nodes 6, branching 3" in note for note in run.json["notes"])
    assert any("tuning said: do not speculate" in note for note in run.json["notes"])
    header = json.loads((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()[0])
    assert [method["depth"] for method in header["methods"]] == [None, 5, 2]
    (folder / TUNED_FILE).unlink()
    assert_bad_input(vocabtrim(*command, "--out", tmp_path / "run"), "tuned")


def test_trimming_again_leaves_the_file_behind(tuned: Any, place: Path, tmp_path: Path) -> None:
    vocab = vocabulary(place)
    few = KeptVocabulary(np.delete(np.arange(vocab), np.s_[100 : vocab - 100]), vocab)
    out = vt.trim(tuned(), few, target=place / "models" / "target", out=tmp_path / "again").out
    assert not (out / TUNED_FILE).exists()


def test_a_damaged_file_is_said_in_one_line(tuned: Any, vocabtrim: Any, place: Path, tmp_path: Path) -> None:
    folder = tuned()
    (folder / TUNED_FILE).write_text("{")
    target = ("--target", place / "models" / "target")
    assert_bad_input(vocabtrim("generate", "Why?", *target, "--drafter", folder), "tuned.json is damaged")
    asked = ("--questions", place / "questions.jsonl", "--out", tmp_path / "run")
    assert_bad_input(vocabtrim("bench", *target, "--drafter", folder, *asked), "tuned.json is damaged")
    export = ("export", folder, "--engine", "sglang", *target, "--out", tmp_path / "served")
    assert_bad_input(vocabtrim(*export), "tuned.json is damaged")


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("sglang", "--speculative-num-steps 2 --speculative-eagle-topk 3 --speculative-num-draft-tokens 6"),
        ("vllm-plugin", '"num_speculative_tokens": 7'),
    ],
)
def test_exports_carry_what_was_tuned(
    engine: str, words: str, tuned: Any, vocabtrim: Any, place: Path, tmp_path: Path
) -> None:
    target, out = place / "models" / "target", tmp_path / "served"
    run = vocabtrim("export", tuned(chain=7), "--engine", engine, "--target", target, "--out", out, "--json")
    assert run.code == 0, run.err
    assert words in run.json["command"]
    assert any("measure it again with the engine" in warning for warning in run.json["warnings"])
    assert not (out / TUNED_FILE).exists()


# What is refused


def test_bad_input(tune: Any, place: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert_bad_input(tune(questions=empty), "empty.jsonl")
    assert_bad_input(tune(questions=tmp_path / "none.jsonl"), "none.jsonl")
    assert_bad_input(tune(drafter=tmp_path / "nowhere"), "nowhere")
    assert_bad_input(tune("--minutes", 0), "no time to tune in")
    assert_bad_input(tune("--dtype", "float7"), "unknown dtype")
    counts = tmp_path / "counts.safetensors"
    counts.write_bytes(b"no counts")
    assert_bad_input(tune("--calibrate", counts), "counts.safetensors")
    assert_bad_input(tune("--kept", counts), "counts.safetensors")
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "mine").write_text("")
    assert_bad_input(tune(), "exists already")
    assert [path.name for path in (tmp_path / "tuned").iterdir()] == ["mine"] and left_behind(tmp_path) == []


def test_questions_that_no_one_can_answer(tune: Any, tmp_path: Path) -> None:
    """Each is longer than the target's context."""
    long = tmp_path / "long.jsonl"
    long.write_text("".join(f'{{"prompt": "{"many words " * 9000}"}}\n' for _ in range(2)))
    run = tune(questions=long)
    assert run.code == 2 and run.out == ""
    assert "no question could be answered" in run.err and "context" in run.err.splitlines()[-1]
    assert left_behind(tmp_path) == [] and not (tmp_path / "tuned").exists()


def test_one_question_that_fails_is_told_and_left_out(tune: Any, place: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.jsonl"
    long = json.dumps({"prompt": "many words " * 9000})
    mixed.write_text(f"{long}\n{(place / 'questions.jsonl').read_text()}")
    run = tune("--json", questions=mixed)
    assert run.code == 0 and list(run.json["failed"]) == ["line 1"]


def test_a_drafter_of_another_target(tune: Any, place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(place / "models" / "eagle", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"hidden_size": 2 * config["hidden_size"]}))
    run = tune(drafter=other)
    assert run.code == 2 and len(run.err.strip().splitlines()) == 1, run.err
    assert left_behind(tmp_path) == []


def test_strict_writes_nothing_where_the_target_alone_is_faster(
    tune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vocabtrim.tuning import tune as module

    judge = module.judge

    def losing(*told: Any) -> Any:
        return replace(judge(*told), verdict="do not speculate", reason="The target alone is faster")

    monkeypatch.setattr(module, "judge", losing)
    run = tune("--strict")
    assert run.code == 1 and "The target alone is faster" in run.err
    assert not (tmp_path / "tuned").exists() and left_behind(tmp_path) == []


def test_a_full_disk_leaves_nothing(tune: Any, tiny_disk: Path) -> None:
    run = tune(out=tiny_disk / "tuned")
    assert run.code == 2 and "tuned" in run.err.splitlines()[-1], run.err
    assert [path.name for path in tiny_disk.iterdir()] == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_killed_writes_nothing(how: signal.Signals, place: Path, tmp_path: Path, tune: Any) -> None:
    """What a kill left behind is cleared by the next run."""
    models = place / "models"
    told = [("target", models / "target"), ("drafter", models / "eagle"), ("questions", place / "questions.jsonl")]
    named = [str(word) for name, value in told for word in (f"--{name}", value)]
    program = [sys.executable, "-c", "from vocabtrim.cli import main; main()", "tune", *named]
    command = [*program, "--out", str(tmp_path / "tuned"), "--dtype", "float32", "--minutes", "5"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "replaying" not in (line := process.stderr.readline()):
            assert line or process.poll() is None, "ended too early"
        process.send_signal(how)
        process.communicate()
        assert process.returncode in {130, -how}
    assert not (tmp_path / "tuned").exists()
    assert tune().code == 0
    assert left_behind(tmp_path) == []
