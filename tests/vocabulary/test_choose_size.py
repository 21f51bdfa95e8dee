"""Choosing a size: numbers, coverage, auto, and what is refused. Counts are small enough to check by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vocabtrim.calibrate.counts import SourceCounts, TokenCounts
from vocabtrim.calibrate.tokenizer import TokenizerFacts
from vocabtrim.cost import Cost, chain_block_efficiency, mbsu
from vocabtrim.errors import InputError, MismatchError
from vocabtrim.vocabulary.choose_size import (
    DO_NOT_TRIM,
    LOSING,
    NOT_JUDGED,
    TRIM,
    Choice,
    choose,
)
from vocabtrim.vocabulary.kept_size import parse_keep
from vocabtrim.vocabulary.size_table import SizeRow

VOCAB = 1000
FACTS = TokenizerFacts("one tokenizer", VOCAB, merge_ordered=900, always_keep={990: "stop token"})


def source(name: str, seen: dict[int, int], heldout: dict[int, int] | None = None) -> SourceCounts:
    def vector(tally: dict[int, int]) -> npt.NDArray[np.int64]:
        counts = np.zeros(VOCAB, np.int64)
        counts[list(tally)] = list(tally.values())
        return counts

    return SourceCounts(name, "raw", vector(seen), vector(heldout or {}))


def token_counts(*sources: SourceCounts, facts: TokenizerFacts = FACTS) -> TokenCounts:
    return TokenCounts(facts, sources, documents=1)


# 100 tokens in-sample over ids 500 (60), 501 (30), 502 (10); held out 50 over 500 (30), 501 (10), 600 (10).
ANSWERS = token_counts(source("answers", {500: 60, 501: 30, 502: 10}, {500: 30, 501: 10, 600: 10}))
WEB = token_counts(source("web", {600: 5, 501: 3}))
NO_HELDOUT = token_counts(source("answers", {500: 60, 501: 30, 502: 10}))


def cost_of(body: int = 1000, head_row: int = 10, rows: int = VOCAB, sequential: bool = True) -> Cost:
    """A target pass reads 100,000 bytes; in parameters the drafter's body has 2,000."""
    return Cost(100_000, body, head_row, rows, 100_000, 2000, head_row, sequential)


def kept_ids(choice: Choice) -> list[int]:
    assert choice.kept is not None
    return choice.kept.ids.tolist()


def row_of(choice: Choice, kept_size: int) -> SizeRow:
    (row,) = (row for row in choice.sizes if row.kept_size == kept_size)
    return row


# A number of ids


def test_a_number_is_kept_exactly_and_origins_are_told() -> None:
    choice = choose([ANSWERS, WEB], 7)
    assert kept_ids(choice) == [0, 1, 500, 501, 502, 600, 990]
    assert choice.kept is not None
    assert choice.kept.by_origin() == {"always-keep": 1, "answers": 3, "web": 1, "merge order": 2}
    assert choice.verdict == NOT_JUDGED and choice.picked == 7
    assert (choice.seen, choice.ranked) == (5, 901)  # 0 to 899 in merge order, and 990


def test_a_number_is_rounded_only_when_asked() -> None:
    assert choose(ANSWERS, 100).picked == 100
    assert choose(ANSWERS, 100, multiple=64).picked == 128


@pytest.mark.parametrize(
    ("facts", "prior", "ranked", "way_out"),
    [
        (FACTS, False, 4, "drop --no-prior"),
        (replace(FACTS, merge_ordered=0), True, 4, "no merge order to continue in"),
        (FACTS, True, 901, "count more text"),
    ],
)
def test_more_ids_than_anything_speaks_for_are_refused(
    facts: TokenizerFacts, prior: bool, ranked: int, way_out: str
) -> None:
    counts = token_counts(*ANSWERS.sources, facts=facts)
    assert choose(counts, ranked, prior=prior).picked == ranked
    with pytest.raises(
        InputError, match=rf"4 were seen or are always kept.*at most {ranked}, found {ranked + 1}"
    ) as it:
        choose(counts, ranked + 1, prior=prior)
    assert way_out in it.value.remedy


def test_the_always_keep_ids_need_room() -> None:
    many = replace(FACTS, always_keep=dict.fromkeys(range(990, 1000), "stop token"))
    counts = token_counts(*ANSWERS.sources, facts=many)
    assert kept_ids(choose(counts, 10)) == list(range(990, 1000))
    with pytest.raises(InputError, match="expected at least 10, found 9"):
        choose(counts, 9)
    assert kept_ids(choose(counts, 2, always_keep=False)) == [500, 501]


def test_further_ids_are_kept_on_request_also_without_the_default_ones() -> None:
    assert kept_ids(choose(ANSWERS, 3, also_keep=[7])) == [7, 500, 990]
    alone = choose(ANSWERS, 3, also_keep=[7], always_keep=False)
    assert kept_ids(alone) == [7, 500, 501] and alone.always_keep == {7: "asked for"}


def test_the_targets_own_stop_ids_join() -> None:
    target = replace(FACTS, always_keep={991: "stop token"})
    choice = choose(ANSWERS, 3, target=target)
    assert kept_ids(choice) == [500, 990, 991]


def test_other_tokenizers_are_refused_with_both_hashes() -> None:
    other = replace(FACTS, hash="another tokenizer")
    foreign = token_counts(*WEB.sources, facts=other)
    with pytest.raises(MismatchError, match="expected tokenizer hash one tokenizer, found another tokenizer"):
        choose([ANSWERS, foreign], 5)
    with pytest.raises(MismatchError, match="the target's tokenizer is not the one of the counts"):
        choose(ANSWERS, 5, target=other)


# Coverage


def test_coverage_is_of_the_held_out_tokens_where_there_are_any() -> None:
    """0.8 of the held-out tokens are ids 500 and 501; in-sample these two are 0.9."""
    choice = choose(ANSWERS, 0.8, multiple=1)
    assert kept_ids(choice) == [500, 501, 990]
    assert (choice.basis, choice.basis_tokens) == ("held-out", 50)


def test_coverage_is_in_sample_where_nothing_is_held_out() -> None:
    choice = choose(NO_HELDOUT, 0.9, multiple=1)
    assert kept_ids(choice) == [500, 501, 990]
    assert (choice.basis, choice.basis_tokens) == ("in-sample", 100)
    assert choice.sizes[-1].heldout_coverage is None


def test_held_out_tokens_never_rank() -> None:
    """Id 600 occurs in the held-out part only: it is reached through merge order, after every lower unseen id."""
    choice = choose(ANSWERS, 1.0, multiple=1)
    assert choice.picked == 1 + 601  # the stop id, and 0 to 600, three of which were seen
    assert choose([ANSWERS, WEB], 1.0, multiple=1).picked == 5


def test_coverage_is_rounded_up_to_64_as_far_as_ids_last() -> None:
    assert choose(ANSWERS, 0.8).picked == 64
    assert choose(ANSWERS, 0.8, prior=False).picked == 4
    with pytest.raises(InputError, match="at most 4, found 64"):
        choose(ANSWERS, 0.8, prior=False, multiple=64)


def test_coverage_that_cannot_be_had_is_refused_with_what_was_reached() -> None:
    with pytest.raises(InputError, match=r"all 4 ids that can be ranked reach 0.800000.*found 0.99.*--no-prior"):
        choose(ANSWERS, 0.99, prior=False)


def test_a_coverage_is_not_missed_by_rounding() -> None:
    """90 of 100 is not below 0.9, although 0.9 has no exact binary form; ten sizes of a hundred tokens each."""
    counts = token_counts(source("even", dict.fromkeys(range(10), 10)))
    for tenth in range(1, 11):
        assert choose(counts, tenth / 10, multiple=1, always_keep=False).picked == tenth


def test_empty_counts_are_refused() -> None:
    with pytest.raises(InputError, match="token counts are empty"):
        choose(token_counts(source("nothing", {})), 10)


# Cost, prediction, auto


def test_auto_needs_a_cost() -> None:
    with pytest.raises(InputError, match="--drafter and --target"):
        choose(ANSWERS, "auto")


def many_ids(share_of_rare: float) -> TokenCounts:
    """Ids 0 to 99 equally often, and ids 100 to 899 sharing `share_of_rare` of the held-out tokens."""
    rare = round(share_of_rare * 100_000 / 800)
    tally = {**dict.fromkeys(range(100), round((1 - share_of_rare) * 1000)), **dict.fromkeys(range(100, 900), rare)}
    return token_counts(source("text", tally, tally))


def test_auto_takes_the_highest_predicted_mbsu_of_all_multiples() -> None:
    counts, cost = many_ids(0.1), cost_of()
    choice = choose(counts, "auto", cost=cost)
    assert choice.verdict == TRIM and choice.picked is not None
    best, full = row_of(choice, choice.picked), choice.sizes[-1]
    assert best.mbsu is not None and full.mbsu is not None and best.mbsu > full.mbsu
    for size in range(64, 901, 64):
        row = row_of(choose(counts, size, cost=cost), size)
        assert row.mbsu is not None and row.mbsu <= best.mbsu
    assert choice.picked % 64 == 0 and choice.picked == 128  # the first multiple that holds the 100 frequent ids


def test_auto_says_do_not_trim_where_the_head_is_cheap() -> None:
    """A head of 1 byte a row beside a body of 50,000: nothing to gain, and every lost id costs."""
    choice = choose(many_ids(0.5), "auto", cost=cost_of(body=50_000, head_row=1))
    assert (choice.verdict, choice.kept, choice.picked) == (DO_NOT_TRIM, None, None)
    full, others = choice.sizes[-1], choice.sizes[:-1]
    assert others and all(row.mbsu < full.mbsu for row in others)
    assert f"{full.mbsu:.3f}" in choice.reason and f"{max(row.mbsu for row in others):.3f}" in choice.reason


def test_a_size_that_was_asked_for_and_loses_is_kept_and_called_losing() -> None:
    choice = choose(many_ids(0.5), 64, cost=cost_of(body=50_000, head_row=1))
    assert choice.verdict == LOSING and choice.picked == 64
    assert "-" in choice.reason and "%" in choice.reason


def test_the_prediction_by_hand() -> None:
    """Acceptance 0.5 needs block efficiency 1.75 at two drafted tokens; half the held-out tokens leave 0.25."""
    counts = token_counts(source("text", {0: 1, 1: 1}, {0: 50, 1: 50}))
    choice = choose(counts, 1, cost=cost_of(), block_efficiency=1.75, draft_length=2, always_keep=False)
    kept, full = row_of(choice, 1), choice.sizes[-1]
    assert (kept.heldout_coverage, full.heldout_coverage) == (0.5, 1.0)
    assert kept.predicted_block_efficiency == pytest.approx(1 + 0.25 + 0.0625)
    assert full.predicted_block_efficiency == pytest.approx(1.75)
    assert (kept.head_bytes, kept.draft_step_bytes) == (10, 1010)
    assert kept.mbsu == pytest.approx(1.3125 / (1 + 2 * 1010 / 100_000))
    assert kept.mbsu_parameters == pytest.approx(1.3125 / (1 + 2 * 2010 / 100_000))
    assert full.mbsu == pytest.approx(1.75 / (1 + 2 * 11_000 / 100_000))


def test_what_is_not_measured_is_assumed_and_said() -> None:
    choice = choose(ANSWERS, 5, cost=cost_of())
    assert choice.assumed and choice.block_efficiency == pytest.approx(chain_block_efficiency(0.8, 4))
    measured = choose(ANSWERS, 5, cost=cost_of(), block_efficiency=3.0)
    assert not measured.assumed and measured.block_efficiency == pytest.approx(3.0)
    with pytest.raises(InputError, match="expected 1 to 3"):
        choose(ANSWERS, 5, cost=cost_of(), block_efficiency=3.4, draft_length=2)


def test_medusas_heads_run_once_a_round() -> None:
    chain, medusa = (choose(ANSWERS, 5, cost=cost_of(sequential=s)).sizes[-1] for s in (True, False))
    assert medusa.mbsu == pytest.approx(mbsu(chain.predicted_block_efficiency or 0, 11_000 / 100_000, 1))
    assert chain.mbsu == pytest.approx(mbsu(chain.predicted_block_efficiency or 0, 11_000 / 100_000, 4))


def test_a_head_trimmed_before_is_measured_against_what_it_covers() -> None:
    """It has ids 500 and 600, 0.8 of the held-out tokens, and its block efficiency is that of these 0.8."""
    available = np.array([600, 500])
    choice = choose(
        token_counts(*ANSWERS.sources, facts=replace(FACTS, always_keep={})),
        1,
        cost=cost_of(rows=2),
        available=available,
        block_efficiency=3.0,
    )
    assert kept_ids(choice) == [500]
    full = choice.sizes[-1]
    assert (full.kept_size, full.heldout_coverage) == (2, 0.8)
    assert full.predicted_block_efficiency == pytest.approx(3.0)
    kept = row_of(choice, 1)
    assert kept.heldout_coverage == 0.6
    assert kept.predicted_block_efficiency == pytest.approx(
        chain_block_efficiency(0.75 * _acceptance_rate_of(3.0), draft_length=4)
    )


def _acceptance_rate_of(block_efficiency: float) -> float:
    """By a fine table, not by the code under test."""
    rates = np.linspace(0, 1, 2_000_001)
    return float(rates[np.searchsorted(sum(rates**depth for depth in range(5)), block_efficiency)])


def test_a_head_narrower_than_the_tokenizer_is_refused() -> None:
    with pytest.raises(MismatchError, match="expected at least 1000 rows, found 900"):
        choose(ANSWERS, 5, cost=cost_of(rows=900))


def test_always_keep_ids_that_the_head_lost_are_told() -> None:
    choice = choose(ANSWERS, 1, available=np.array([500, 501]))
    assert kept_ids(choice) == [500]
    assert choice.unavailable == {990: "stop token"} and choice.always_keep == {}


# The table


def test_the_table_has_powers_of_two_the_pick_and_the_full_head() -> None:
    choice = choose(ANSWERS, 100)
    assert [row.kept_size for row in choice.sizes] == [32, 64, 100, 128, 256, 512, 1000]
    assert [row.heldout_coverage for row in choice.sizes][-1] == 1.0


def test_sizes_that_cannot_be_ranked_are_not_in_the_table() -> None:
    choice = choose(ANSWERS, 4, prior=False)
    assert [row.kept_size for row in choice.sizes] == [4, 1000]


def test_coverage_stands_for_every_source() -> None:
    two = token_counts(*ANSWERS.sources, source("code", {700: 100}, {700: 20, 500: 20}))
    row = row_of(choose([two, WEB], 3, always_keep=False), 3)
    assert row.coverage == pytest.approx(190 / 200)
    assert row.heldout_coverage == pytest.approx((30 + 10 + 20 + 20) / 90)
    assert row.coverage_by_source == {"answers": 0.9, "code": 1.0, "web": pytest.approx(3 / 8)}
    assert row.heldout_coverage_by_source == {"answers": 0.8, "code": 1.0, "web": None}


def test_the_choice_is_ready_for_json() -> None:
    told: dict[str, Any] = json.loads(json.dumps(choose([ANSWERS, WEB], 7, cost=cost_of()).as_dict()))
    assert (told["picked"], told["verdict"]) == (7, TRIM)
    keys = {"kept_size", "coverage", "heldout_coverage", "head_bytes", "predicted_block_efficiency", "mbsu"}
    assert all(keys <= set(row) for row in told["sizes"])
    assert told["origins"] == {"always-keep": 1, "answers": 3, "web": 1, "merge order": 2}


def test_a_kept_vocabulary_carries_its_birth_certificate() -> None:
    kept = choose([ANSWERS, WEB], 7).kept
    assert kept is not None and kept.tokenizer_hash == "one tokenizer" and kept.target_vocab == VOCAB
    assert kept.provenance["inputs"] == {"counts 1": ANSWERS.hash, "counts 2": WEB.hash}
    assert kept.provenance["arguments"]["keep"] == 7


# Parsing


@pytest.mark.parametrize(
    ("text", "keep"), [("auto", "auto"), ("32000", 32000), ("1", 1), ("0.99", 0.99), ("1.0", 1.0), ("5e-1", 0.5)]
)
def test_what_keep_can_say(text: str, keep: int | float | str) -> None:
    parsed = parse_keep(text)
    assert parsed == keep and type(parsed) is type(keep)


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "99%", "all", "", "nan", "0.0", "32k", "inf"])
def test_what_keep_cannot_say(text: str) -> None:
    with pytest.raises(InputError, match=r'"auto", a number of ids such as 32000, or a coverage such as 0.99'):
        parse_keep(text)


@pytest.mark.parametrize("keep", ["most", 0, -3, 0.0, 1.5])
def test_sizes_that_are_none_are_refused_by_the_library_too(keep: Any) -> None:
    with pytest.raises(InputError):
        choose(ANSWERS, keep)
