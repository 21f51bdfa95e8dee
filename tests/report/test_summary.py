"""What a page shows, on runs that can be added up by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import hand_runs
from hand_runs import COST, KEPT, answer, counts, header, method, run_of, three_way
from vocabtrim.calibrate.counts import SourceCounts, TokenCounts
from vocabtrim.cost import chain_acceptance_rate, chain_block_efficiency
from vocabtrim.errors import InputError, MismatchError
from vocabtrim.measure.records import Failed, Run
from vocabtrim.report.summary import LostToken, RunSummary, summarise_runs


def summary(run: Run, *counted: Any) -> RunSummary:
    (found,) = summarise_runs({"greedy": run}, counted)
    return found


def test_the_fastest_trim_is_judged_and_compared_with_the_full_head() -> None:
    found = summary(three_way(faster=2.0))
    assert found.trimmed == ("four", "six") and found.pick == "six" and found.full
    assert found.over_full["six"].speed == pytest.approx(2) and found.over_full["four"].speed == pytest.approx(0.5)
    assert set(found.pick_over_full) == {"overall", "math", "code"} == set(found.figures)
    assert found.pick_over_full["math"].block_efficiency == pytest.approx(1)
    assert found.pick_over_full["code"].block_efficiency == pytest.approx(4 / 5)
    assert found.questions == 8 and found.greedy and found.sizes is None
    assert summary(three_way(faster=0.4)).pick == "four"  # now it is the faster of the two


def test_a_draft_step_by_bytes_and_time() -> None:
    steps = summary(three_way()).steps
    assert list(steps) == ["full", "four", "six"]
    assert (steps["full"].body_bytes, steps["full"].head_bytes, steps["full"].bytes) == (50, 100, 150)
    assert steps["six"].bytes == 110
    assert steps["full"].seconds == pytest.approx(0.1 / 3)  # a round of three steps drafts for a tenth of a second


def test_medusa_drafts_a_round_in_one_step() -> None:
    cost = replace(COST, sequential=False).__dict__
    run = run_of(
        header(method("full", kind="medusa", cost=cost)),
        answer("a", "autoregressive", [1], [(1, 0, 1.0)]),
        answer("a", "full", [1, 1], [(2, 4, 1.0)]),
    )
    assert summary(run).steps["full"].seconds == pytest.approx(0.1)


def test_lost_tokens_and_what_stood_in_the_prompt() -> None:
    """ "six" keeps 0 to 5, so of every answer 6 and 9 are lost; 9 stands in every prompt, of question q0 6 does too."""
    run = three_way(questions=6)
    first = run.generated["q0", 0, "six"]
    run.add(replace(first, prompt_ids=(6, 9)))
    lost = summary(run).lost
    assert lost is not None
    assert lost.tokens == (LostToken(6, times=6, in_prompt=1), LostToken(9, times=6, in_prompt=6))
    assert (lost.times, lost.in_prompt, lost.emitted) == (12, 7, 48)


def test_sizes_follow_the_counts_and_the_run() -> None:
    """Counts of 10, 9, ... 1 for ids 0 to 9; every answer of the run holds 0 to 6 and 9 once."""
    found = summary(three_way(), counts()).sizes
    assert found is not None and found.stops == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    four, full = found.at(4), found.at(10)
    assert four is not None and full is not None
    assert four.predicted.coverage == pytest.approx((10 + 9 + 8 + 7) / 55) and four.predicted.heldout_coverage is None
    assert four.in_run == pytest.approx(4 / 8) and full.in_run == 1
    assert four.predicted.draft_step_bytes == 50 + 40 and full.predicted.draft_step_bytes == 150
    # the full head emitted 2 tokens a round with chains of 3: predictions start from there
    rate = chain_acceptance_rate(2.0, 3)
    assert full.predicted.predicted_block_efficiency == pytest.approx(2)
    expected = chain_block_efficiency(rate * 34 / 55, 3)
    assert four.predicted.predicted_block_efficiency == pytest.approx(expected)
    assert four.predicted.mbsu == pytest.approx(expected / (0.09 * 3 + 1))
    assert found.at(11) is None and not found.held_out


def test_a_trim_smaller_than_any_stop_is_a_stop() -> None:
    """Of 10,000 rows the smallest stop would be 78; what was measured is there all the same."""
    facts = replace(counts().tokenizer, vocab_size=10_000, merge_ordered=10_000)
    vector = np.zeros(10_000, np.int64)
    vector[:100] = 1
    many = TokenCounts(facts, (SourceCounts("text", "raw", vector, vector),), documents=1)
    run = three_way()
    for told in run.header["methods"][1:]:
        told["cost"]["full_head_rows"] = 10_000 if told["name"] == "full" else told["kept_size"]
    run.header["methods"][1]["kept_size"] = 10_000
    found = summary(run, many).sizes
    assert found is not None and {4, 6} < set(found.stops) and found.stops[0] == 4 and found.stops[-1] == 10_000
    assert all(found.at(stop) is not None for stop in found.stops)


def test_held_out_tokens_are_what_predictions_rest_on() -> None:
    heldout = (1, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    found = summary(three_way(), counts(heldout=heldout)).sizes
    assert found is not None and found.held_out
    point = found.at(5)
    assert point is not None and point.predicted.heldout_coverage == 0.5
    assert point.predicted.predicted_block_efficiency == pytest.approx(
        chain_block_efficiency(chain_acceptance_rate(2.0, 3) / 2, 3)
    )


def test_a_full_head_that_was_trimmed_before_has_no_other_sizes() -> None:
    run = three_way()
    full = method("full", [0, 1, 2, 3, 4, 5, 6, 7])
    run = run_of({**run.header, "methods": [run.header["methods"][0], full, *run.header["methods"][2:]]})
    run.generated.update(three_way().generated)
    found = summary(run, counts()).sizes
    assert found is not None and found.stops[-2:] == (7, 8)
    point = found.at(8)
    assert point is not None and point.in_run == pytest.approx(7 / 8)  # 9 is not in it


def test_without_a_full_head() -> None:
    """What was cut is judged by itself: nothing is compared and nothing predicted."""
    run = three_way()
    methods = [told for told in run.header["methods"] if told["name"] != "full"]
    generated = {key: found for key, found in run.generated.items() if key[2] != "full"}
    found = summary(Run({**run.header, "methods": methods}, generated), counts())
    assert (found.full, found.pick, found.over_full, found.sizes) == (False, "six", {}, None)


def test_another_drafter_is_no_trim_of_the_full_one() -> None:
    run = three_way()
    plain, full, _, six = run.header["methods"]
    for other in (method("four", KEPT["four"], kind="eagle"), method("four")):
        found = summary(Run({**run.header, "methods": [plain, full, other, six]}, run.generated))
        assert found.trimmed == ("six",)


def test_one_head_is_judged_over_all_runs() -> None:
    """Greedy "six" wins by far, sampled "four" by a little: one page says one size."""
    greedy, sampled = three_way(faster=4.0), three_way(faster=0.4, temperature=1.0)
    alone = summarise_runs({"sampled": sampled})[0].pick
    both = [found.pick for found in summarise_runs({"greedy": greedy, "sampled": sampled})]
    assert alone == "four" and both == ["six", "six"]
    sampled.header["identity"]["methods"]["six"] = "another file of that name"
    assert [found.pick for found in summarise_runs({"greedy": greedy, "sampled": sampled})] == ["four", "four"]


def test_failed_questions_are_told_once() -> None:
    run = three_way()
    for name in ("full", "six"):
        run.add(Failed("q0", "math", 0, name, "out of memory"))
    found = summary(run)
    assert [failure.question for failure in found.failed] == ["q0"] and found.questions == 7


def test_counts_that_do_not_belong() -> None:
    other = replace(hand_runs.counts(), tokenizer=replace(hand_runs.counts().tokenizer, hash="u" * 64))
    with pytest.raises(MismatchError, match="another tokenizer than the run"):
        summary(three_way(), other)
    with pytest.raises(InputError, match="token counts are empty"):
        summary(three_way(), counts([0] * 10))
