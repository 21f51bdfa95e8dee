"""Ranking on literal counts of an eight-token vocabulary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from vocabtrim.errors import InputError
from vocabtrim.vocabulary.select import rank


def counts(**seen: int) -> npt.NDArray[np.int64]:
    """(8,) counts by id: counts(i3=5) saw id 3 five times."""
    vector = np.zeros(8, np.int64)
    for name, number in seen.items():
        vector[int(name[1:])] = number
    return vector


ANSWERS = counts(i2=9, i5=4, i6=4)
WEB = counts(i0=1, i2=1, i6=7, i7=3)


def test_one_source_is_ranked_by_counts_and_ties_by_id() -> None:
    assert rank([("answers", ANSWERS)], always_keep={}).ids.tolist() == [2, 5, 6]


def test_ids_the_primary_never_saw_come_by_the_next_source_and_ties_are_broken_by_it() -> None:
    ranking = rank([("answers", ANSWERS), ("web", WEB)], always_keep={})
    assert ranking.ids.tolist() == [2, 6, 5, 7, 0]
    assert [ranking.origin_names[i] for i in ranking.origin] == ["answers", "answers", "answers", "web", "web"]


def test_the_order_of_the_sources_counts() -> None:
    ranking = rank([("web", WEB), ("answers", ANSWERS)], always_keep={})
    assert ranking.ids.tolist() == [6, 7, 2, 0, 5]
    assert [ranking.origin_names[i] for i in ranking.origin] == ["web", "web", "web", "web", "answers"]


def test_a_third_source_is_asked_last() -> None:
    third = counts(i0=100, i3=1, i4=2)
    ranking = rank([("answers", ANSWERS), ("web", WEB), ("third", third)], always_keep={})
    assert ranking.ids.tolist() == [2, 6, 5, 7, 0, 4, 3]
    assert ranking.origin_names[ranking.origin[4]] == "web"  # the first that saw id 0, not the one with most


def test_merge_order_comes_last_and_only_as_far_as_it_goes() -> None:
    ranking = rank([("answers", ANSWERS)], always_keep={}, merge_ordered=5)
    assert ranking.ids.tolist() == [2, 5, 6, 0, 1, 3, 4]  # 7 was never seen and is beyond the merges
    assert [ranking.origin_names[i] for i in ranking.origin[3:]] == ["merge order"] * 4
    assert ranking.seen == 3


def test_always_keep_ids_come_first_whatever_was_counted() -> None:
    ranking = rank([("answers", ANSWERS)], always_keep={7: "stop token", 5: "chat template"}, merge_ordered=5)
    assert ranking.ids.tolist()[:2] == [5, 7]
    assert [ranking.origin_names[i] for i in ranking.origin[:2]] == ["always-keep"] * 2
    assert ranking.seen == 4


def test_an_always_keep_id_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="expected 0 to 7, found 8"):
        rank([("answers", ANSWERS)], always_keep={8: "asked for"})


def test_only_available_ids_are_ranked_and_missing_always_keep_ids_are_told() -> None:
    """The head was trimmed to five rows before; 9 is a padded row, which the tokenizer has no id for."""
    ranking = rank(
        [("answers", ANSWERS)],
        always_keep={2: "stop token", 7: "chat template"},
        merge_ordered=8,
        available=np.array([9, 6, 2, 1, 0]),
    )
    assert ranking.ids.tolist() == [2, 6, 0, 1]
    assert ranking.always_keep == {2: "stop token"}
    assert ranking.unavailable == {7: "chat template"}


def test_a_kept_vocabulary_is_ascending_and_its_origins_go_along() -> None:
    ranking = rank([("answers", ANSWERS), ("web", WEB)], always_keep={7: "stop token"}, merge_ordered=2)
    kept = ranking.kept(6, 8, "hash", {"keep": 6})
    assert kept.ids.tolist() == [0, 1, 2, 5, 6, 7]
    assert [kept.origin_names[i] for i in kept.origin] == [
        "web",
        "merge order",
        "answers",
        "answers",
        "answers",
        "always-keep",
    ]
    assert kept.always_keep == {7: "stop token"}


def test_sources_of_one_name_stay_apart() -> None:
    ranking = rank([("chat", ANSWERS), ("chat", WEB), ("merge order", WEB)], always_keep={})
    assert ranking.origin_names == ("always-keep", "chat", "chat (2)", "merge order (2)", "merge order")


def test_the_same_input_gives_the_same_ranking() -> None:
    rng = np.random.default_rng(0)
    sources = [(f"s{i}", rng.integers(0, 4, 2000)) for i in range(3)]
    first = rank(sources, always_keep={5: "stop token"}, merge_ordered=1500)
    again = rank(sources, always_keep={5: "stop token"}, merge_ordered=1500)
    assert np.array_equal(first.ids, again.ids) and np.array_equal(first.origin, again.origin)


def test_ranking_is_what_a_plain_sort_says() -> None:
    """Against Python's sort with the order written as a tuple, on 500 ids with many ties."""
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 3, (2, 500))
    ranking = rank([("a", first), ("b", second)], always_keep={17: "stop token"}, merge_ordered=300)
    expected = sorted(range(500), key=lambda i: (i != 17, -first[i], -second[i], i >= 300, i))
    expected = [i for i in expected if i == 17 or first[i] or second[i] or i < 300]
    assert ranking.ids.tolist() == expected
