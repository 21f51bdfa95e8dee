"""What replayed drafts are said to accept, on hand-made tables of right and wrong drafts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vocabtrim.testbed.train.acceptance import accepted, follows


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


def test_a_draft_is_right_where_its_place_scores_the_recorded_token_best() -> None:
    """Five places, two steps; a head of identity, so that a place drafts the token whose number it is hot at."""
    wanted = torch.tensor([3, 1, 4, 1, 5])
    places = 20 * torch.nn.functional.one_hot(wanted, 8).float()[:, None].expand(-1, 2, -1).clone()
    places[2, 0] = places[2, 0].roll(1)  # step 0 drafts 5 where 4 follows: the draft of root 1 is wrong at once
    right = follows(places, wanted, torch.eye(8), None)
    assert right["chain"][:3].tolist() == [[True, True], [False, True], [True, True]]
    assert right["tree"][:3].tolist() == [[True, True], [False, False], [True, True]]


def test_a_token_outside_the_kept_vocabulary_is_never_accepted() -> None:
    wanted = torch.tensor([3, 1, 4, 1, 5])
    places = 20 * torch.nn.functional.one_hot(wanted, 8).float()[:, None]
    kept = torch.arange(8) != 1
    assert follows(places, wanted, torch.eye(8), kept)["chain"][:4, 0].tolist() == [False, True, False, True]
