"""Ranking on literal counts of an eight-token vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocabtrim.errors import InputError
from vocabtrim.vocabulary.mixture import Mixture, Source
from vocabtrim.vocabulary.select import Ranking, rank


def counts(**seen: int) -> npt.NDArray[np.int64]:
    """(8,) counts by id: counts(i3=5) saw id 3 five times."""
    vector = np.zeros(8, np.int64)
    for name, number in seen.items():
        vector[int(name[1:])] = number
    return vector


ANSWERS = counts(i2=10, i5=5, i6=5)  # in shares 0.5, 0.25, 0.25
WEB = counts(i0=1, i2=1, i6=6, i7=2)  # 0.1, 0.1, 0.6, 0.2


def mixture(*sources: tuple[str, Any, float], prior: float = 0.0, merge_ordered: int = 0) -> Mixture:
    return Mixture(tuple(Source(*source) for source in sources), merge_ordered, prior, "by hand")


def origins(ranking: Ranking) -> list[str]:
    return [ranking.origin_names[i] for i in ranking.origin]


def test_one_source_is_ranked_by_counts_and_ties_by_id() -> None:
    assert rank(mixture(("answers", ANSWERS, 1.0)), always_keep={}).ids.tolist() == [2, 5, 6]


def test_two_sources_are_ranked_by_the_weighted_sum_of_their_shares() -> None:
    """0.75 and 0.25: id 2 has 0.4, id 6 0.3375, id 5 0.1875, id 7 0.05, id 0 0.025."""
    ranking = rank(mixture(("answers", ANSWERS, 0.75), ("web", WEB, 0.25)), always_keep={})
    assert ranking.ids.tolist() == [2, 6, 5, 7, 0]
    assert origins(ranking) == ["answers", "answers", "answers", "web", "web"]


def test_other_weights_give_another_order() -> None:
    """0.25 and 0.75: id 6 has 0.5125, id 2 0.2, id 7 0.15, id 0 0.075, id 5 0.0625; most of id 6 is the web's."""
    ranking = rank(mixture(("answers", ANSWERS, 0.25), ("web", WEB, 0.75)), always_keep={})
    assert ranking.ids.tolist() == [6, 2, 7, 0, 5]
    assert origins(ranking) == ["web", "answers", "web", "web", "answers"]


def test_a_source_without_weight_speaks_for_nothing() -> None:
    ranking = rank(mixture(("answers", ANSWERS, 1.0), ("web", WEB, 0.0)), always_keep={})
    assert ranking.ids.tolist() == [2, 5, 6] and ranking.seen == 3


def test_merge_order_with_a_weight_can_come_before_what_was_seen_once() -> None:
    """1 of 1,000 tokens is a thousandth; merge order gives each of the five lowest ids about a tenth of its 0.5."""
    seen = counts(i6=999, i7=1)
    ranking = rank(mixture(("answers", seen, 0.5), prior=0.5, merge_ordered=5), always_keep={})
    assert ranking.ids.tolist() == [6, 0, 1, 2, 3, 4, 7]
    assert origins(ranking) == ["answers", *["merge order"] * 5, "answers"]
    assert ranking.seen == 2


def test_merge_order_without_a_weight_comes_last_and_only_as_far_as_it_goes() -> None:
    ranking = rank(mixture(("answers", ANSWERS, 1.0), merge_ordered=5), always_keep={})
    assert ranking.ids.tolist() == [2, 5, 6, 0, 1, 3, 4]  # 7 was never seen and is beyond the merges
    assert origins(ranking)[3:] == ["merge order"] * 4
    assert ranking.seen == 3


def test_always_keep_ids_come_first_whatever_was_counted() -> None:
    given_ids = {7: "stop token", 5: "chat template"}
    ranking = rank(mixture(("answers", ANSWERS, 1.0), merge_ordered=5), always_keep=given_ids)
    assert set(ranking.ids.tolist()[:2]) == {5, 7}
    assert origins(ranking)[:2] == ["always-keep"] * 2
    assert ranking.seen == 4


def test_an_always_keep_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="expected 0 to 7, found 8"):
        rank(mixture(("answers", ANSWERS, 1.0)), always_keep={8: "asked for"})


def test_more_sources_than_origins_can_tell_apart_are_refused() -> None:
    with pytest.raises(InputError, match="expected at most 253, found 254"):
        rank(mixture(*((f"s{n}", ANSWERS, 1 / 254) for n in range(254))), always_keep={})


def test_only_available_ids_are_ranked_and_missing_always_keep_ids_are_told() -> None:
    """The head was trimmed to five rows before; 9 is a padded row, which the tokenizer has no id for."""
    ranking = rank(
        mixture(("answers", ANSWERS, 1.0), merge_ordered=8),
        always_keep={2: "stop token", 7: "chat template"},
        available=np.array([9, 6, 2, 1, 0]),
    )
    assert ranking.ids.tolist() == [2, 6, 0, 1]
    assert ranking.always_keep == {2: "stop token"}
    assert ranking.unavailable == {7: "chat template"}


def test_a_kept_vocabulary_is_ascending_and_its_origins_go_along() -> None:
    ranking = rank(
        mixture(("answers", ANSWERS, 0.75), ("web", WEB, 0.25), merge_ordered=2), always_keep={7: "stop token"}
    )
    kept = ranking.kept(6, 8, "hash", {"keep": 6})
    assert kept.ids.tolist() == [0, 1, 2, 5, 6, 7]
    told = [kept.origin_names[i] for i in kept.origin]
    assert told == ["web", "merge order", "answers", "answers", "answers", "always-keep"]
    assert kept.always_keep == {7: "stop token"}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 4), min_size=12, max_size=12), min_size=1, max_size=3),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=4, max_size=4),
    st.integers(0, 12),
    st.sets(st.integers(0, 11)),
)
def test_ranking_is_what_a_plain_sort_says(
    tallies: list[list[int]], weights: list[float], merge_ordered: int, forced: set[int]
) -> None:
    """Against Python's sort of (forced, estimate, id), on vocabularies of twelve with many ties."""
    sources = [(f"s{n}", np.array(tally, np.int64), weights[n]) for n, tally in enumerate(tallies)]
    mixed = mixture(*sources, prior=weights[3], merge_ordered=merge_ordered)
    ranking = rank(mixed, always_keep=dict.fromkeys(forced, "asked for"))
    estimate = mixed.estimate()
    expected = sorted(range(12), key=lambda i: (i not in forced, -estimate[i], i))
    expected = [i for i in expected if i in forced or estimate[i] > 0 or i < merge_ordered]
    assert ranking.ids.tolist() == expected
    assert ranking.origin.size == len(expected) and (ranking.origin < len(ranking.origin_names)).all()
