"""Collecting with a model in this process: what is written, that it goes on, what a drafter proposed, when it stops."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vocabtrim as vt
from conftest import assert_bad_input
from vocabtrim.calibrate.counts import TokenCounts
from vocabtrim.collecting import tally
from vocabtrim.collecting.answers import LOOPS
from vocabtrim.collecting.collect import collect
from vocabtrim.collecting.tally import Until
from vocabtrim.decoding.load import drafter_kind, load_drafter, load_target
from vocabtrim.decoding.rounds import decode
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.decoding.text import TargetText
from vocabtrim.errors import OutputError
from vocabtrim.measure.methods import Settings
from vocabtrim.testbed.family import member

from .conftest import LENGTH, WANTED, by_key, read

Expected = dict[str, tuple[int, ...]]


@pytest.fixture
def few(tmp_path: Path) -> Path:
    file = tmp_path / "few.jsonl"
    file.write_text("".join(json.dumps({"id": n, "prompt": f"Count to {n}."}) + "\n" for n in range(4)))
    return file


def test_count_reads_the_very_ids(few: Path, folder: Path, settings: Settings, tmp_path: Path) -> None:
    """Not those of the text: one line is changed into tokens that no tokenizer would take."""
    out = tmp_path / "completions.jsonl"
    vt.collect([few], out=out, target=folder, settings=settings)
    header, first, *others = out.read_text().splitlines()
    record = json.loads(first)
    letters = [TargetText(folder).encode(letter)[0] for letter in "abcdefgh"]
    out.write_text("\n".join([header, json.dumps(record | {"token_ids": letters}), *others]) + "\n")
    counts = vt.count([out], tokenizer=folder, heldout=0, strict=True)
    wanted = Counter(token for line in others for token in json.loads(line)["token_ids"]) + Counter(letters)
    assert {int(token): int(counts.counts[token]) for token in np.flatnonzero(counts.counts)} == dict(wanted)
    assert counts.sources[0].details["forms"] == {"collected": 4} and not counts.skipped


def test_another_tokenizer_counts_the_text(few: Path, folder: Path, settings: Settings, tmp_path: Path) -> None:
    from tiny_tokenizer import train

    out = tmp_path / "completions.jsonl"
    vt.collect([few], out=out, target=folder, settings=settings)
    counts = vt.count([out], tokenizer=train(tmp_path / "other"), heldout=0)
    assert counts.sources[0].details["forms"] == {"completion": 4} and counts.tokenizer.vocab_size < 1000


def test_the_same_command_repeats_nothing(
    prompts: Path, folder: Path, settings: Settings, expected: Expected, tmp_path: Path
) -> None:
    """A part first, by a budget; the rest then, without what is there. Nothing is loaded where nothing is missing."""
    out = tmp_path / "completions.jsonl"
    how: dict[str, Any] = {"out": out, "target": folder, "settings": settings, "loop_ratio": 0}
    first = collect([prompts], until=Until(tokens=120), **how)
    assert first.ended == "budget" and 0 < first.answers < WANTED
    begun = out.read_bytes()
    second = collect([prompts], **how)
    assert second.answers == WANTED - first.answers and out.read_bytes().startswith(begun)
    assert {key: answer.written.token_ids for key, answer in by_key(read(out)).items()} == expected
    began = time.perf_counter()
    assert collect([prompts], **how).answers == 0
    assert time.perf_counter() - began < 5


def test_half_a_line_at_the_end(few: Path, folder: Path, settings: Settings, tmp_path: Path) -> None:
    """What a kill in the middle of writing leaves: the answer is asked for again."""
    out = tmp_path / "completions.jsonl"
    collect([few], out=out, target=folder, settings=settings)
    whole = out.read_bytes()
    out.write_bytes(whole[:-30])
    assert collect([few], out=out, target=folder, settings=settings).answers == 1
    assert len(by_key(read(out))) == 4
    out.write_bytes(whole[:50])  # of the first line
    assert collect([few], out=out, target=folder, settings=settings).answers == 4


def test_killed_in_the_middle(prompts: Path, folder: Path, expected: Expected, vocabtrim: Any, tmp_path: Path) -> None:
    """kill -9 as soon as five answers stand; the same command then ends the run, and repeats none of them."""
    out = tmp_path / "completions.jsonl"
    arguments = ["collect", prompts, "--target", folder, "--out", out, "--dtype", "float32", "--loop-ratio", 0]
    arguments += ["--max-new-tokens", LENGTH]
    command = [sys.executable, "-c", "from vocabtrim.cli import main; main()", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and process.poll() is None:
        if out.exists() and out.read_bytes().count(b"\n") > 5:
            break
        time.sleep(0.005)
    assert process.poll() is None, process.stderr and process.stderr.read()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = by_key(read(out))
    assert 5 <= len(kept) < WANTED
    done = vocabtrim(*arguments)
    assert done.code == 0 and f"{WANTED} of {WANTED}, {WANTED - len(kept)} of them now" in done.out, done.err
    found = by_key(read(out))
    assert {key: answer.written.token_ids for key, answer in found.items()} == expected
    assert all(found[key] == answer for key, answer in kept.items())


def test_a_full_disk_keeps_the_finished_part(
    prompts: Path, folder: Path, settings: Settings, tmp_path: Path, expected: Expected
) -> None:
    """This process may write no file beyond 6 kB for a while; what stands there then is whole, and is gone on with."""
    out = tmp_path / "completions.jsonl"
    how: dict[str, Any] = {"out": out, "target": folder, "settings": settings, "loop_ratio": 0}
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        with pytest.raises(OutputError, match="File too large; free space there and run the same command again"):
            collect([prompts], **how)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    kept = by_key(read(out))
    assert 3 < len(kept) < WANTED and out.read_bytes().endswith(b"\n")
    assert collect([prompts], **how, until=Until(tokens=1)).tally.answers == len(kept)
    assert all(answer.written.token_ids == expected[key] for key, answer in kept.items())


def test_another_run_is_not_gone_on_with(few: Path, folder: Path, settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "completions.jsonl"
    collect([few], out=out, target=folder, settings=settings)
    before = out.read_bytes()
    for other, name in (
        (Settings(max_new_tokens=8, dtype="float32"), "max_new_tokens: expected 8, found 16"),
        (Settings(max_new_tokens=LENGTH, dtype="float32", sampling=Sampling(0.5)), "temperature"),
    ):
        with pytest.raises(vt.VocabTrimError, match=f"holds answers of another {name}"):
            collect([few], out=out, target=folder, settings=other)
    with pytest.raises(vt.VocabTrimError, match="holds answers of another model"):
        collect([few], out=out, target=member("target"), settings=settings)
    assert out.read_bytes() == before


@pytest.mark.parametrize("content", ["my notes, without an end", "{}\n", '{"vocabtrim":"collect","schema":2,"x":1}\n'])
def test_a_file_of_something_else_is_not_touched(
    content: str, few: Path, folder: Path, vocabtrim: Any, tmp_path: Path
) -> None:
    out = tmp_path / "notes.jsonl"
    out.write_text(content)
    run = vocabtrim("collect", few, "--target", folder, "--out", out)
    assert_bad_input(run, "exists and holds no answers of this version", "choose another --out")
    assert out.read_text() == content


def test_a_line_that_was_changed(few: Path, folder: Path, settings: Settings, vocabtrim: Any, tmp_path: Path) -> None:
    out = tmp_path / "completions.jsonl"
    collect([few], out=out, target=folder, settings=settings)
    lines = out.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"token_ids":[', '"token_ids":["x",')
    out.write_text("".join(lines))
    run = vocabtrim("collect", few, "--target", folder, "--out", out, "--dtype", "float32", "--max-new-tokens", LENGTH)
    assert_bad_input(run, f"line 3 of {out} is no answer that was collected", "take the line out")


def test_a_drafter_changes_no_answer_and_its_proposals_are_counted(
    prompts: Path, vocabtrim: Any, tmp_path: Path
) -> None:
    """Against the rounds of our loop: as many proposals, as many accepted, and what was accepted is in the answer."""
    target, out, counted = member("target"), tmp_path / "completions.jsonl", tmp_path / "proposals.safetensors"
    settings = Settings(max_new_tokens=LENGTH, dtype="float32", draft_length=3)
    how: dict[str, Any] = {"target": target, "settings": settings, "loop_ratio": 0, "limit": 3}
    collect([prompts], out=out, drafter=member("eagle"), proposals=counted, **how)
    plain = collect([prompts], out=tmp_path / "plain.jsonl", **how | {"settings": Settings(LENGTH, dtype="float32")})
    assert plain.tally.answers
    drafted, alone = by_key(read(out)), by_key(read(tmp_path / "plain.jsonl"))
    assert {key: one.written.token_ids for key, one in drafted.items()} == {
        key: one.written.token_ids for key, one in alone.items()
    }
    opened = load_target(target, dtype="float32")
    drafter = load_drafter(member("eagle"), opened, plan=settings.plan(drafter_kind(member("eagle"), target)))
    words = TargetText(target)
    for answer in drafted.values():
        assert isinstance(answer.prompt, list) and answer.written.proposed is not None
        rounds = list(decode(opened, drafter, words.conversation(answer.prompt), max_new_tokens=LENGTH))
        accepted, rejected = answer.written.proposed.accepted, answer.written.proposed.rejected
        assert sum(accepted.values()) == sum(round.accepted for round in rounds)
        assert sum(accepted.values()) + sum(rejected.values()) == sum(round.drafted for round in rounds)
        assert Counter(accepted) <= Counter(answer.written.token_ids)
        assert Counter(accepted) == Counter(t for round in rounds for t in round.tokens[: round.accepted])
    counts = TokenCounts.load(counted)
    assert [(source.name, source.origin) for source in counts.sources] == [
        ("accepted drafts", "drafter-generated"),
        ("rejected drafts", "drafter-generated"),
    ]
    for source, name in zip(counts.sources, ("accepted", "rejected"), strict=True):
        parts = [getattr(answer.written.proposed, name) for answer in drafted.values()]
        assert source.tokens == sum(sum(part.values()) for part in parts) > 0
    vt.count([out], tokenizer=target).save(tmp_path / "counts.safetensors")
    run = vocabtrim(
        *("choose", tmp_path / "counts.safetensors", counted, "--target", target, "--drafter", member("eagle")),
        *("--keep", 1024, "--out", tmp_path / "kept.safetensors"),
    )
    assert run.code == 0 and "by rejected drafts" in run.out, run.err


def test_answers_that_loop_are_left_out_and_counted(few: Path, folder: Path, vocabtrim: Any, tmp_path: Path) -> None:
    """By a ratio that every answer exceeds here; they are there, marked, and neither counted nor asked for again."""
    out = tmp_path / "completions.jsonl"
    command = ["collect", few, "--target", folder, "--out", out, "--dtype", "float32", "--max-new-tokens", LENGTH]
    run = vocabtrim(*command, "--loop-ratio", 0.1, "--json")
    assert run.code == 0 and run.json["left_out"] == {LOOPS: 4} and run.json["tokens"] == 0
    assert vocabtrim(*command, "--loop-ratio", 0.1, "--json").json["now"] == 0
    with pytest.raises(vt.VocabTrimError, match="no token was counted"):
        vt.count([out], tokenizer=folder, strict=True)


def test_samples_have_a_chance_of_their_own(few: Path, folder: Path, tmp_path: Path) -> None:
    """Several answers to each prompt, others by another seed, the same by the same."""
    found = []
    for seed in (0, 0, 1):
        out = tmp_path / f"{len(found)}.jsonl"
        settings = Settings(max_new_tokens=LENGTH, dtype="float32", sampling=Sampling(1.0), seed=seed)
        state = collect([few], out=out, target=folder, settings=settings, samples=2)
        assert (state.wanted, state.answers) == (8, 8)
        found.append({key: one.written.token_ids for key, one in by_key(read(out)).items()})
    assert found[0] == found[1] != found[2] and len(set(found[0].values())) > 6


def test_it_stops_where_coverage_is_flat(
    prompts: Path, folder: Path, settings: Settings, expected: Expected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At a gain that any text stays below, as soon as there is enough to believe it; the rest is there to be asked."""
    monkeypatch.setattr(tally, "_FEWEST", 60)
    how: dict[str, Any] = {"out": tmp_path / "c.jsonl", "target": folder, "settings": settings, "loop_ratio": 0}
    state = collect([prompts], until=Until(gain=0.99), **how)
    assert state.ended == "flat" and state.tally.tokens >= 60 and state.answers < WANTED
    assert all(one.written.token_ids == expected[key] for key, one in by_key(read(how["out"])).items())


def test_prompts_that_stand_there_again(few: Path, folder: Path, settings: Settings, tmp_path: Path) -> None:
    """In one file under other names, and in another file."""
    again = tmp_path / "again.jsonl"
    again.write_text(
        "".join(
            json.dumps({"id": f"x{n}", "messages": [{"role": "user", "content": f"Count to {n}."}]}) + "\n"
            for n in range(2, 6)
        )
    )
    state = collect([few, again], out=tmp_path / "c.jsonl", target=folder, settings=settings)
    assert (state.wanted, state.again, state.answers) == (6, 2, 6)


def test_a_prompt_beyond_the_context(few: Path, folder: Path, vocabtrim: Any, tmp_path: Path) -> None:
    """One line says which and why; the others are answered, and the exit code tells."""
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"id": "novel", "prompt": "word " * 5000}) + "\n")
    out = tmp_path / "c.jsonl"
    command = ["collect", few, long, "--target", folder, "--out", out, "--dtype", "float32", "--max-new-tokens", 4]
    run = vocabtrim(*command)
    assert run.code == 1 and len(read(out)) == 4
    assert "failed: novel, turn 1: prompt and output do not fit the target's context" in run.out
    assert vocabtrim(*command, "--json").json["failed"][0]["question"] == "novel"


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ([], ["--target or --endpoint", "neither"]),
        (["--target", "x", "--endpoint", "http://x"], ["both"]),
        (["--endpoint", "http://x"], ["--tokenizer"]),
        (["--endpoint", "http://x", "--tokenizer", "x", "--drafter", "y"], ["what its drafter proposes"]),
        (["--target", "x", "--proposals", "y"], ["without a drafter"]),
        (["--target", "x", "--api", "responses"], ["chat or completions", "responses"]),
        (["--target", "x", "--until-flat", "2"], ["between 0 and 1", "2.0"]),
        (["--target", "x", "--extra", "[1]"], ["no JSON object"]),
        (["--target", "x", "--extra", "{"], ["no JSON"]),
    ],
)
def test_bad_arguments(arguments: list[str], facts: list[str], few: Path, vocabtrim: Any, tmp_path: Path) -> None:
    assert_bad_input(vocabtrim("collect", few, *arguments, "--out", tmp_path / "c.jsonl"), *facts)
    assert not (tmp_path / "c.jsonl").exists()
