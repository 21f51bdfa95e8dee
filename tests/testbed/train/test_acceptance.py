"""What replayed drafts are said to accept, on hand-made tables of right and wrong drafts."""

from __future__ import annotations

import numpy as np
import pytest

from vocabtrim.testbed.train.acceptance import accepted


def table(*rights: str) -> np.ndarray:
    """Row i: root i's steps, x where the draft is right."""
    return np.array([[mark == "x" for mark in right] for right in rights])


def test_nothing_right_is_one_token_a_round() -> None:
    assert accepted(table(*["--"] * 8), first=3, stop=8) == (4, 4)


def test_all_right_is_a_token_more_than_drafted() -> None:
    # Tokens 4..9 behind token 3: rounds of 3 and 3.
    assert accepted(table(*["xx"] * 10), first=3, stop=10) == (6, 2)


def test_the_end_cuts_the_last_round() -> None:
    assert accepted(table(*["xx"] * 10), first=3, stop=9) == (5, 2)


@pytest.mark.parametrize(("rights", "rounds"), [(["-x"] * 8, 4), (["x-"] * 8, 2)])
def test_a_draft_behind_a_wrong_one_is_lost(rights: list[str], rounds: int) -> None:
    assert accepted(table(*rights), first=3, stop=8) == (4, rounds)


def test_one_token_takes_no_round() -> None:
    assert accepted(table(*["xx"] * 5), first=3, stop=4) == (0, 0)
