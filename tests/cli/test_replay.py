"""`vocabtrim replay` from the command line: what programs and people are told, and bad input in one line."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vocabtrim as vt
from conftest import assert_bad_input
from generation import lively, noisy_copy
from recordings import record
from tiny_tokenizer import train, write_jsonl
from vocabtrim.calibrate.tokenizer import tokenizer_facts
from vocabtrim.decoding.text import TargetText
from vocabtrim.measure.recording import RecordingHeader, RecordingWriter
from vocabtrim.testbed import shapes
from vocabtrim.testbed.builtin import BUILTIN, TOKENIZER
from vocabtrim.vocabulary.kept import KeptVocabulary

SHAPE = replace(BUILTIN, hidden=32, intermediate=64, layers=4, heads=2, kv_heads=1, head_dim=16, dtype="float32")
PROMPTS = {
    "code": "Write a sort.",
    "prose": "Write a letter to a friend, and tell of the sea.",
    "maths": "What is 6 * 7?",
}
LENGTH = 24
CHAT = [{"role": "user", "content": "Say: the sea"}, {"role": "assistant", "content": "the sea, the sea"}]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """target/ with a tokenizer, near/ (it with noise), eagle/, recorded/, half.safetensors and few.safetensors."""
    folder = tmp_path_factory.mktemp("world")
    lively(shapes.write_target(folder / "dull", SHAPE, seed=1), folder / "target")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / "target" / name)
    noisy_copy(folder / "target", folder / "near", 0.05)
    shapes.write_eagle(folder / "eagle", SHAPE, seed=3)
    target, words = vt.load_target(folder / "target", dtype="float32"), TargetText(folder / "target")
    facts = tokenizer_facts(folder / "target")
    said: list[int] = []
    header = RecordingHeader("target", facts.hash, target.lm.vocab, vt.Sampling(), (-1,))
    with RecordingWriter(folder / "recorded", header) as writer:
        for name, prompt in PROMPTS.items():
            found = record(target, words.prompt(prompt), LENGTH, states=(-1,), name=name)
            writer.append(replace(found, category=name))
            said += found.output
    ids = np.unique(np.array(said))
    for name, kept in (("half", ids[::2]), ("few", ids[:2])):
        KeptVocabulary(kept, facts.vocab_size, facts.hash).save(folder / f"{name}.safetensors")
    return folder


def arguments(world: Path, *more: object) -> list[object]:
    kept = ["--kept", world / "half.safetensors", "--kept", world / "few.safetensors"]
    return ["replay", world / "recorded", *kept, "--dtype", "float32", *more]


@pytest.mark.parametrize("drafter", ["near", "eagle"])
def test_json_tells_what_the_library_finds(world: Path, vocabtrim: Any, drafter: str) -> None:
    options = ["--drafter", world / drafter, "--target", world / "target", "--draft-length", 3]
    run = vocabtrim(*arguments(world, *options, "--json"))
    assert run.code == 0 and run.err == "" and run.out.count("\n") == 1
    told = run.json
    found = vt.replay(
        [world / "recorded"],
        drafter=world / drafter,
        target=world / "target",
        kept=[world / "half.safetensors", world / "few.safetensors"],
        draft_length=3,
        dtype="float32",
    )
    assert (told["generations"], told["tokens"]) == (len(PROMPTS), found.tokens)
    assert [one["name"] for one in told["kept"]] == ["full head", "half", "few"]
    for one, vocabulary in zip(told["kept"], found.kept, strict=True):
        summary = vocabulary.summary
        assert summary is not None
        assert one["kept_size"] == vocabulary.kept_size and one["mbsu"] == vocabulary.mbsu
        assert one["block_efficiency"] == found.tokens / one["rounds"] == summary.block_efficiency
        assert one["coverage"] == vocabulary.text.overall.share
        assert one["accepted"] == summary.accepted and one["acceptance_by_depth"] == list(summary.acceptance_by_depth)
        assert set(one["by_category"]) == set(PROMPTS) and set(one["by_source"]) == {"recorded"}
        assert sum(part["tokens"] for part in one["by_place"].values()) == found.tokens
        lost = round(found.tokens * (1 - one["coverage"]))
        assert sum(token["count"] for token in one["lost"]) == lost and all(token["text"] for token in one["lost"])
    full, half, few = (one["block_efficiency"] for one in told["kept"])
    if drafter == "near":
        assert full > half > few


def test_the_tables_tell_the_same_numbers(world: Path, vocabtrim: Any) -> None:
    options = ["--drafter", world / "near", "--target", world / "target"]
    told = vocabtrim(*arguments(world, *options, "--json")).json
    run = vocabtrim(*arguments(world, *options))
    assert run.code == 0 and run.err == ""
    for one in told["kept"]:
        row = next(line for line in run.out.splitlines() if line.lstrip().startswith(f"{one['name']} "))
        for number in (f"{one['kept_size']:,}", f"{100 * one['coverage']:.2f} %", f"{one['block_efficiency']:.3f}"):
            assert number in row
    assert "Replayed: 3 generations" in run.out and "By category: block efficiency, coverage" in run.out
    assert all(name in run.out for name in PROMPTS) and "in their own prompt" in run.out


def test_the_text_alone(world: Path, vocabtrim: Any, tmp_path: Path) -> None:
    chats = write_jsonl(tmp_path / "chats.jsonl", [{"messages": CHAT, "language": "en"}, {"text": "prose"}])
    tokenizer = ["--tokenizer", world / "target"]
    common = ["replay", chats, "--kept", world / "half.safetensors", *tokenizer, "--by", "language"]
    run = vocabtrim(*common)
    assert run.code == 0 and "Left out: 1 of neither a chat" in run.out and "block efficiency" not in run.out
    told = vocabtrim(*common, "--json").json
    [one] = told["kept"]
    assert one["block_efficiency"] is None and set(one["by_category"]) == {"en"} and told["kind"] is None
    assert 0 < one["lost_in_prompt"] < 1, "the sea stands in the prompt, the comma does not"


def test_bad_input_is_one_line_and_changes_nothing(world: Path, vocabtrim: Any, tmp_path: Path) -> None:
    other = train(tmp_path / "other")
    before = {file: file.read_bytes() for file in world.rglob("*") if file.is_file()}
    kept = ["--kept", world / "half.safetensors"]
    recorded = world / "recorded"
    for line, facts in (
        (["replay", recorded], ["nothing to replay", "--drafter"]),
        (["replay", world / "missing", *kept], ["no recording at"]),
        (["replay", world / "target", *kept], ["recording.jsonl", "a folder without it"]),
        (["replay", recorded, *kept, "--tokenizer", other], ["another tokenizer", "expected tokenizer"]),
        (["replay", recorded, "--drafter", world / "eagle"], ["--target"]),
        (["replay", recorded, "--kept", world / "none.safetensors"], ["none.safetensors"]),
        (["replay", recorded, *kept, "--nodes", 9], ["without a drafter"]),
        (["replay", recorded, *kept, "--by", "language"], ["language"]),
        (
            ["replay", world / "target" / "tokenizer.json", *kept, "--tokenizer", world / "target"],
            ["holds no recording"],
        ),
        (["replay", recorded, *kept, "--drafter", world / "near", "--dtype", "int4"], ["int4"]),
    ):
        assert_bad_input(vocabtrim(*line), *facts)
    assert {file: file.read_bytes() for file in world.rglob("*") if file.is_file()} == before


def test_help_has_an_example(vocabtrim: Any) -> None:
    run = vocabtrim("replay", "--help")
    assert run.code == 0 and "Example: vocabtrim replay" in run.out
