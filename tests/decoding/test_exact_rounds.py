"""The loop emits the target's distribution, exactly, with every kind of drafter: no sampling noise.

The real loop runs over real models of five ids, under a chance that walks through every outcome: every drafted token,
every acceptance, every residual and bonus token, over as many rounds as it takes. The joint distribution of all tokens
is compared with the product of the target's conditionals, from plain passes over whole sequences without cache or loop.
224 walks, 20,768 outcomes; passes that repeat are computed once (remembered.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import mistakes
from five_ids import FiveIds, Tokens, distance, draft_with, five_ids, walk
from vocabtrim.decoding.drafters.medusa import static_tree
from vocabtrim.decoding.drafters.plans import Chain, DynamicTree
from vocabtrim.decoding.sampling import Sampling

PLANS: dict[str, Any] = {
    "greedy chain": Chain(2),
    "sampled chain": Chain(2, Sampling(temperature=0.8)),
    "tree": DynamicTree(nodes=6, depth=2, branching=2),
}
# Medusa's trees are static; no chain of it is sampled.
STATIC: dict[str, Any] = {"greedy chain": ((0,), (0, 0)), "tree": static_tree(3, nodes=7)}

KINDS_AND_PLANS = [
    *((kind, plan) for kind in ("independent", "independent, tied", "EAGLE", "EAGLE-3") for plan in PLANS),
    *(("Medusa", plan) for plan in STATIC),
]
SOME = (0, 3, 4)
KEPT = [None, SOME, (3,)]
WARM = Sampling(temperature=0.7)  # every continuation has a probability

# How tokens are drawn; how many of them: the fewer ids may be drawn, the longer continuations can be listed; and how
# many behind sampled chains, whose drafts multiply the outcomes.
SAMPLINGS = [
    (Sampling(), 8, 3),
    (WARM, 3, 3),
    (Sampling(temperature=1.0, top_k=2), 5, 2),
    (Sampling(temperature=1.5, top_p=0.8), 3, 3),
    (Sampling(temperature=0.9, top_k=4, top_p=0.9), 3, 2),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FiveIds]:
    yield from five_ids(tmp_path_factory.mktemp("five"))


@pytest.mark.parametrize("kept", KEPT, ids=str)
@pytest.mark.parametrize(("kind", "plan"), KINDS_AND_PLANS, ids=str)
def test_every_kind_emits_the_targets_distribution(models: FiveIds, kind: str, plan: str, kept: Tokens | None) -> None:
    """Chains and trees, full and trimmed to three ids and to one, greedy and at several temperatures and cuts."""
    target, drafter = models.opened(kind, kept)
    draft_with(drafter, (STATIC if kind == "Medusa" else PLANS)[plan])
    for sampling, longest, longest_sampled in SAMPLINGS:
        length = longest_sampled if plan == "sampled chain" else longest
        found = walk(target, drafter, sampling, length)
        assert sum(found.emitted.values()) == pytest.approx(1, abs=1e-9)
        assert distance(found.emitted, models.joint(sampling, length)) < 1e-6, sampling
        if sampling == WARM:  # no end of a round was left out: none, one, two accepted
            assert found.accepted == {0, 1, 2}


@pytest.mark.parametrize("kept", KEPT, ids=str)
def test_drafts_may_be_drawn_in_another_way_than_the_target(models: FiveIds, kept: Tokens | None) -> None:
    """Drafted at a high temperature from the two likeliest ids alone, so that most ids have draft probability 0."""
    target, drafter = models.opened("EAGLE-3", kept)
    draft_with(drafter, Chain(2, Sampling(temperature=1.5, top_k=2)))
    found = walk(target, drafter, WARM, 3)
    assert distance(found.emitted, models.joint(WARM, 3)) < 1e-6


@pytest.mark.parametrize("kind", ["independent", "EAGLE", "EAGLE-3", "Medusa"])
def test_a_prompt_of_one_token(models: FiveIds, kind: str) -> None:
    """No hidden state stands before the first root, so drafters that read them begin in the second round."""
    target, drafter = models.opened(kind, SOME)
    draft_with(drafter, (STATIC if kind == "Medusa" else PLANS)["tree"])
    sampling = Sampling(temperature=1.0, top_k=3)
    found = walk(target, drafter, sampling, 4, prompt=(4,))
    assert distance(found.emitted, models.joint(sampling, 4, prompt=(4,))) < 1e-6
    assert found.accepted >= {0, 1}


def test_a_sampled_chain_may_be_followed_as_a_tree(models: FiveIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target's own draws are exact however a tree came about: what a chain was drawn from only helps acceptance."""
    mistakes.forgetting_the_draft(monkeypatch)
    target, drafter = models.opened("EAGLE-3", SOME)
    draft_with(drafter, PLANS["sampled chain"])
    found = walk(target, drafter, WARM, 2)
    assert distance(found.emitted, models.joint(WARM, 2)) < 1e-6


@pytest.mark.parametrize("mistake", [*mistakes.OF_CHAINS, *mistakes.OF_TREES])
def test_mistakes_would_be_found_out(models: FiveIds, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    """The test can fail: each of these moves a continuation's probability by more than 1e-4, a hundred tolerances."""
    target, drafter = models.opened("independent", SOME)
    plan, length = ("sampled chain", 2) if mistake in mistakes.OF_CHAINS else ("tree", 3)
    draft_with(drafter, PLANS[plan])
    mistakes.making(monkeypatch, mistake)
    found = walk(target, drafter, WARM, length)
    assert distance(found.emitted, models.joint(WARM, length)) > 1e-4
