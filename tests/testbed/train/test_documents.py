"""What is learned from: forms, the split, and nothing of the held-out side in training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vocabtrim.testbed.train import corpus, from_prose, from_python, from_questions, from_tools
from vocabtrim.testbed.train.documents import CHAT_CATEGORIES, held_out


def test_math_loses_its_calculator_marks(tmp_path: Path) -> None:
    record = {"question": "Two and two?", "answer": "2+2 = <<2+2=4>>4 in all.\n#### 4"}
    (tmp_path / "math.jsonl").write_text(json.dumps(record) + "\n")
    (document,) = from_questions.math(tmp_path / "math.jsonl")
    assert document.turns == (("user", "Two and two?"), ("assistant", "2+2 = 4 in all.\nThe answer is 4."))


def test_wikitext_is_written_as_people_write() -> None:
    spaced = 'It may reach 60 centimetres ( 24 in ) , 0 @.@ 7 – 2 @.@ 2 kg ; a " red " , the blue @-@ red one \'s'
    assert from_prose.natural(spaced) == (
        'It may reach 60 centimetres (24 in), 0.7 – 2.2 kg; a "red", the blue-red one\'s'
    )


def test_a_program_is_shown_without_the_docstring_that_asks_for_it() -> None:
    found = {thing.name: thing for _, thing in from_python.described()}
    wrap = found["textwrap.wrap"]
    assert wrap.signature == "(text, width=70, **kwargs)"
    assert wrap.program is not None
    assert wrap.program.startswith("def wrap(") and "Wrap a single paragraph" not in wrap.program


def test_held_out_requests_offer_held_out_functions_alone() -> None:
    apis = [{"API": f"Api {n}", "Description": f"Data {n}", "Auth": "", "Category": "Test"} for n in range(400)]
    offered: dict[bool, set[str]] = {True: set(), False: set()}
    for document in from_tools.requests(apis, 300, seed=0):
        tools = [json.loads(line) for line in document.turns[0][1].splitlines() if line.startswith("{")]
        offered[held_out(document.key)] |= {tool["description"] for tool in tools}
        call = json.loads(document.turns[-1][1])
        assert any(tool["name"] == call["name"] and set(tool["parameters"]) == set(call["arguments"]) for tool in tools)
    assert offered[True] and offered[False]
    assert not offered[True] & offered[False]


@pytest.mark.slow
def test_no_held_out_question_is_in_training(data: Path) -> None:
    """Reading and continuing show passages, whose pages are split; repeated requests are checked above."""
    sides: dict[bool, set[str]] = {True: set(), False: set()}
    for document, out in corpus.documents(data):
        if document.category in CHAT_CATEGORIES and document.category != "functions":
            sides[out].add(document.turns[-2][1])
    assert len(sides[True]) > 2000
    assert not sides[True] & sides[False]
