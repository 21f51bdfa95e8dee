"""Answer files in Spec-Bench's format, written by hand: what each of its scripts put there, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vocabtrim.errors import InputError, MismatchError
from vocabtrim.measure.questions import Question
from vocabtrim.measure.spec_bench import Answer, read_answers


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write records, or lines as they are, as an answer file."""

    def write(*lines: Any, name: str = "answers.jsonl") -> Path:
        raw = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
        (tmp_path / name).write_bytes(b"\n".join(raw) + b"\n")
        return tmp_path / name

    return write


def record(question_id: Any = 81, category: str | None = "writing", **choice: Any) -> dict[str, Any]:
    """One question of two turns: passes of 3 + 1 tokens, then of 2 + 2 + 1. A field of None is left out."""
    told = {
        "index": 0,
        "turns": ["One.", "Two."],
        "decoding_steps": [2, 3],
        "new_tokens": [4, 5],
        "wall_time": [0.5, 0.25],
        "accept_lengths": [3, 1, 2, 2, 1],
        **choice,
    }
    about = {"question_id": question_id, "category": category, "answer_id": "u", "model_id": "m-temperature-0.0"}
    kept = {name: value for name, value in told.items() if value is not None}
    return {**{name: value for name, value in about.items() if value is not None}, "choices": [kept], "tstamp": 1.5e9}


def passes(answers: list[Answer]) -> list[tuple[int, tuple[int, ...] | None]]:
    return [(answer.decoding_steps, answer.accept_lengths) for answer in answers]


def test_one_question(written: Callable[..., Path]) -> None:
    assert read_answers(written(record())) == [
        Answer("81", "writing", "m-temperature-0.0", 0, 0, "One.", 4, 0.5, 2, (3, 1), False),
        Answer("81", "writing", "m-temperature-0.0", 0, 1, "Two.", 5, 0.25, 3, (2, 2, 1), False),
    ]


@pytest.mark.parametrize(
    "told",
    [
        {"decoding_steps": [2, 3]},  # since commit 9262209
        {"decoding_steps": None, "idxs": [1, 2]},  # before: indices
        {"decoding_steps": [1, 2]},  # Token Recycling: one too few under the new name
        {"decoding_steps": None, "idxs": [3, 4]},  # PLD: new_tokens - 1
        {"accept_lengths": None, "accept_lengths:": [3, 1, 2, 2, 1]},  # SpS and Hydra for a while
        {"new_tokens": [5, 6], "decoding_steps": [1, 2]},  # Token Recycling with its stop tokens
    ],
)
def test_passes_are_counted_by_accept_lengths(written: Callable[..., Path], told: dict[str, Any]) -> None:
    assert passes(read_answers(written(record(**told)))) == [(2, (3, 1)), (3, (2, 2, 1))]


def test_passes_where_no_accept_lengths_are(written: Callable[..., Path]) -> None:
    """EAGLE's own scripts and Jakiro's write indices, and no category."""
    old = record(category=None, decoding_steps=None, idxs=[1, 2], accept_lengths=None)
    new = record(82, accept_lengths=None)
    answers = read_answers(written(old, new))
    assert passes(answers) == [(2, None), (3, None)] * 2
    assert [answer.category for answer in answers] == [None, None, "writing", "writing"]


def test_lookahead_cuts_inside_a_pass(written: Callable[..., Path]) -> None:
    """At the length limit it cuts the tokens, not their pass: 6 of 3 + 4."""
    answers = read_answers(written(record(new_tokens=[6, 5], accept_lengths=[3, 4, 2, 2, 1])))
    assert passes(answers) == [(2, (3, 4)), (3, (2, 2, 1))]


def test_wrong_steps_that_happen_to_add_up(written: Callable[..., Path]) -> None:
    """PLD's steps, [1, 3], are as many as there are passes, [3, 1], and only one pass off cuts where tokens were."""
    told = {"decoding_steps": [1, 3], "new_tokens": [4, 4], "accept_lengths": [1, 2, 1, 4]}
    assert passes(read_answers(written(record(**told)))) == [(3, (1, 2, 1)), (1, (4,))]


def test_what_failed(written: Callable[..., Path]) -> None:
    """The first turn of 82 repeats the numbers before it; its second was asked behind "ERROR". 84 ends at once."""
    told = {"new_tokens": [5, 2], "decoding_steps": [3, 1], "accept_lengths": [2, 2, 1, 2]}
    answers = read_answers(
        written(
            record(),
            record(82, turns=["ERROR", "Two."], **told),
            record(83, turns=["One.", "ERROR"]),
            record(84, turns=[" ", "Two."]),
            record(85, new_tokens=[0, 5], decoding_steps=[0, 3], accept_lengths=[2, 2, 1]),
            record(86, turns=["ERROR: none", "Two."]),
        )
    )
    failed = [answer.failed for answer in answers]
    assert failed == [False, False, True, True, False, True, True, False, True, False, False, False]
    assert passes(answers)[2] == (3, (2, 2, 1)) and answers[2].new_tokens == 5  # kept for upstream's own figures


def test_every_choice_is_read(written: Callable[..., Path]) -> None:
    two = record()
    two["choices"].append({**two["choices"][0], "index": 1, "turns": ["Uno.", "Dos."]})
    answers = read_answers(written(two))
    assert [(a.choice, a.turn, a.text) for a in answers] == [
        (0, 0, "One."),
        (0, 1, "Two."),
        (1, 0, "Uno."),
        (1, 1, "Dos."),
    ]


ASKED = [Question("81", "writing", ("a", "b")), Question("82", "qa", ("a", "b"))]


def test_categories_come_from_the_questions(written: Callable[..., Path]) -> None:
    answers = read_answers(written(record(82, category=None), record()), ASKED)
    assert [answer.category for answer in answers] == ["qa", "qa", "writing", "writing"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (record(83), "line 1: question 83 is not among the 2 that were asked; pass the question file"),
        (record(82), "line 1: not the question 82 that was asked: expected 2 turns of qa, found 2 turns of writing"),
        (
            record(turns=["a"], new_tokens=[4], decoding_steps=[2], wall_time=[1], accept_lengths=[3, 1]),
            "expected 2 turns of writing, found 1 turns of writing",
        ),
    ],
)
def test_answers_to_other_questions(written: Callable[..., Path], answer: Any, said: str) -> None:
    with pytest.raises(MismatchError) as caught:
        read_answers(written(answer), ASKED)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"question_id": 82, "cat', "answers.jsonl, line 2: malformed JSON; correct it, or get the file again"),
        (b"\xff", "line 2: invalid UTF-8"),
        ([1], "line 2: no answer: expected an object with fields, found list"),
        (record(None), "line 2: question_id: expected a number or a text, found None"),
        (record(True), "line 2: question_id: expected a number or a text, found True"),
        (record(8.5), "line 2: question_id: expected a number or a text, found 8.5"),
        (record(""), "line 2: question_id: expected a number or a text, found ''"),
        ({**record(82), "category": 3}, "line 2: category: expected a text, found 3"),
        ({"question_id": 82, "turns": ["a", "b"]}, "line 2: choices: expected a list of objects, found None"),
        ({"question_id": 82, "choices": []}, "line 2: choices: expected a list of objects, found []"),
        ({"question_id": 82, "choices": ["a"]}, "line 2: choices: expected a list of objects, found ['a']"),
        (record(82, turns=None), "line 2, choice 0: turns: expected a list, found none"),
        (record(82, turns="ab"), "line 2, choice 0: turns: expected a list, found str"),
        (record(82, turns=["a", 1]), "line 2, choice 0: entry 2 of turns: expected a text, found 1"),
        (record(82, new_tokens=None), "line 2, choice 0: new_tokens: expected a list, found none"),
        (record(82, decoding_steps=None), "line 2, choice 0: idxs: expected a list, found none"),
        (record(82, decoding_steps=7), "line 2, choice 0: decoding_steps: expected a list, found int"),
        (
            record(82, wall_time=[1.0]),
            "are not of the same turns: expected one entry a turn in each, found 2, 2, 1, 2",
        ),
        (record(82, turns=[], new_tokens=[], decoding_steps=[], wall_time=[]), "not of the same turns"),
        (record(82, new_tokens=[4, -1]), "entry 2 of new_tokens: expected a number from 0, found -1"),
        (record(82, new_tokens=[4.0, 5]), "entry 1 of new_tokens: expected a number from 0, found 4.0"),
        (record(82, new_tokens=[True, 5]), "entry 1 of new_tokens: expected a number from 0, found True"),
        (record(82, new_tokens=[10**300, 5]), "entry 1 of new_tokens: expected a number from 0, found 1000"),
        (record(82, decoding_steps=[2, None]), "entry 2 of decoding_steps: expected a number from 0, found None"),
        (record(82, wall_time=[0.5, 0]), "entry 2 of wall_time: expected seconds above 0, found 0"),
        (record(82, wall_time=[-0.5, 1]), "entry 1 of wall_time: expected seconds above 0, found -0.5"),
        (record(82, wall_time=[float("nan"), 1]), "entry 1 of wall_time: expected seconds above 0, found nan"),
        (record(82, wall_time=[float("inf"), 1]), "entry 1 of wall_time: expected seconds above 0, found inf"),
        (record(82, wall_time=["1", 1]), "entry 1 of wall_time: expected seconds above 0, found '1'"),
        (
            record(82, accept_lengths=[3, 1, 2, 2, -1]),
            "entry 5 of accept_lengths: expected accepted tokens + 1,",
        ),
        (
            record(82, accept_lengths=[2, 0, 1, 1, 0]),
            "entry 2 of accept_lengths: expected accepted tokens + 1,",
        ),
        (record(82, accept_lengths={"a": 1}), "accept_lengths: expected a list, found dict"),
        (
            record(81),
            "question 81 is answered twice, found line 1 and line 2; take out all but the last",
        ),
        (record("81"), "question 81 is answered twice, found line 1 and line 2"),
    ],
)
def test_one_bad_record_refuses_the_file(written: Callable[..., Path], line: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_answers(written(record(), line))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "lengths",
    [
        [3, 1, 2, 2],  # a pass is missing
        [3, 1, 2, 2, 1, 1],  # one too many
        [3, 1, 2, 6, 1],  # as many as steps, with too many tokens
        [2, 1, 1, 1, 1],  # with too few
        [4, 1, 2, 2, 1, 1, 1],  # as many as indices would have
        [],
    ],
)
def test_accept_lengths_that_do_not_add_up(written: Callable[..., Path], lengths: list[int]) -> None:
    with pytest.raises(InputError) as caught:
        read_answers(written(record(accept_lengths=lengths)))
    said = f"new_tokens turn by turn: expected 9 tokens, found {sum(lengths)} in {len(lengths)} passes"
    assert said in str(caught.value)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match="holds no record"):
        read_answers(tmp_path / "a.jsonl")
