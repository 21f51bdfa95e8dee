"""`vocabtrim bench` from the command line: what it measures, that it goes on where it was cut off, and bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import assert_bad_input
from generation import lively, noisy_copy
from vocabtrim.decoding.generate import generate
from vocabtrim.decoding.text import TargetText
from vocabtrim.measure.metrics import summarise
from vocabtrim.measure.recording import Recording
from vocabtrim.measure.records import ROUNDS, read_run
from vocabtrim.testbed import shapes
from vocabtrim.testbed.builtin import BUILTIN, TOKENIZER

SHAPE = replace(
    BUILTIN, hidden=32, intermediate=64, layers=4, heads=2, kv_heads=1, head_dim=16, dtype="float32", max_positions=256
)
QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["Who are you?", "And who am I?"]},
    {"question_id": 2, "category": "math", "turns": ["What is 2 + 2?"]},
    {"question_id": 3, "category": "math", "turns": ["What is 3 + 3?"]},
]
LENGTH = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """target/ says many things; near/ is it with noise, cut/ near's own trim; eagle/ is right by luck alone."""
    folder = tmp_path_factory.mktemp("models")
    lively(shapes.write_target(folder / "dull", SHAPE, seed=1), folder / "target")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / "target" / name)
    noisy_copy(folder / "target", folder / "near", 0.05)
    shapes.write_eagle(folder / "eagle", SHAPE, seed=3)
    return folder


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "questions.jsonl", QUESTIONS)


def write_lines(file: Path, lines: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def bench(vocabtrim: Any, models: Path, questions: Path, tmp_path: Path) -> Any:
    def call(*more: object, asked: Path = questions, out: Path = tmp_path / "run") -> Any:
        fixed = ["--target", models / "target", "--questions", asked, "--out", out, "--dtype", "float32"]
        return vocabtrim("bench", *fixed, "--max-new-tokens", LENGTH, *more)

    return call


def two(models: Path) -> list[object]:
    return ["--drafter", models / "near", "--trimmed", models / "eagle"]


def test_every_method_answers_every_turn(bench: Any, models: Path, tmp_path: Path) -> None:
    run = bench(*two(models), "--json")
    assert run.code == 0, run.err
    found = run.json
    assert [method["name"] for method in found["methods"]] == ["autoregressive", "full", "eagle"]
    plain, full, eagle = found["methods"]
    assert found["questions"] == 3 and found["failed"] == 0 and set(found["categories"]) == {"writing", "math"}
    assert plain["emitted"] == full["emitted"] == eagle["emitted"] and plain["block_efficiency"] == 1
    assert full["block_efficiency"] > 1.5 > eagle["block_efficiency"]  # near the target; by luck
    for method in (full, eagle):
        assert method["parity"]["same"] == method["parity"]["compared"] == 4
        low, high = method["speedup_interval"]
        assert low <= method["speedup"] <= high
        assert method["tokens_per_second"] == pytest.approx(method["emitted"] / method["seconds"])
    by_category = found["categories"]
    assert sum(by_category[name]["methods"][1]["rounds"] for name in by_category) == full["rounds"]
    recorded = read_run(tmp_path / "run")
    assert len(recorded.generated) == 12


def test_answers_are_those_of_generate_and_a_second_turn_follows_the_first(
    bench: Any, models: Path, tmp_path: Path
) -> None:
    assert bench("--drafter", models / "near").code == 0
    run = read_run(tmp_path / "run")
    generation = generate("Who are you?", target=models / "target", max_new_tokens=LENGTH, dtype="float32")
    text = "".join(piece.text for piece in generation)
    first = run.generated["1", 0, "autoregressive"]
    assert list(first.token_ids) == generation.token_ids
    words = TargetText(models / "target")
    asked = [("user", "Who are you?"), ("assistant", text), ("user", "And who am I?")]
    expected = words.conversation([{"role": role, "content": content} for role, content in asked])
    assert list(run.generated["1", 1, "full"].prompt_ids) == expected


def test_tables_for_people(bench: Any, models: Path) -> None:
    run = bench(*two(models))
    assert run.code == 0, run.err
    for words in (
        "3 questions, float32, greedy",
        "speed-up (95 %)",
        "Acceptance by depth",
        "4 of 4",
        "writing",
        "math",
    ):
        assert words in run.out


def test_sampled_answers_repeat_with_the_seed(bench: Any, models: Path, tmp_path: Path) -> None:
    told = [*two(models), "--temperature", 0.8, "--seed", 5]
    runs = []
    for name in ("once", "again"):
        assert bench(*told, out=tmp_path / name).code == 0
        runs.append(read_run(tmp_path / name))
    once, again = runs
    assert {key: found.token_ids for key, found in once.generated.items()} == {
        key: found.token_ids for key, found in again.generated.items()
    }
    assert not once.differences  # sampled answers are not compared
    seeds = {found.token_ids for key, found in once.generated.items() if key[2] == "autoregressive"}
    assert len(seeds) == 4


def test_a_run_goes_on_behind_its_last_whole_line(bench: Any, models: Path, tmp_path: Path) -> None:
    assert bench(*two(models)).code == 0
    file = tmp_path / "run" / ROUNDS
    whole = read_run(tmp_path / "run")
    lines = file.read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:6]) + lines[6][:40]
    file.write_bytes(kept)
    assert bench(*two(models)).code == 0
    assert file.read_bytes().startswith(b"".join(lines[:6]))  # what stood there was not measured again
    again = read_run(tmp_path / "run")
    assert {key: found.token_ids for key, found in again.generated.items()} == {
        key: found.token_ids for key, found in whole.generated.items()
    }
    before = file.read_bytes()
    assert bench(*two(models)).code == 0 and file.read_bytes() == before  # nothing is left to do


def test_killed_in_the_middle(models: Path, questions: Path, tmp_path: Path) -> None:
    """kill -9 as soon as three answers stand; the same command then ends the run."""
    many = write_lines(tmp_path / "many.jsonl", [{"id": n, "prompt": f"Count to {n}."} for n in range(40)])
    arguments = ["bench", "--target", models / "target", "--drafter", models / "near", "--questions", many]
    arguments += ["--out", tmp_path / "run", "--dtype", "float32", "--max-new-tokens", LENGTH]
    command = [sys.executable, "-c", "from vocabtrim.cli import main; main()", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    file = tmp_path / "run" / ROUNDS
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.01)
    assert process.poll() is None, process.stderr and process.stderr.read()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    left = read_run(tmp_path / "run")
    assert 3 <= len(left.generated) < 80
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "run")
    assert len(run.generated) == 80
    assert all(run.generated[key] == found for key, found in left.generated.items())


def test_a_failed_question_is_recorded_and_enters_no_figure(bench: Any, models: Path, tmp_path: Path) -> None:
    long = {"question_id": 9, "category": "math", "turns": ["word " * 400, "And then?"]}
    asked = write_lines(tmp_path / "asked.jsonl", [*QUESTIONS, long])
    run = bench("--drafter", models / "near", "--json", asked=asked)
    assert run.code == 1 and not run.err
    assert (run.json["questions"], run.json["failed"]) == (3, 1)
    failed = read_run(tmp_path / "run").failed
    assert set(failed) == {("9", turn, method) for turn in (0, 1) for method in ("autoregressive", "full")}
    assert "context" in failed["9", 0, "full"].reason and "turn 1 was not answered" in failed["9", 1, "full"].reason
    people = bench("--drafter", models / "near", asked=asked)
    assert "1 question failed, in no figure" in people.out and people.code == 1


def test_a_near_tie_is_told_with_its_gap(bench: Any, models: Path, tmp_path: Path) -> None:
    """A record that says otherwise than the target alone: what parity finds, wherever it came from."""
    assert bench("--drafter", models / "near").code == 0
    file = tmp_path / "run" / ROUNDS
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    changed = next(line for line in lines if line.get("method") == "full" and line["question"] == "2")
    was = changed["token_ids"][4]
    changed["token_ids"][4] = was + 1
    write_lines(file, lines)
    run = bench("--drafter", models / "near", "--json")
    (found,) = run.json["methods"][1]["parity"]["differences"]
    assert (found["question"], found["at"], found["expected"], found["found"]) == ("2", 4, was, was + 1)
    assert found["gap"] > 0  # the target's own token has the larger logit
    assert run.json["methods"][1]["parity"]["same"] == 3
    assert "full differs: question 2, turn 1, behind 4 equal tokens" in bench("--drafter", models / "near").out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--max-new-tokens", 13], "another max_new_tokens: expected 13, found 12"),
        (["--temperature", 0.5], "another temperature"),
        (["--trimmed", "eagle"], 'other methods: expected {"eagle": "'),
        (["--nodes", 5], "another nodes"),
    ],
)
def test_another_run_in_the_folder_is_left_alone(
    bench: Any, models: Path, tmp_path: Path, change: list[object], said: str
) -> None:
    assert bench("--drafter", models / "near").code == 0
    before = (tmp_path / "run" / ROUNDS).read_bytes()
    more = [models / word if word == "eagle" else word for word in change]
    assert_bad_input(bench("--drafter", models / "near", *more), said)
    assert (tmp_path / "run" / ROUNDS).read_bytes() == before


def test_other_questions_of_the_same_names_are_refused(bench: Any, models: Path, tmp_path: Path) -> None:
    """Without ids of their own, questions of any two files are called line 1, line 2."""
    asked, others = (
        write_lines(tmp_path / f"{name}.jsonl", [{"prompt": prompt}])
        for name, prompt in (("asked", "What is 2 + 2?"), ("others", "What is 2 + 3?"))
    )
    assert bench("--drafter", models / "near", asked=asked).code == 0
    before = (tmp_path / "run" / ROUNDS).read_bytes()
    assert_bad_input(bench("--drafter", models / "near", asked=others), "answers to another question line 1")
    assert (tmp_path / "run" / ROUNDS).read_bytes() == before


def test_bad_input(bench: Any, models: Path, tmp_path: Path) -> None:
    assert_bad_input(bench("--drafter", tmp_path / "nowhere"), "nowhere")
    assert_bad_input(bench("--trimmed", models / "near", "--trimmed", models / "near"), "two drafters go by the name")
    assert_bad_input(bench("--categories", "poetry"), "poetry")
    assert_bad_input(bench("--device", "warp"), "warp")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert_bad_input(bench(asked=empty), "empty.jsonl")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_replay_of_the_recording_has_the_rounds_of_the_bench(
    bench: Any, models: Path, tmp_path: Path, vocabtrim: Any, temperature: float
) -> None:
    """What bench measured and what replay says of its recording, for a drafter that reads hidden states."""
    more = ["--drafter", models / "eagle", "--temperature", temperature]
    assert bench(*more, "--record", tmp_path / "recording", "--record-states").code == 0
    told = vocabtrim(
        *("replay", tmp_path / "recording", "--drafter", models / "eagle", "--target", models / "target"),
        *("--dtype", "float32", "--json"),
    )
    assert told.code == 0, told.err
    recording = Recording(tmp_path / "recording")
    run = read_run(tmp_path / "run")
    outputs = {one.name: one.output for one in recording}
    assert outputs == {
        f"{name}/{turn + 1}": found.token_ids
        for (name, turn, method), found in run.generated.items()
        if method == "autoregressive"
    }
    (full,) = told.json["kept"]
    if temperature == 0:  # sampled answers of the bench are each method's own
        live = [round for key, found in run.generated.items() if key[2] == "full" for round in found.rounds]
        assert full["block_efficiency"] == pytest.approx(summarise(live).block_efficiency)
    again = bench(*more, "--record", tmp_path / "later", "--record-states")
    assert again.code == 0  # a run that is done can still be recorded, with the same states
    for one, other in zip(recording.generations(recording.header.states), _later(tmp_path), strict=True):
        assert one.output == other.output and torch.equal(one.hidden, other.hidden)


def _later(tmp_path: Path) -> Any:
    recording = Recording(tmp_path / "later")
    return recording.generations(recording.header.states)


def test_states_want_a_recording(bench: Any) -> None:
    assert_bad_input(bench("--record-states"), "--record FOLDER")


def test_choose_takes_what_was_measured(bench: Any, models: Path, tmp_path: Path, vocabtrim: Any) -> None:
    """Full and a trim of it benched; choose shows both as measured, and refuses a run of another kind of drafter."""
    ends = ["--drafter", models / "near", "--target", models / "target"]
    (tmp_path / "text.txt").write_text("Who are you? What is 2 + 2? " * 50)
    counts = tmp_path / "counts.safetensors"
    assert vocabtrim("count", tmp_path / "text.txt", "--tokenizer", models / "target", "--out", counts).code == 0
    kept = ["--keep", 4096, "--out", tmp_path / "kept.safetensors"]
    assert vocabtrim("choose", counts, *ends, *kept).code == 0
    cut = tmp_path / "cut"
    trim = ["--target", models / "target", "--kept", tmp_path / "kept.safetensors", "--out", cut]
    assert vocabtrim("trim", models / "near", *trim).code == 0
    measured = bench("--drafter", models / "near", "--trimmed", cut, "--json").json["methods"]
    chosen = vocabtrim("choose", counts, *ends, "--measured", tmp_path / "run", "--json")
    assert chosen.code == 0, chosen.err
    rows = {row["kept_size"]: row for row in chosen.json["sizes"]}
    for method in measured[1:]:
        row = rows[method["kept_size"]]
        assert row["measured"] and row["predicted_block_efficiency"] == pytest.approx(method["block_efficiency"])
        assert row["speedup"] is not None
    assert chosen.json["measured"] == str(tmp_path / "run") and not chosen.json["assumed"]
    assert "speed-up by measured times" in chosen.json["reason"]
    assert "were measured" in vocabtrim("choose", counts, *ends, "--measured", tmp_path / "run").out
    assert bench("--trimmed", cut, out=tmp_path / "half").code == 0
    assert_bad_input(vocabtrim("choose", counts, *ends, "--measured", tmp_path / "half"), "bench with --drafter")
    assert bench(*two(models), out=tmp_path / "mixed").code == 0
    assert_bad_input(vocabtrim("choose", counts, *ends, "--measured", tmp_path / "mixed"), "not trims of one")
    assert_bad_input(vocabtrim("choose", counts, *ends, "--measured", tmp_path / "none"), "holds no run")
    twice = ["--measured", tmp_path / "run", "--block-efficiency", 2.0]
    assert_bad_input(vocabtrim("choose", counts, *ends, *twice), "given twice")


def test_choose_sweeps_sizes_over_a_recording(bench: Any, models: Path, tmp_path: Path, vocabtrim: Any) -> None:
    """Full head: what the bench of the same answers measured; a grid of sizes: what replay says of each."""
    ends = ["--drafter", models / "near", "--target", models / "target"]
    (tmp_path / "text.txt").write_text("Who are you? What is 2 + 2? " * 50)
    counts, recording = tmp_path / "counts.safetensors", tmp_path / "recording"
    assert vocabtrim("count", tmp_path / "text.txt", "--tokenizer", models / "target", "--out", counts).code == 0
    measured = bench("--drafter", models / "near", "--record", recording, "--json").json["methods"][1]
    chosen = vocabtrim("choose", counts, *ends, "--sweep", recording, "--json")
    assert chosen.code == 0, chosen.err
    rows = {row["kept_size"]: row for row in chosen.json["sizes"]}
    assert rows[measured["kept_size"]]["predicted_block_efficiency"] == pytest.approx(measured["block_efficiency"])
    swept = [size for size, row in rows.items() if row["measured"]]
    assert {1024, 2048, 4096, 8192} <= set(swept) and all(row["speedup"] is None for row in rows.values())
    assert vocabtrim("choose", counts, *ends, "--keep", 2048, "--out", tmp_path / "kept.safetensors").code == 0
    replayed = vocabtrim(
        "replay", recording, *ends, "--kept", tmp_path / "kept.safetensors", "--dtype", "float32", "--json"
    )
    assert rows[2048]["predicted_block_efficiency"] == pytest.approx(replayed.json["kept"][1]["block_efficiency"])
    assert_bad_input(vocabtrim("choose", counts, "--sweep", recording), "--drafter and --target")
    assert_bad_input(vocabtrim("choose", counts, *ends, "--sweep", tmp_path / "none"), "no recording at")
