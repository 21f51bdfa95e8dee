"""A round emits the target's distribution, exactly: every outcome is enumerated, so there is no sampling noise.

Target and drafter are tables over 5 tokens: each context has its own random distribution. A round's emitted tokens are
continued by plain draws to a fixed length, and the joint distribution of all of them is compared with the target's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from outcomes import outcomes
from vocabtrim.decoding.acceptance import follow_tree, reject_chain
from vocabtrim.decoding.chance import TorchChance
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.decoding.tree import Tree

VOCAB, LENGTH = 5, 3
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=0.3),
    Sampling(temperature=1.0),
    Sampling(temperature=1.0, top_p=0.7),
    Sampling(temperature=1.7, top_k=3),
    Sampling(temperature=0.8, top_k=4, top_p=0.9),
]
KEPT = [None, [0, 1, 2, 3, 4], [1, 3, 4], [2], [0, 4]]


def logits(model: int, context: Sequence[int]) -> torch.Tensor:
    """(VOCAB,) logits of one of several models behind a context: random, and the same every time."""
    seed = hash((model, *context)) % 2**31
    return 2 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def target_probs(sampling: Sampling, context: Sequence[int]) -> torch.Tensor:
    return sampling.probs(logits(1, context)).double()


def draft_probs(temperature: float, context: Sequence[int], kept: list[int] | None) -> torch.Tensor:
    """The drafter's distribution over its kept ids."""
    scores = logits(2, context)
    return (scores if kept is None else scores[kept]).div(temperature).softmax(dim=-1)


def joint(sampling: Sampling) -> dict[tuple[int, ...], float]:
    """The plain loop's distribution over LENGTH tokens."""
    found = {}
    for tokens in itertools.product(range(VOCAB), repeat=LENGTH):
        probability = 1.0
        for position, token in enumerate(tokens):
            probability *= float(target_probs(sampling, (9, *tokens[:position]))[token])
        found[tokens] = probability
    return found


def completed(emitted: tuple[int, ...], sampling: Sampling, chance: Any) -> tuple[int, ...]:
    while len(emitted) < LENGTH:
        emitted = (*emitted, chance.draw(target_probs(sampling, (9, *emitted))))
    return emitted[:LENGTH]


def assert_equal(found: dict[Any, float], expected: dict[tuple[int, ...], float]) -> None:
    assert sum(found.values()) == pytest.approx(1, abs=1e-9)
    for tokens, probability in expected.items():
        assert found.get(tokens, 0.0) == pytest.approx(probability, abs=1e-6), tokens


def rows(tree: Tree, sampling: Sampling) -> torch.Tensor:
    """(node, VOCAB) what one target pass over the tree gives: each row behind its own ancestors only."""
    tokens = tree.tokens.tolist()
    contexts = [(9, *(tokens[node] for node in tree.path_to(row))) for row in range(tree.size)]
    return torch.stack([target_probs(sampling, context) for context in contexts])


@pytest.mark.parametrize("kept", KEPT, ids=str)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_sampled_chain_emits_the_targets_distribution(sampling: Sampling, kept: list[int] | None) -> None:
    """Drafts of two tokens from the (trimmed) drafter, at two draft temperatures, full and down to a single id."""
    ids = None if kept is None else torch.tensor(kept)
    for temperature in (0.7, 2.0):

        def round_of(chance: Any, temperature: float = temperature) -> tuple[int, ...]:
            drafted: list[int] = []
            drawn_from = []
            for _ in range(LENGTH - 1):
                probs = draft_probs(temperature, (9, *drafted), kept)
                column = chance.draw(probs)
                drafted.append(column if kept is None else kept[column])
                drawn_from.append(probs)
            tree = Tree.chain(9, drafted)
            verdict = reject_chain(tree, rows(tree, sampling).__getitem__, torch.stack(drawn_from), ids, chance)
            emitted = (*(drafted[node - 1] for node in verdict.path), verdict.token)
            return completed(emitted, sampling, chance)

        assert_equal(outcomes(round_of), joint(sampling))


# Parents of trees with up to 7 nodes; tokens are dealt so that siblings differ.
SHAPES = [(-1,), (-1, 0), (-1, 0, 1), (-1, 0, 0, 0), (-1, 0, 0, 1, 1, 2), (-1, 0, 1, 0, 1, 3, 3)]


@pytest.mark.parametrize("parents", SHAPES, ids=str)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_deterministic_tree_emits_the_targets_distribution(sampling: Sampling, parents: tuple[int, ...]) -> None:
    """Whatever tokens the tree holds: likely ones, unlikely ones, from all ids or from a few."""
    for kept in ([0, 1, 2, 3, 4], [4, 2, 0]):
        dealt: dict[int, int] = {}
        tokens = [9]
        for parent in parents[1:]:
            place = dealt.get(parent, 0)
            tokens.append(kept[place % len(kept)])
            dealt[parent] = place + 1
        tree = Tree(torch.tensor(tokens), parents)

        def round_of(chance: Any, tree: Tree = tree) -> tuple[int, ...]:
            probs = rows(tree, sampling)
            verdict = follow_tree(tree, lambda node: chance.draw(probs[node]))
            emitted = (*(int(tree.tokens[node]) for node in verdict.path), verdict.token)
            return completed(emitted, sampling, chance)

        assert_equal(outcomes(round_of), joint(sampling))


def test_accepting_by_the_draft_of_the_full_head_would_be_found_out() -> None:
    """The test can fail: verified against draft probabilities not renormalised, a trimmed chain misses by over 1e-3."""
    sampling, kept = Sampling(temperature=1.0), [1, 3, 4]

    def wrong(chance: Any) -> tuple[int, ...]:
        probs = draft_probs(1.0, (9,), kept)
        column = chance.draw(probs)
        tree = Tree.chain(9, [kept[column]])
        full = draft_probs(1.0, (9,), None)[kept]  # as if the mass outside the kept ids were still there
        verdict = reject_chain(tree, rows(tree, sampling).__getitem__, full[None], torch.tensor(kept), chance)
        emitted = (*(kept[column] for _ in verdict.path), verdict.token)
        return completed(emitted, sampling, chance)

    found, expected = outcomes(wrong), joint(sampling)
    assert max(abs(found.get(tokens, 0.0) - expected[tokens]) for tokens in expected) > 1e-3


def test_never_always_sometimes() -> None:
    """By hand on 4 tokens: a draft the target never says, one it always says, one it says half as often as drafted."""
    target = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])

    def verdicts(token: int, draft: list[float]) -> dict[Any, float]:
        tree = Tree.chain(9, [token])
        return outcomes(lambda chance: reject_chain(tree, target.__getitem__, torch.tensor([draft]), None, chance))

    results = {(v.path, v.token): p for v, p in verdicts(3, [0.0, 0.0, 0.0, 1.0]).items()}
    assert results == pytest.approx({((), 0): 0.5, ((), 1): 0.5})
    results = {(v.path, v.token): p for v, p in verdicts(0, [0.5, 0.5, 0.0, 0.0]).items()}
    assert results == pytest.approx({((1,), 2): 1.0})
    results = {(v.path, v.token): p for v, p in verdicts(0, [1.0, 0.0, 0.0, 0.0]).items()}
    assert results == pytest.approx({((1,), 2): 0.5, ((), 1): 0.5})


def test_greedy_follows_the_argmax_and_nothing_else() -> None:
    """The trap: accepting by a probability ratio at temperature 0 emits tokens that are not the argmax."""
    logits_by_target = torch.tensor([[0.0, 3.0, 2.9, 1.0], [5.0, 1.0, 1.0, 1.0], [0.0, 0.0, 4.0, 0.0]])
    tree = Tree(torch.tensor([9, 2, 1]), (-1, 0, 0))
    verdict = follow_tree(tree, lambda node: Sampling().draw(logits_by_target[node], TorchChance()))
    assert verdict.path == (2,) and verdict.token == 2


def test_chance_follows_its_generator_and_is_not_reseeded() -> None:
    """The trap: acceptance draws that reseed are all equal."""
    chance = TorchChance(torch.Generator().manual_seed(3))
    draws = [chance.happens(0.5) for _ in range(40)]
    again = TorchChance(torch.Generator().manual_seed(3))
    assert draws == [again.happens(0.5) for _ in range(40)] and 5 < sum(draws) < 35
    assert not TorchChance().happens(0.0) and TorchChance().happens(1.0)
