"""Weights fitted to a workload, and lists read across workloads: counts small enough to know the best."""

from __future__ import annotations

import numpy as np
import pytest

from vocabtrim.calibrate.counts import SourceCounts, TokenCounts
from vocabtrim.calibrate.tokenizer import TokenizerFacts
from vocabtrim.errors import InputError, MismatchError
from vocabtrim.vocabulary.choose_size import choose
from vocabtrim.vocabulary.cross import cross_coverage

VOCAB = 400
FACTS = TokenizerFacts("one tokenizer", VOCAB, merge_ordered=300, always_keep={399: "stop token"})


def source(name: str, first: int, *, heldout: int = 1, origin: str = "raw") -> SourceCounts:
    """40 ids from `first` on, the first the most frequent; held-out text is `heldout` times the same."""
    counts = np.zeros(VOCAB, np.int64)
    counts[first : first + 40] = np.arange(40, 0, -1)
    return SourceCounts(name, origin, counts, heldout * counts)


def counts_of(*sources: SourceCounts, facts: TokenizerFacts = FACTS) -> TokenCounts:
    return TokenCounts(facts, sources, documents=1)


CHAT, CODE, FRENCH = source("chat", 100), source("code", 200), source("french", 300)


def test_weights_go_to_the_source_that_is_like_the_workload() -> None:
    """The workload is code: a list of 41 ids can cover all of it, and the default, which is made for chat, little."""
    choice = choose([counts_of(CHAT), counts_of(CODE), counts_of(FRENCH)], 41, workload=counts_of(source("w", 200)))
    assert choice.workload is not None and choice.weighed == "fitted to the workload"
    (row,) = choice.workload.rows
    assert row.kept_size == 41 and row.coverage == 1 and row.default_coverage < 0.5
    assert choice.weights["code"] > max(choice.weights["chat"], choice.weights["french"])
    assert choice.kept is not None and set(range(200, 240)) <= set(choice.kept.ids.tolist())


def test_a_workload_that_is_half_and_half_gets_both() -> None:
    both = counts_of(source("w", 100), source("v", 200))
    choice = choose([counts_of(CHAT), counts_of(CODE), counts_of(FRENCH)], 81, workload=both)
    assert choice.workload is not None and choice.workload.rows[0].coverage == 1
    assert min(choice.weights["chat"], choice.weights["code"]) > 0


def test_without_a_number_of_ids_weights_are_fitted_at_several_sizes() -> None:
    choice = choose(counts_of(CHAT, CODE), 0.5, workload=counts_of(source("w", 200)))
    assert choice.workload is not None
    assert [row.kept_size for row in choice.workload.rows] == [8, 16, 32, 64, 128]
    assert all(row.coverage >= row.default_coverage for row in choice.workload.rows)
    assert choice.kept is not None and choice.kept.provenance["arguments"]["weighed"] == "fitted to the workload"


def test_the_same_workload_gives_the_same_weights() -> None:
    files = [counts_of(CHAT), counts_of(CODE)]
    workload = counts_of(source("w", 120))
    assert choose(files, 50, workload=workload).weights == choose(files, 50, workload=workload).weights


def test_workloads_that_cannot_be_fitted_are_refused() -> None:
    with pytest.raises(InputError, match="found 820 and 0 tokens"):
        choose(counts_of(CHAT), 50, workload=counts_of(source("w", 100, heldout=0)))
    with pytest.raises(InputError, match="pass --weight or --workload, not both"):
        choose(counts_of(CHAT), 50, workload=counts_of(CODE), weights={"chat": 1})
    foreign = TokenizerFacts("another tokenizer", VOCAB, 0)
    with pytest.raises(MismatchError, match="another tokenizer"):
        choose(counts_of(CHAT), 50, workload=counts_of(CODE, facts=foreign))


def test_each_list_on_each_work() -> None:
    """Of 41 ids, the stop id is one: the list of each source covers it whole, and the others not at all."""
    table = cross_coverage([counts_of(CHAT, CODE), counts_of(FRENCH)], 41)
    assert table.workloads == ("chat", "code", "french") and table.tokens == (820, 820, 820)
    assert [row.name for row in table.rows] == ["chat", "code", "french", "all, mixed", "lowest ids"]
    for own, row in enumerate(table.rows[:3]):
        assert [share == 1 for share in row.coverage] == [column == own for column in range(3)]
        assert [table.fails(row, column) for column in range(3)] == [column != own for column in range(3)]
    assert table.rows[-1].coverage == (0, 0, 0)


def test_a_source_without_held_out_text_is_a_list_but_no_work() -> None:
    table = cross_coverage([counts_of(CHAT, source("code", 200, heldout=0))], 41)
    assert table.rows[0].coverage[1] is None and not table.fails(table.rows[0], 1)


def test_cross_coverage_needs_held_out_text_and_a_size_there_is() -> None:
    with pytest.raises(InputError, match="nothing was held out"):
        cross_coverage([counts_of(source("chat", 100, heldout=0))], 41)
    with pytest.raises(InputError, match="expected 1 to 400, found 401"):
        cross_coverage([counts_of(CHAT)], 401)
