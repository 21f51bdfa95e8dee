"""The demo's parts: prompts of all categories in turn, and three ways that write the same with every drafter."""

from __future__ import annotations

from pathlib import Path

import pytest

from vocabtrim.decoding.text import TargetText
from vocabtrim.measure.figures import OVERALL, figures, kept_ids
from vocabtrim.measure.records import AUTOREGRESSIVE, FULL
from vocabtrim.testbed.demo import (
    DRAFTERS,
    TRIMMED,
    WAYS,
    chosen_prompts,
    compare,
    pieces,
    questions_of,
    trim_built_in,
    write_page,
)
from vocabtrim.testbed.family import member
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
    job = trim_built_in(drafter, tmp_path / TRIMMED)
    assert job.report is not None and job.report.ok and job.plan is not None
    seen: list[tuple[int, int]] = []
    prompts, words = chosen_prompts(7), TargetText(member("target"))
    run = compare(
        drafter,
        questions_of(prompts),
        tmp_path,
        max_new_tokens=24,
        seen=lambda run, done, wanted: seen.append((done, wanted)),
    )
    assert seen == [(done, 21) for done in range(1, 22)]
    assert run.methods == [AUTOREGRESSIVE, FULL, TRIMMED] and len(run.methods) == len(WAYS)
    assert not run.differences and not run.failed
    plain, full, trimmed = figures(run, kept_ids(run))[OVERALL]
    assert plain.summary.block_efficiency == plain.mbsu == 1.0
    assert full.summary.emitted == trimmed.summary.emitted == plain.summary.emitted
    assert full.summary.rounds < 0.9 * plain.summary.rounds and trimmed.summary.rounds < 1.25 * full.summary.rounds
    assert trimmed.kept_size is not None and full.kept_size is not None
    assert trimmed.kept_size < full.kept_size / 2

    # What is asked is the whole conversation, and what the drafters wrote alone is shown as theirs.
    answers = [run.generated[str(place), 0, FULL] for place in range(1, 8)]
    assert [list(answer.prompt_ids) for answer in answers] == [words.conversation(p.messages) for p in prompts]
    shown = [pieces(words, answer) for answer in answers]
    assert ["".join(piece.text for piece in said) for said in shown] == [words.decode(a.token_ids) for a in answers]
    assert 0 < sum(piece.accepted for said in shown for piece in said) <= full.summary.accepted

    write_page(job, tmp_path, tmp_path / "page.html")
    assert f"{trimmed.kept_size:,} ids" in (tmp_path / "page.html").read_text(encoding="utf-8")
