"""Our figures and Spec-Bench's, of a few answers whose sums fit on paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vocabtrim.errors import MismatchError
from vocabtrim.measure.spec_bench import Answer, read_answers
from vocabtrim.measure.spec_bench_figures import Pair, by_category, compare, figures, pairs, upstream_figures


def answer(question: str, tokens: int, seconds: float, passes: tuple[int, ...] | None, **other: Any) -> Answer:
    """A turn as a file told it; by default the only one of a question of "qa", with a pass per accept length."""
    told: dict[str, Any] = {"category": "qa", "model": "m", "choice": 0, "turn": 0, "text": "a b c d", "failed": False}
    told |= {"decoding_steps": len(passes or ()), **other}
    return Answer(question, new_tokens=tokens, wall_time=seconds, accept_lengths=passes, **told)


METHOD = [
    answer("81", 4, 0.5, (3, 1), category="writing", text="One."),
    answer("81", 5, 0.25, (2, 2, 1), category="writing", text="Two.", turn=1),
    answer("100", 12, 0.5, (4, 4, 4)),
    answer("101", 12, 0.5, (4, 4, 4), text="ERROR", failed=True),  # the numbers of question 100
]
BASELINE = [
    answer("102", 8, 4.0, (1,) * 8, text="v w"),  # which the method did not answer
    answer("101", 10, 2.0, (1,) * 10, text="x y"),
    answer("100", 12, 2.0, (1,) * 12),
    answer("81", 6, 1.0, (1,) * 6, category="writing", text="Two, too.", turn=1),
    answer("81", 4, 1.0, (1,) * 4, category="writing", text="One."),
]


def words_and_bos(text: str) -> int:
    return len(text.split()) + 1


def test_sums_and_ratios() -> None:
    found = figures(METHOD)
    assert (found.turns, found.failed, found.new_tokens, found.decoding_steps, found.wall_time) == (3, 1, 21, 8, 1.25)
    assert found.block_efficiency == pytest.approx(21 / 8)
    assert found.tokens_per_second == pytest.approx(21 / 1.25)
    assert (found.recorded_passes, found.accepted_at) == (8, (6, 4, 3))  # 3 1 | 2 2 1 | 4 4 4
    assert found.acceptance_by_depth == pytest.approx((6 / 8, 4 / 8, 3 / 8))
    assert found.mbsu(0.05, 5) == pytest.approx(21 / 8 / 1.25)


def test_where_accept_lengths_are_not_told() -> None:
    """Block efficiency takes all passes, acceptance by depth those that are told."""
    found = figures([*METHOD[:2], answer("100", 12, 0.5, None, decoding_steps=4)])
    assert found.block_efficiency == pytest.approx(21 / 9)
    assert (found.recorded_passes, found.acceptance_by_depth) == (5, pytest.approx((3 / 5, 1 / 5)))


def test_nothing_to_add_up() -> None:
    for nothing in (figures([]), figures(METHOD[3:])):
        assert (nothing.turns, nothing.block_efficiency, nothing.tokens_per_second) == (0, 0, 0)
        assert nothing.acceptance_by_depth == ()
    assert figures(METHOD[3:]).failed == 1
    nothing_paired = compare([])
    assert (nothing_paired.pairs, nothing_paired.speedup) == (0, 0)
    assert upstream_figures([], [], len).speedup == 0


def test_categories() -> None:
    groups = by_category([*METHOD, answer("5", 1, 1.0, (1,), category=None)])
    assert list(groups) == ["mt_bench", "qa", "overall"]
    assert [len(group) for group in groups.values()] == [2, 2, 5]
    assert list(by_category(METHOD, merge_mt_bench=False)) == ["writing", "qa", "overall"]


def test_speedup_is_of_the_turns_that_both_answered() -> None:
    """81 twice and 100: 101 failed in one file, 102 is in one file; the order of the files does not matter."""
    paired = pairs(METHOD, BASELINE)
    assert [(pair.method.question, pair.baseline.turn) for pair in paired] == [("81", 0), ("81", 1), ("100", 0)]
    overall = compare(paired)
    assert (overall.pairs, overall.same_text) == (3, 2)
    assert overall.speedup == pytest.approx((21 / 1.25) / (22 / 4))
    of_writing = compare(by_category(paired)["mt_bench"])
    assert of_writing.speedup == pytest.approx((9 / 0.75) / (10 / 2))
    assert overall.baseline.block_efficiency == 1
    assert pairs(BASELINE, METHOD[2:]) == [Pair(BASELINE[2], METHOD[2])]  # a baseline that failed, the other way round


def test_turns_of_different_choices_are_no_pair() -> None:
    again = [answer("100", 12, 0.5, (4, 4, 4)), answer("100", 9, 0.5, (4, 4, 1), choice=1)]
    assert [pair.method.choice for pair in pairs(again, BASELINE)] == [0]
    with pytest.raises(
        MismatchError, match="to different questions: expected one of the 1 answered turns, found 5 others"
    ):
        pairs(again[1:], BASELINE)


def test_a_method_that_always_failed_is_no_mismatch() -> None:
    assert pairs(METHOD[3:], BASELINE) == []


def test_upstream_s_own_figures() -> None:
    """Means over questions, failed ones too, unmatched: 9 / 0.75, 24, 24 against 3 / 2, 4 / 2, 2 / 2, 2 / 4 words a
    second; pooled accept lengths 33 / 11. A speed-up of 16, where what both answered was 3.05 times as fast.
    """
    found = upstream_figures(METHOD, BASELINE, words_and_bos)
    assert found.mean_accepted_tokens == pytest.approx(33 / 11)
    assert found.tokens_per_second == pytest.approx((12 + 24 + 24) / 3)
    assert found.baseline_tokens_per_second == pytest.approx((1.5 + 2 + 1 + 0.5) / 4)
    assert found.speedup == pytest.approx(16)
    of_qa = upstream_figures(by_category(METHOD)["qa"], by_category(BASELINE)["qa"], words_and_bos)
    assert of_qa.speedup == pytest.approx(24 / ((2 + 1 + 0.5) / 3))


def test_upstream_reads_the_first_choice_alone() -> None:
    second = answer("100", 99, 0.125, (99,), choice=1)
    assert upstream_figures([*METHOD, second], BASELINE, words_and_bos) == upstream_figures(
        METHOD, BASELINE, words_and_bos
    )
    without = upstream_figures([*METHOD, answer("7", 4, 1.0, None, decoding_steps=2)], BASELINE, words_and_bos)
    assert without.mean_accepted_tokens is None


def test_from_the_file_to_the_figures(tmp_path: Path) -> None:
    """The question of two turns above, as upstream writes it."""
    choice = {"index": 0, "turns": ["One.", "Two."], "decoding_steps": [2, 3], "new_tokens": [4, 5]}
    choice |= {"wall_time": [0.5, 0.25], "accept_lengths": [3, 1, 2, 2, 1]}
    record = {"question_id": 81, "category": "writing", "model_id": "m", "choices": [choice]}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    assert read_answers(tmp_path / "a.jsonl") == METHOD[:2]
