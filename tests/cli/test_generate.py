"""`vocabtrim generate` from the command line: the target's own text, streamed, coloured, cut, repeated, interrupted."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from generation import lively, noisy_copy
from vocabtrim.cli import generate as verb
from vocabtrim.decoding.generate import generate
from vocabtrim.decoding.load import DTYPES
from vocabtrim.decoding.rounds import Round, decode
from vocabtrim.decoding.text import Piece
from vocabtrim.testbed import shapes, stories260k
from vocabtrim.testbed.builtin import BUILTIN, TOKENIZER

# The built-in tokenizer's ids in a model of a few megabytes; four layers, of which EAGLE-3 can read three.
SHAPE = replace(BUILTIN, hidden=32, intermediate=64, layers=4, heads=2, kv_heads=1, head_dim=16, dtype="float32")
PROMPT = "What is a coroutine?"
LENGTH = 24


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """target/ says many things; near/ is it with noise, right now and then; the others are right by luck alone."""
    folder = tmp_path_factory.mktemp("models")
    lively(shapes.write_target(folder / "dull", SHAPE, seed=1), folder / "target")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / "target" / name)
    noisy_copy(folder / "target", folder / "near", 0.05)
    shapes.write_eagle(folder / "eagle", SHAPE, seed=3)
    shapes.write_eagle3(folder / "eagle3", SHAPE, seed=4, draft_vocab=2000)
    shapes.write_medusa(folder / "medusa", SHAPE, seed=5, heads=3)
    return folder


@pytest.fixture(scope="module")
def stories(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model without a chat template."""
    return stories260k.convert(data / "models" / "stories260K", tmp_path_factory.mktemp("stories") / "target")


@pytest.fixture
def told(vocabtrim: Any, models: Path) -> Any:
    """The JSON object of a run that must succeed."""

    def call(*args: object, prompt: str = PROMPT, target: Path | None = None) -> Any:
        common = ["generate", prompt, "--target", target or models / "target", "--dtype", "float32", "--json"]
        run = vocabtrim(*common, "--max-new-tokens", LENGTH, *args)
        assert run.code == 0, run.err
        assert run.err == "" and run.out.count("\n") == 1
        return run.json

    return call


def reference(target: Path, prompt_ids: list[int], length: int) -> tuple[list[int], str]:
    """What transformers' own generate and decode make of it."""
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    ids = torch.tensor([prompt_ids])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False)
    new = out[0, len(prompt_ids) :].tolist()
    return new, AutoTokenizer.from_pretrained(target).decode(new, skip_special_tokens=True)


def chat_ids(target: Path) -> list[int]:
    turn = [{"role": "user", "content": PROMPT}]
    tokenizer = AutoTokenizer.from_pretrained(target)
    return list(tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False))


@pytest.mark.parametrize("drafter", [None, "near", "eagle", "eagle3", "medusa"])
def test_text_and_ids_are_those_of_transformers(drafter: str | None, models: Path, told: Any) -> None:
    found = told(*([] if drafter is None else ["--drafter", models / drafter]))
    ids, text = reference(models / "target", chat_ids(models / "target"), LENGTH)
    assert (found["token_ids"], found["text"]) == (ids, text)
    assert found["prompt_tokens"] == len(chat_ids(models / "target")) and found["ended"] == "length"


def test_a_real_model_without_a_chat_template(stories: Path, told: Any) -> None:
    prompt = "Once upon a time, there was a little girl named Lily."
    ids = AutoTokenizer.from_pretrained(stories)(prompt).input_ids
    new, text = reference(stories, ids, LENGTH)
    for found in (told(prompt=prompt, target=stories), told("--no-chat", prompt=prompt, target=stories)):
        assert (
            found["token_ids"] == new and found["text"].strip() == text.strip() and found["prompt_tokens"] == len(ids)
        )


def test_json_holds_what_programs_rely_on(models: Path, told: Any) -> None:
    found = told("--drafter", models / "near", "--draft-length", 3)
    assert found["kind"] == "independent" and found["seed"] is None
    assert found["rounds"] < found["emitted"] == len(found["token_ids"]) == LENGTH
    assert found["block_efficiency"] == LENGTH / found["rounds"]
    assert 0 < found["accepted"] <= found["drafted"] <= 3 * found["rounds"]
    assert len(found["acceptance_by_depth"]) == 3 and all(0 <= share <= 1 for share in found["acceptance_by_depth"])
    seconds = [found[name] for name in ("prompt_seconds", "draft_seconds", "target_seconds", "seconds")]
    assert all(second > 0 for second in seconds) and sum(seconds[1:3]) <= seconds[3]
    assert found["tokens_per_second"] == pytest.approx(LENGTH / found["seconds"])
    assert told()["kind"] is None


def test_the_table_tells_the_same_numbers(models: Path, vocabtrim: Any, told: Any) -> None:
    common = ["generate", PROMPT, "--target", models / "target", "--dtype", "float32", "--max-new-tokens", LENGTH]
    run = vocabtrim(*common, "--drafter", models / "near")
    found = told("--drafter", models / "near")
    assert run.code == 0 and run.out.startswith(found["text"])
    numbers = " ".join(run.out.removeprefix(found["text"]).split())
    for fact in (
        "independent drafter",
        f"emitted tokens {LENGTH}",
        f"rounds, one target pass each {found['rounds']}",
        f"block efficiency {found['block_efficiency']:.2f}",
        f"accepted of drafted tokens {found['accepted']} of {found['drafted']}",
        f"reading {found['prompt_tokens']} tokens of prompt",
        "ended by length",
    ):
        assert fact in numbers
    assert "drafted" not in vocabtrim(*common).out


@pytest.mark.parametrize("drafter", [[], ["--drafter", "near"], ["--drafter", "near", "--branching", 2]])
def test_a_seed_repeats_a_run_and_chance_does_not(drafter: list[object], models: Path, told: Any) -> None:
    """Two seeds give the same 24 tokens of some 16,000 ids at this temperature practically never."""
    args = [*(models / "near" if part == "near" else part for part in drafter), "--temperature", 1.5]
    first, again = told(*args, "--seed", 7), told(*args, "--seed", 7)
    assert first["token_ids"] == again["token_ids"] and first["rounds"] == again["rounds"] and first["seed"] == 7
    assert told(*args, "--seed", 8)["token_ids"] != first["token_ids"]
    drawn = told(*args)
    assert drawn["token_ids"] not in (first["token_ids"], told(*args)["token_ids"])
    assert told(*args, "--seed", drawn["seed"])["token_ids"] == drawn["token_ids"]


def test_a_prompt_from_standard_input(
    models: Path, told: Any, vocabtrim_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With or without the line break that echo adds."""
    for written in (PROMPT, f"{PROMPT}\n", f"{PROMPT}\r\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(written.encode())))
        assert told(prompt="-")["text"] == told()["text"]


def test_the_chat_template_and_no_chat(models: Path, told: Any) -> None:
    plain = AutoTokenizer.from_pretrained(models / "target")(PROMPT).input_ids
    found = told("--no-chat")
    assert found["prompt_tokens"] == len(plain) < told()["prompt_tokens"]
    assert found["token_ids"] == reference(models / "target", plain, LENGTH)[0]


def test_a_stop_string_ends_the_answer_and_is_not_shown(models: Path, told: Any, vocabtrim: Any) -> None:
    """The ids keep the token that completes it. Without a drafter and with one the cut is the same."""
    whole = told()
    middle = len(whole["text"]) // 2
    string = whole["text"][middle : middle + 4]
    shown = whole["text"][: whole["text"].index(string)]
    for drafter in ([], ["--drafter", models / "near"]):
        found = told("--stop", "never there", "--stop", string, *drafter)
        assert found["text"] == shown and found["ended"] == "stop string"
        ids = found["token_ids"]
        assert ids == whole["token_ids"][: len(ids)] and found["emitted"] == len(ids) < LENGTH
        tokenizer = AutoTokenizer.from_pretrained(models / "target")
        assert string in tokenizer.decode(ids) and string not in tokenizer.decode(ids[:-1])
        common = ["generate", PROMPT, "--target", models / "target", "--dtype", "float32"]
        run = vocabtrim(*common, "--stop", string, *drafter)
        assert run.out.startswith(f"{shown}\n") and "ended by" in run.out and "stop string" in run.out


def test_a_stop_id_ends_the_answer_unless_ignored(models: Path, told: Any, tmp_path: Path) -> None:
    whole = told()
    stop = whole["token_ids"][LENGTH // 2]
    for file in (models / "target").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}))
    found = told(target=tmp_path)
    assert found["ended"] == "stop id" and found["token_ids"] == whole["token_ids"][: len(found["token_ids"])]
    assert found["token_ids"].index(stop) == len(found["token_ids"]) - 1
    assert told("--ignore-eos", target=tmp_path)["token_ids"] == whole["token_ids"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str, models: Path, told: Any) -> None:
    assert told("--dtype", dtype, "--drafter", models / "near")["emitted"] == LENGTH


# What is shown, and how


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What `piece_printer` writes to a terminal with colours, whatever stdout is here."""
    screen = io.StringIO()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(
        "rich.console.Console",
        lambda **how: Console(file=screen, force_terminal=True, width=40, legacy_windows=False, **how),
    )
    return screen


def test_colour_marks_accepted_pieces_and_changes_no_character(terminal: io.StringIO) -> None:
    """Long lines are not wrapped, tabs not replaced, and nothing that looks like markup is read as such."""
    show = verb.piece_printer(drafting=True)
    assert terminal.getvalue() == "\x1b[32mdrafted and accepted\x1b[0m, the target's own\n\n"
    terminal.truncate(terminal.seek(0))
    show(
        [
            Piece("a line of words that is longer than the terminal, ", True),
            Piece("[bold]\tx\n", False),
            Piece("end", True),
            Piece(" ", False),
        ]
    )
    assert (
        terminal.getvalue()
        == "\x1b[32ma line of words that is longer than the terminal, \x1b[0m[bold]\tx\n\x1b[32mend\x1b[0m "
    )


def test_what_would_command_a_terminal_is_shown_as_unknown(terminal: io.StringIO) -> None:
    show = verb.piece_printer(drafting=False)
    show([Piece("a\x1b[2Jb\x07c\rd", False)])
    assert terminal.getvalue() == "a�[2Jb�c�d"


def test_no_color_is_respected(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    verb.piece_printer(drafting=True)([Piece("plain", True)])
    assert terminal.getvalue() == "plain"


def test_pieces_are_marked_as_the_rounds_say(models: Path) -> None:
    """Of each round the accepted tokens and no others; and the pieces make up the text."""
    how: dict[str, Any] = {"target": models / "target", "max_new_tokens": LENGTH, "dtype": "float32"}
    generation = generate(PROMPT, drafter=models / "near", **how)
    pieces = list(generation)
    tokenizer = AutoTokenizer.from_pretrained(models / "target")
    expected = [
        (tokenizer.decode([token]), position < round.accepted)
        for round in generation.rounds
        for position, token in enumerate(round.tokens)
    ]
    if not any("�" in text for text, _ in expected):  # then every token is a piece
        assert [(piece.text, piece.accepted) for piece in pieces] == [pair for pair in expected if pair[0]]
    assert {piece.accepted for piece in pieces} == {True, False}
    assert "".join(piece.text for piece in pieces) == generation.text == tokenizer.decode(generation.token_ids)


PROGRAM = [sys.executable, "-c", "from vocabtrim.cli import main; main()", "generate", PROMPT]


def test_no_escape_codes_and_nothing_on_stderr_without_a_terminal(models: Path) -> None:
    args = ["--target", models / "target", "--drafter", models / "near", "--max-new-tokens", "8"]
    done = subprocess.run([*PROGRAM, *args], capture_output=True, check=True)
    assert b"\x1b" not in done.stdout and done.stderr == b""


def test_colour_on_a_real_terminal(models: Path) -> None:
    args = ["--target", models / "target", "--drafter", models / "near", "--max-new-tokens", "8", "--dtype", "float32"]
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    process = subprocess.Popen([*PROGRAM, *map(str, args)], stdout=theirs, env=environment)
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 1000):
            seen += chunk
    except OSError:  # how Linux tells that the other side closed
        pass
    assert process.wait() == 0
    assert seen.startswith(b"\x1b[32mdrafted and accepted\x1b[0m") and seen.count(b"\x1b[32m") > 1


ENDLESS = """
import itertools, signal, time
from vocabtrim.cli import main
from vocabtrim.decoding import generate

decode = generate.decode

def endless(*args, **kwargs):
    yield from itertools.islice(decode(*args, **kwargs), 5)
    while True:
        time.sleep(1)

generate.decode = endless
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background without it
main()
"""


def test_ctrl_c_ends_it_with_the_numbers_so_far(models: Path) -> None:
    """Struck when the first text is there, of an answer that never ends by itself."""
    args = ["--target", models / "target", "--drafter", models / "near", "--ignore-eos", "--dtype", "float32"]
    command = [sys.executable, "-c", ENDLESS, "generate", PROMPT, *map(str, args)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=600)  # only a run that Ctrl-C does not end takes so long
        finally:
            process.kill()
    numbers = " ".join(out.decode(errors="replace").split())
    assert process.returncode == 130 and first and "emitted tokens" in numbers and "ended by interrupted" in numbers
    assert b"Traceback" not in err and err.count(b"\n") == 1 and b"interrupted" in err, err


def test_the_help_names_the_dtypes_that_there_are(vocabtrim: Any) -> None:
    words = vocabtrim("generate", "--help").out.replace(",", " ").split()
    assert set(DTYPES) <= set(words)


def test_ctrl_c_with_json_gives_the_object_of_what_there_is(
    models: Path, told: Any, vocabtrim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Struck in the seventh round. What was held back for a stop string that may begin there is text all the same."""

    def struck(*args: Any, **kwargs: Any) -> Iterator[Round]:
        yield from itertools.islice(decode(*args, **kwargs), 6)
        raise KeyboardInterrupt

    whole = told("--drafter", models / "near")
    monkeypatch.setattr("vocabtrim.decoding.generate.decode", struck)
    args = ["--target", models / "target", "--drafter", models / "near", "--dtype", "float32", "--json"]
    more: list[str] = []
    for _ in range(2):
        run = vocabtrim("generate", PROMPT, *args, *more)
        assert run.code == 130 and run.err.count("\n") == 1
        found = run.json
        assert found["ended"] == "interrupted" and found["rounds"] == 6 < found["emitted"] == len(found["token_ids"])
        assert found["token_ids"] == whole["token_ids"][: found["emitted"]]
        assert found["text"] == AutoTokenizer.from_pretrained(models / "target").decode(found["token_ids"])
        more = ["--stop", f"{found['text'][-1]} never"]


@pytest.mark.parametrize("stage", ["load_target", "load_drafter", "TargetText"])
def test_ctrl_c_before_there_is_anything(
    stage: str, models: Path, vocabtrim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def struck(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"vocabtrim.decoding.generate.{stage}", struck)
    run = vocabtrim("generate", PROMPT, "--target", models / "target", "--drafter", models / "near")
    assert (run.code, run.out) == (130, "") and run.err.strip().count("\n") == 0
