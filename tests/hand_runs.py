"""Runs written by hand, small enough to add up: ten ids, a full head and two trims of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from vocabtrim.calibrate.counts import SourceCounts, TokenCounts
from vocabtrim.calibrate.tokenizer import TokenizerFacts
from vocabtrim.cost import Cost
from vocabtrim.measure.records import Difference, Failed, Generated, RecordedRound, Run, RunWriter

TOKENIZER = "t" * 64
COST = Cost(1000, 50, 10.0, 10, 1000, 50, 10)  # a draft step with its whole head reads 150 bytes of the target's 1000
KEPT = {"four": [0, 1, 2, 3], "six": [0, 1, 2, 3, 4, 5]}


def method(name: str, kept_ids: Sequence[int] | None = None, **more: Any) -> dict[str, Any]:
    rows = 10 if kept_ids is None else len(kept_ids)
    told = {"name": name, "folder": name, "kind": "independent", "kept_size": rows, "kept_ids": kept_ids}
    return {**told, "cost": asdict(replace(COST, full_head_rows=rows)), **more}


def header(*methods: dict[str, Any], temperature: float = 0.0, **more: Any) -> dict[str, Any]:
    plain = {"name": "autoregressive", "folder": None, "kind": None, "kept_size": None, "kept_ids": None, "cost": None}
    names = [told["name"] for told in methods]
    identity = {"target": "a" * 64, "tokenizer": TOKENIZER, "methods": dict.fromkeys(names, "f"), "dtype": "float32"}
    made = {"version": "0", "created": "2026-01-01T00:00:00+00:00", "inputs": {}, "arguments": {"threads": 1}}
    return {
        "made": made,
        "target": "tiny",
        "vocabulary": 10,
        "identity": {**identity, "temperature": temperature, "device": "cpu", "chat": True},
        "methods": [plain, *methods],
        **more,
    }


def answer(
    question: str, name: str, tokens: Sequence[int], rounds: Sequence[tuple[int, int, float]], **more: Any
) -> Generated:
    """rounds: (emitted, drafted depth, seconds); of the seconds a tenth is drafting and half is the target's."""
    done = tuple(RecordedRound(n, n - 1, depth, depth, s / 10, s / 2, s) for n, depth, s in rounds)
    told: dict[str, Any] = {"category": "math", "prompt_ids": (1, 9), "turn": 0} | more
    return Generated(
        question, method=name, token_ids=tuple(tokens), ended="length", prompt_seconds=0.5, rounds=done, **told
    )


def run_of(head: dict[str, Any], *records: Generated | Failed | Difference) -> Run:
    run = Run({"schema": 1, **head})
    for record in records:
        run.add(record)
    return run


def three_way(questions: int = 8, *, faster: float = 2.0, temperature: float = 0.0) -> Run:
    """Every question: eight tokens; the full head in four rounds of a second, "six" as many, `faster` each.

    Odd questions are "code", and there the last round of "six" is two. The target alone takes half a second a token.
    """
    records = []
    for number in range(questions):
        name, category = f"q{number}", "code" if number % 2 else "math"
        tokens = [0, 1, 2, 3, 4, 5, 6, 9]
        records += [
            answer(name, "autoregressive", tokens, [(1, 0, 0.5)] * 8, category=category),
            answer(name, "full", tokens, [(2, 3, 1.0)] * 4, category=category),
            answer(name, "four", tokens, [(1, 3, 1.0)] * 8, category=category),
        ]
        last = [(1, 3, 0.5 / faster)] * 2 if number % 2 else [(2, 3, 1 / faster)]
        records.append(answer(name, "six", tokens, [*[(2, 3, 1 / faster)] * 3, *last], category=category))
    methods = [method("full"), method("four", KEPT["four"]), method("six", KEPT["six"])]
    return run_of(header(*methods, temperature=temperature), *records)


def counts(tally: Sequence[int] = range(10, 0, -1), heldout: Sequence[int] = (0,) * 10) -> TokenCounts:
    """Of ten ids; id 0 is the stop token and always kept."""
    facts = TokenizerFacts(TOKENIZER, 10, 10, {0: "stop token"})
    vectors = (np.array(tally, np.int64), np.array(heldout, np.int64))
    return TokenCounts(facts, (SourceCounts("text", "raw", *vectors),), documents=1)


def write_run(folder: Path, run: Run) -> Path:
    with RunWriter(folder, run.header) as writer:
        for record in [*run.generated.values(), *run.failed.values(), *run.differences.values()]:
            writer.append(record)
    return folder
