"""The estimate that ranks, and its weights: small counts with known answers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocabtrim.errors import InputError
from vocabtrim.vocabulary.mixture import default_mixture, fit, prior, with_weights

Counts = npt.NDArray[np.int64]


def vector(*counts: int, vocab: int = 8) -> Counts:
    return np.array([*counts, *[0] * (vocab - len(counts))], np.int64)


ANSWERS, WEB, CODE = vector(4, 4), vector(0, 0, 5, 5), vector(0, 0, 0, 0, 10)


def test_the_prior_falls_along_merge_order_and_ends_where_it_ends() -> None:
    law = prior(5, 8)
    assert law.sum() == pytest.approx(1) and (np.diff(law[:5]) < 0).all() and not law[5:].any()
    assert law[0] / law[4] == pytest.approx(304 / 300)
    assert not prior(0, 8).any()


def test_a_primary_that_predicts_itself_gets_all_but_what_is_left_to_other_work() -> None:
    """No token of the answers is in the web text, and merge order spreads over eight ids what two ids have."""
    mixture = default_mixture([[("answers", vector(400, 400))], [("web", WEB)]], merge_ordered=8)
    assert mixture.weights["answers"] == pytest.approx(0.7, abs=0.01)
    assert mixture.weights["web"] == pytest.approx(0.1)
    assert mixture.weights["merge order"] == pytest.approx(0.2, abs=0.01)
    assert mixture.estimate().sum() == pytest.approx(1)


def test_what_is_not_there_leaves_its_share_to_the_fit() -> None:
    assert default_mixture([[("answers", ANSWERS)]], 0).weights == {"answers": 1.0}
    alone = default_mixture([[("answers", vector(400, 400))]], 8).weights
    assert alone["answers"] == pytest.approx(0.8, abs=0.01)
    assert default_mixture([[("answers", ANSWERS)], [("web", WEB)]], 0).weights == pytest.approx(
        {"answers": 0.9, "web": 0.1}
    )


def test_a_primary_that_saw_every_id_once_leaves_the_fit_to_a_source_like_it() -> None:
    """Each token is predicted from all others: none of the primary's predicts another, the web text does."""
    weights = fit([vector(1, 1, 1, 1), vector(5, 5, 5, 5)], np.zeros(8))
    assert weights.tolist() == [0, 1, 0]


def test_the_fit_by_hand() -> None:
    """Eight tokens of id 0 and two of id 1. The primary without one token says 7/9 of id 0 and 1/9 of id 1, the other
    source 1/2 of each. The likelihood, 8 log(1/2 + 5w/18) + 2 log(1/2 - 7w/18), is highest at
    w = (8 * 5 - 2 * 7) / 2 / (10 * 35 / 18) = 0.6686."""
    weights = fit([vector(8, 2), vector(5, 5)], np.zeros(8))
    assert weights[0] == pytest.approx(13 / (350 / 18), abs=0.005)


def test_sources_of_one_file_share_by_their_tokens_and_keep_their_names() -> None:
    mixture = default_mixture([[("a", vector(30)), ("b", vector(0, 10))], [("web", WEB), ("code", CODE)]], 0)
    weights = mixture.weights
    assert weights["a"] == pytest.approx(3 * weights["b"]) and weights["web"] == pytest.approx(weights["code"])
    assert weights["web"] + weights["code"] == pytest.approx(0.1)


def test_no_share_for_other_work_leaves_everything_to_the_fit() -> None:
    weights = default_mixture([[("answers", vector(400, 400))], [("web", WEB)]], 8, other_work=0).weights
    assert weights["answers"] > 0.99
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="expected 0 to below 1"):
            default_mixture([[("answers", ANSWERS)]], 8, other_work=share)


def test_names_are_told_apart_also_from_the_two_origins_that_are_no_source() -> None:
    mixture = default_mixture([[("chat", ANSWERS)], [("chat", WEB)], [("merge order", CODE)]], 8)
    assert list(mixture.weights) == ["chat", "chat (2)", "merge order (2)", "merge order"]


def test_weights_as_given() -> None:
    mixture = default_mixture([[("answers", ANSWERS)], [("web", WEB)], [("code", CODE)]], 8)
    assert with_weights(mixture, {"answers": 3, "code": 1}).weights == pytest.approx(
        {"answers": 0.6, "web": 0, "code": 0.2, "merge order": 0.2}
    )
    assert with_weights(mixture, {"web": 2, "merge-order": 0}).weights == pytest.approx(
        {"answers": 0, "web": 1, "code": 0, "merge order": 0}
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"chat": 1.0}, "expected answers, merge-order, found chat"),
        ({"answers": -1.0}, "weight of answers is out of range"),
        ({"answers": float("nan")}, "weight of answers is out of range"),
        ({"answers": 0.0}, "all weights are 0"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_weights(default_mixture([[("answers", ANSWERS)]], 8), weights)


def test_the_prior_cannot_be_weighed_where_there_is_none() -> None:
    with pytest.raises(InputError, match="expected answers, found merge-order"):
        with_weights(default_mixture([[("answers", ANSWERS)]], 0), {"merge-order": 1})


tallies = st.lists(st.integers(0, 20), min_size=8, max_size=8).map(lambda tally: np.array(tally, np.int64))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(tallies, min_size=1, max_size=4), st.integers(0, 8))
def test_weights_are_shares_whatever_was_counted(counted: list[Counts], merge_ordered: int) -> None:
    mixture = default_mixture([[(f"s{n}", counts)] for n, counts in enumerate(counted)], merge_ordered)
    shares = list(mixture.weights.values())
    assert sum(shares) == pytest.approx(1) and min(shares) >= 0
    assert np.isfinite(mixture.estimate()).all()
    order = np.argsort(-with_weights(mixture, {"s0": 1, **({"merge-order": 0} if merge_ordered else {})}).estimate())
    assert (np.diff(counted[0][order]) <= 0).all()  # alone, a source ranks by its counts
