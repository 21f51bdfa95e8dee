"""The demo's parts: prompts of all categories in turn, and three ways that write the same with every drafter."""

from __future__ import annotations

from pathlib import Path

import pytest

from vocabtrim.measure.metrics import summarise
from vocabtrim.testbed.demo import DRAFTERS, FULL, PLAIN, TRIMMED, Comparison, chosen_prompts, trim_built_in
from vocabtrim.testbed.train.documents import CHAT_CATEGORIES


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOCABTRIM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_every_category_has_its_turn() -> None:
    chosen = chosen_prompts(2 * len(CHAT_CATEGORIES))
    turns = [prompt.category for prompt in chosen]
    assert set(turns[: len(CHAT_CATEGORIES)]) == set(CHAT_CATEGORIES)
    assert turns[: len(CHAT_CATEGORIES)] == turns[len(CHAT_CATEGORIES) :]
    assert len({prompt.messages[-1]["content"] for prompt in chosen}) == len(chosen)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_three_ways_write_the_same(drafter: str, tmp_path: Path) -> None:
    job = trim_built_in(drafter, tmp_path / "trimmed")
    assert job.report is not None and job.report.ok and job.plan is not None
    comparison = Comparison(drafter, tmp_path / "trimmed")
    answers = [comparison.answer(prompt, 24) for prompt in chosen_prompts(7)]
    assert all(answer.same for answer in answers)
    assert "".join(piece.text for piece in answers[0].written[PLAIN].pieces).strip()
    plain, full, trimmed = comparison.sides(answers, job.plan.kept.size)
    assert (plain.name, full.name, trimmed.name) == (PLAIN, FULL, TRIMMED)
    assert plain.summary.block_efficiency == plain.mbsu == 1.0
    assert full.summary.emitted == trimmed.summary.emitted == plain.summary.emitted
    assert full.summary.rounds < 0.9 * plain.summary.rounds and trimmed.summary.rounds < 1.1 * full.summary.rounds
    assert trimmed.head_rows is not None and full.head_rows is not None
    assert trimmed.head_rows < full.head_rows / 2
    # What the drafters wrote alone is shown as theirs.
    accepted = sum(piece.accepted for answer in answers for piece in answer.written[FULL].pieces)
    assert 0 < accepted <= summarise(r for a in answers for r in a.written[FULL].generation.rounds).accepted
