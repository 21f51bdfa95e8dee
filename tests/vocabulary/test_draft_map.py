"""The one check at the door: each thing that can be wrong with a map is found, placed and told with both numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from vocabtrim.errors import InputError
from vocabtrim.vocabulary.draft_map import MapPieces, find_problems, prove

# Ids 2, 3, 7 of ten: as offsets 2, 2, 5.
SOUND = [2, 2, 5]


def mask(*marked: int, size: int = 10) -> Any:
    vector = np.zeros(size, bool)
    vector[list(marked)] = True
    return vector


def offsets(values: list[int], **known: Any) -> MapPieces:
    return MapPieces("f", np.array(values, np.int64), offsets=True, **known)


def ids(values: list[int], **known: Any) -> MapPieces:
    return MapPieces("f", np.array(values, np.int64), offsets=False, **known)


def test_a_sound_map_has_no_problem() -> None:
    pieces = offsets(SOUND, mask=mask(2, 3, 7), target_vocab=10)
    assert find_problems(pieces, head_rows=3) == []
    proven = prove(pieces)
    assert proven.ids.tolist() == [2, 3, 7] and proven.ascending and proven.target_vocab == 10


def test_order_is_kept_and_negative_offsets_are_read() -> None:
    """Frequency order, as Model-Optimizer writes it: ids 7, 2, 3 are offsets 7, 1, 1, and 9, 0 are 9, -1."""
    assert prove(offsets([7, 1, 1], target_vocab=10)).ids.tolist() == [7, 2, 3]
    swapped = prove(offsets([9, -1], target_vocab=10))
    assert swapped.ids.tolist() == [9, 0] and not swapped.ascending


def test_the_mask_tells_the_vocabulary_and_can_stand_alone() -> None:
    alone = prove(MapPieces("f", None, offsets=True, mask=mask(4, 1)))
    assert alone.ids.tolist() == [1, 4] and alone.ids.dtype == np.int64 and alone.target_vocab == 10


@pytest.mark.parametrize(
    ("pieces", "rule", "facts"),
    [
        (offsets([]), "map.length", ("empty",)),
        (offsets(SOUND, mask=mask(2, 3, 7), target_vocab=11), "map.length", ("10 entries", "11 ids")),
        (offsets([2, 2, 8], target_vocab=10), "map.range", ("0 to 9", "d2t[2] = 8, id 10")),
        (offsets([2, -2, 5]), "map.range", ("0 or more", "d2t[1] = -2, id -1")),
        (ids([2, 11, 12], target_vocab=10), "map.range", ("2 ids", "0 to 9", "entry 1 = 11")),
        (offsets([2, 5, 0, 3]), "map.duplicate", ("d2t[0] = 2, id 2", "d2t[2] = 0, id 2")),
        (ids([4, 2, 4, 2]), "map.duplicate", ("2 entries", "entry 0 = 4", "entry 2 = 4")),
        (offsets([7, 1, 1], mask=mask(2, 3, 7)), "map.unsorted", ("d2t[0] = 7, id 7", "d2t[1] = 1, id 2")),
        (offsets(SOUND, mask=mask(2, 3, 7, 8)), "map.popcount", ("t2d", "marks 4", "d2t has 3")),
        (offsets(SOUND, mask=mask(2, 4, 7)), "map.disagree", ("number 1 is 3 by d2t and 4 by t2d",)),
    ],
)
def test_every_problem_is_placed(pieces: MapPieces, rule: str, facts: tuple[str, ...]) -> None:
    problems = find_problems(pieces)
    assert [problem.rule for problem in problems] == [rule]
    assert problems[0].remedy
    for fact in facts:
        assert fact in problems[0].message
    with pytest.raises(InputError, match=re.escape(problems[0].message)):
        prove(pieces)


def test_a_head_of_another_size_is_a_problem() -> None:
    (problem,) = find_problems(offsets(SOUND), head_rows=4)
    assert problem.rule == "map.length" and "3 ids" in problem.message and "4 rows" in problem.message


def test_several_problems_are_all_told() -> None:
    found = find_problems(ids([3, 3, 12], target_vocab=10), head_rows=2)
    assert [problem.rule for problem in found] == ["map.length", "map.range", "map.duplicate"]


def test_an_all_zero_map_is_the_identity_and_a_probable_bug() -> None:
    pieces = offsets([0, 0, 0], target_vocab=10)
    assert [problem.rule for problem in find_problems(pieces)] == ["map.zero"]
    proven = prove(pieces)
    assert proven.ids.tolist() == [0, 1, 2]
    assert "ids 0 to 2" in proven.warnings[0].message and "never filled" in proven.warnings[0].message


@pytest.mark.parametrize(
    "pieces",
    [
        offsets([0, 0, 0], target_vocab=3),  # the whole vocabulary, nothing trimmed
        offsets([0]),  # one id cannot look filled
        offsets([0, 0], mask=mask(0, 1)),  # the mask says that it is meant
    ],
)
def test_zeros_that_are_right_are_no_problem(pieces: MapPieces) -> None:
    assert find_problems(pieces) == []


def test_zeros_under_a_mask_that_says_otherwise_are_two_problems() -> None:
    found = find_problems(offsets([0, 0], mask=mask(4, 5)))
    assert [problem.rule for problem in found] == ["map.zero", "map.disagree"]


@pytest.mark.parametrize(
    ("pieces", "other"),
    [
        (offsets([2, 3, 7, 6], target_vocab=10), "--from absolute"),  # ids 2, 4, 9, 9 as offsets
        (offsets([2, 3, 7], mask=mask(2, 3, 7)), "--from absolute"),  # the mask proves ids
        (ids([2, 2, 5], target_vocab=10), "--from d2t"),
    ],
)
def test_a_map_that_is_sound_the_other_way_says_so(pieces: MapPieces, other: str) -> None:
    assert other in find_problems(pieces)[0].remedy


def test_no_other_way_is_offered_where_there_is_none() -> None:
    assert all("--from" not in problem.remedy for problem in find_problems(ids([3, 3, 12, -1], target_vocab=10)))


# Offsets or ids: decided by proof


def untold(values: list[int], target_vocab: int | None = None) -> MapPieces:
    return MapPieces("f", np.array(values, np.int64), target_vocab=target_vocab)


def test_repeated_values_prove_offsets() -> None:
    proven = prove(untold([2, 2, 5]))
    assert (proven.ids.tolist(), proven.dialect) == ([2, 3, 7], "d2t")


def test_ids_that_would_collide_as_offsets_prove_ids() -> None:
    """7, 3, 5 as offsets are ids 7, 4, 7."""
    proven = prove(untold([7, 3, 5]))
    assert (proven.ids.tolist(), proven.dialect) == ([7, 3, 5], "absolute")


def test_the_vocabularys_size_can_decide() -> None:
    """2, 5, 9 may be ids 2, 6, 11 too, unless there are only ten."""
    assert prove(untold([2, 5, 9], target_vocab=10)).ids.tolist() == [2, 5, 9]


def test_what_can_be_read_both_ways_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"entry 2 is then id 11 or 9; .*--from d2t or --from absolute.*--target-vocab"
    ):
        prove(untold([2, 5, 9]))
    with pytest.raises(InputError, match=r"--from absolute$"):
        prove(untold([2, 5, 9], target_vocab=12))


def test_both_readings_may_mean_the_same() -> None:
    assert prove(untold([4])).ids.tolist() == [4]


def test_what_can_be_read_no_way_is_refused_with_both_reasons() -> None:
    with pytest.raises(InputError, match=r"neither as offsets \(.*id -1.*\) nor as ids \(.*entry 1 = -2.*\)"):
        prove(untold([2, -2, 2]))
