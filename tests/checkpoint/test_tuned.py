"""`tuned.json`: written and read back, damaged in every way, and how its numbers and given ones go together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vocabtrim.checkpoint.layouts import EAGLE, INDEPENDENT
from vocabtrim.checkpoint.tuned import TUNED_FILE, Tuned, read_tuned, write_tuned
from vocabtrim.decoding.drafters.choose_plan import choose_plan
from vocabtrim.decoding.drafters.plans import Chain, DynamicTree
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.errors import InputError

MACHINE = {"processor": "a processor", "cores": 2}
TREE = Tuned(
    speculate=True,
    verdict="trim",
    reason="1.5 times the target alone",
    kept_size=64,
    target="abc",
    dtype="float32",
    device="cpu",
    machine=MACHINE,
    draft_length=3,
    nodes=8,
    branching=2,
    chain=2,
    figures={"predicted": 7},
    made={"tool": "vocabtrim"},
)
CHAIN = replace(TREE, draft_length=5, nodes=None, branching=1)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_tuned(tmp_path) is None
    write_tuned(tmp_path, TREE)
    assert read_tuned(tmp_path) == TREE


def damaged(**entries: Any) -> str:
    told = {"schema": 1, "speculate": True, "verdict": "trim", "reason": "", "kept_size": 64, "target": "abc"}
    return json.dumps({**told, "dtype": "float32", "device": "cpu", "machine": MACHINE, **entries})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "\xff",
        "[" * 100_000,
        "{}",
        damaged(kept_size="64"),
        damaged(kept_size=0),
        damaged(kept_size=True),
        damaged(draft_length=0),
        damaged(draft_length=1.5),
        damaged(nodes=10**9),
        damaged(branching="2"),
        damaged(chain=-1),
        damaged(speculate="yes"),
        damaged(machine=None),
        damaged(figures=3),
        damaged(reason=4),
        damaged(surprise=1),
        '{"schema": 1, "speculate": true}',
    ],
)
def test_a_damaged_file_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / TUNED_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(
        InputError, match=r"tuned.json is damaged: expected|tuned.json is damaged, found .*; tune again"
    ):
        read_tuned(tmp_path)


def test_what_the_damaged_ones_are_made_from_is_sound(tmp_path: Path) -> None:
    (tmp_path / TUNED_FILE).write_text(damaged())
    found = read_tuned(tmp_path)
    assert found is not None and found.numbers == {}


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / TUNED_FILE).write_text(damaged(schema=2))
    with pytest.raises(InputError, match="another schema version: expected 1, found 2; tune again"):
        read_tuned(tmp_path)


@pytest.mark.parametrize(
    ("tuned", "given", "expected"),
    [
        (TREE, {}, DynamicTree(8, 3, 2)),
        (TREE, {"draft_length": 2}, DynamicTree(8, 2, 2)),
        (TREE, {"nodes": 5}, DynamicTree(5, 3, 2)),
        (TREE, {"branching": 1}, Chain(3)),
        (TREE, {"branching": 4}, DynamicTree(8, 3, 4)),
        (CHAIN, {}, Chain(5)),
        (CHAIN, {"draft_length": 2}, Chain(2)),
        (CHAIN, {"branching": 4}, DynamicTree(depth=5, branching=4)),
        (CHAIN, {"nodes": 12}, DynamicTree(nodes=12, depth=5)),
    ],
)
def test_given_numbers_win_and_the_others_fit_them(tuned: Tuned, given: dict[str, int], expected: object) -> None:
    asked = {"draft_length": None, "nodes": None, "branching": None} | given
    for kind in (EAGLE, INDEPENDENT):
        assert choose_plan(kind, Sampling(), **tuned.filling(asked)) == expected


@pytest.mark.parametrize(
    ("here", "words"),
    [
        ({}, []),
        ({"target": "other"}, ["for another target"]),
        ({"dtype": "bfloat16"}, ["in float32"]),
        ({"device": "cuda:1"}, ["on cpu"]),
        ({"device": "cpu:0"}, []),
        ({"machine": {**MACHINE, "cores": 4}}, ["on another machine"]),
        ({"dtype": "float16", "target": "x"}, ["for another target", "in float32"]),
    ],
)
def test_what_differs_from_where_it_was_measured(here: dict[str, Any], words: list[str]) -> None:
    place = {"target": "abc", "dtype": "float32", "device": "cpu", "machine": MACHINE}
    assert TREE.differs(**(place | here)) == words
