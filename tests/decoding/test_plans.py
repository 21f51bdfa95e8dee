"""What the plans draft, against trees drawn by hand."""

from __future__ import annotations

import pytest
import torch

from outcomes import outcomes
from vocabtrim.decoding.chance import Chance, TorchChance
from vocabtrim.decoding.drafters.medusa import MedusaBlocks, MedusaDrafter, static_tree
from vocabtrim.decoding.drafters.plans import Chain, DynamicTree, Grown, Plan, grow
from vocabtrim.decoding.head import Head
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.errors import InputError

CHANCE = TorchChance()

# Over ids 10, 11, 12: what follows each, as probabilities. Behind the root 11 is likely; 11 is followed by 10 almost
# surely, and 10 by each alike.
AFTER = {11: [0.9, 0.06, 0.04], 10: [0.4, 0.35, 0.25], 12: [0.2, 0.3, 0.5]}
ROOT = [0.25, 0.6, 0.15]
IDS = torch.tensor([10, 11, 12])


class Scripted:
    """A body whose next distribution depends on the last token alone, and which notes what it was asked to read."""

    def __init__(self) -> None:
        self.head = Head(torch.zeros(3, 1), kept_ids=IDS)
        self.read: list[tuple[list[int], list[int]]] = []

    def catch_up(self) -> torch.Tensor:
        return torch.tensor([ROOT]).log()

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        self.read.append((tokens.tolist(), parents.tolist()))
        return torch.tensor([AFTER[token] for token in tokens.tolist()]).log()


def drafted(plan: Plan, body: Scripted, depth: int, chance: Chance = CHANCE) -> Grown:
    """Behind root 7."""
    return grow(plan.growth(body.head, 7, body.catch_up(), depth, chance), body)


def test_a_greedy_chain_takes_the_most_probable_token_each_time() -> None:
    body = Scripted()
    draft, entries = drafted(Chain(4), body, 9)
    assert draft.tree.tokens.tolist() == [7, 11, 10, 10, 10]
    assert not draft.tree.branches
    assert draft.draft_probs is None
    assert list(entries) == [-1, 0, 1, 2, -1], "the last token is never read"
    assert body.read == [([11], [0]), ([10], [0]), ([10], [0])]


def test_a_chain_drafts_no_deeper_than_asked() -> None:
    body = Scripted()
    assert drafted(Chain(4), body, 2).draft.tree.tokens.tolist() == [7, 11, 10]


def test_a_sampled_chain_is_drawn_from_what_it_says() -> None:
    """Every outcome of two drafted tokens, with the probability that `draft_probs` claims."""

    def outcome(chance: Chance) -> tuple[tuple[int, ...], float]:
        body = Scripted()
        draft, _ = drafted(Chain(2, Sampling(temperature=1.0)), body, 2, chance)
        assert draft.draft_probs is not None
        columns = [int((token == IDS).nonzero()) for token in draft.tree.tokens[1:].tolist()]
        claimed = float(draft.draft_probs[0, columns[0]] * draft.draft_probs[1, columns[1]])
        return tuple(draft.tree.tokens.tolist()), claimed

    found = outcomes(outcome)
    assert len(found) == 9
    for (_, claimed), probability in found.items():
        assert probability == pytest.approx(claimed, abs=1e-6)


def test_the_dynamic_tree_expands_the_best_of_each_level_and_keeps_the_best_of_all() -> None:
    """Branching 2, depth 3, six nodes.

    Level 1: 11 (.6), 10 (.25). Level 2, behind 11: 10 (.54), 11 (.036); behind 10: 10 (.1), 11 (.09).
    Expanded: 11>10 (.54), 10>10 (.1). Level 3, behind 11>10: 10 (.216), 11 (.189); behind 10>10: 10 (.04), 11 (.035).
    The best five: .6, .54, .25, .216, .189.
    """
    body = Scripted()
    draft, entries = drafted(DynamicTree(nodes=6, depth=3, branching=2), body, 9)
    assert body.read == [([11, 10], [0, 0]), ([10, 10], [0, 1])]
    assert draft.tree.tokens.tolist() == [7, 11, 10, 10, 10, 11]
    assert draft.tree.parents == (-1, 0, 0, 1, 3, 3)
    assert list(entries) == [-1, 0, 1, 2, -1, -1]


def test_a_node_never_stands_before_its_parent_even_when_both_are_certain() -> None:
    """A drafter that is sure of everything gives a child the worth of its parent."""
    body = Scripted()
    body.catch_up = lambda: torch.tensor([[0.0, -9e9, -9e9]])  # type: ignore[method-assign]
    body.extend = lambda tokens, parents: torch.tensor([[0.0, -torch.inf, -torch.inf]] * len(tokens))  # type: ignore[method-assign]
    draft, _ = drafted(DynamicTree(nodes=5, depth=4, branching=3), body, 9)
    assert draft.tree.tokens.tolist() == [7, 10, 10, 10, 10]
    assert draft.tree.parents == (-1, 0, 1, 2, 3)


def test_more_branches_than_kept_ids_are_as_many_as_there_are() -> None:
    body = Scripted()
    draft, _ = drafted(DynamicTree(nodes=60, depth=2, branching=10), body, 9)
    assert draft.tree.size == 1 + 3 + 9


def test_the_static_tree_is_grown_best_first() -> None:
    """First rates .6, .21; then .51; then .43: worth .6 for (0,), .306 for (0, 0), .21 for (1,), .13 for (0, 0, 0)."""
    places = static_tree(3, nodes=6)
    assert places[:4] == ((0,), (0, 0), (1,), (0, 0, 0))
    assert all(place[:-1] in ((), *places[:number]) for number, place in enumerate(places))
    assert static_tree(5)[:20] == static_tree(5, nodes=21)
    assert len(static_tree(5)) == 63


def medusa(kept: int, heads: int = 3) -> MedusaDrafter:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(kept, 8, generator=generator) for _ in range(heads)]
    ids = torch.arange(kept) * 2
    return MedusaDrafter([MedusaBlocks(8, 1) for _ in range(heads)], [Head(weight, kept_ids=ids) for weight in weights])


def test_medusa_fills_its_tree_with_each_heads_best() -> None:
    drafter = medusa(kept=20)
    hidden = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    drafter.begin([1, 2, 3, 4, 5], 100, hidden)
    tree = drafter.propose(9, CHANCE).tree
    best = [
        2 * head(block(hidden[-1:]))[0].argsort(descending=True)
        for block, head in zip(drafter.blocks, drafter.heads, strict=True)
    ]
    for node, place in enumerate(drafter.tree, start=1):
        tokens = [int(tree.tokens[step]) for step in tree.path_to(node)]
        assert tokens == [int(best[depth][rank]) for depth, rank in enumerate(place)]


def test_medusa_leaves_out_ranks_that_a_trimmed_head_does_not_have_and_depths_that_are_not_asked_for() -> None:
    drafter = medusa(kept=2)
    drafter.begin([1, 2], 100, torch.zeros(1, 8))
    tree = drafter.propose(2, CHANCE).tree
    assert tree.depth == 2
    assert tree.size == 1 + 2 + 4


@pytest.mark.parametrize("places", [[(0, 0)], [(0,), (0,)], [(0,), (0, 0), (0, 0, 0), (0, 0, 0, 0)], [(-1,)]], ids=str)
def test_a_static_tree_that_is_none_is_refused(places: list[tuple[int, ...]]) -> None:
    drafter = medusa(kept=5)
    with pytest.raises(InputError, match="no new child"):
        MedusaDrafter(drafter.blocks, drafter.heads, places)


@pytest.mark.parametrize("plan", [lambda: Chain(0), lambda: DynamicTree(nodes=1), lambda: DynamicTree(branching=0)])
def test_plans_that_draft_nothing_are_refused(plan: object) -> None:
    with pytest.raises(InputError, match="out of range"):
        plan()  # type: ignore[operator]


@pytest.mark.parametrize("branching", [1, 2, 10])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_on_a_processor_and_on_a_device_the_same_tree_is_grown(depth: int, branching: int) -> None:
    """In numpy and in torch: on random logits over 50 ids, nodes, parents and entries alike."""
    head = Head(torch.zeros(50, 1), kept_ids=torch.arange(0, 100, 2))

    def grown(how: str, seed: int) -> tuple[object, ...]:
        generator = torch.Generator().manual_seed(seed)
        growth = getattr(DynamicTree(nodes=30, depth=depth, branching=branching), how)
        growing = growth(head, 7, torch.randn(1, 50, generator=generator), 9)
        read = []
        try:
            level = next(growing)
            while True:
                read.append((level.tokens.tolist(), level.parents.tolist()))
                level = growing.send(torch.randn(len(level.tokens), 50, generator=generator))
        except StopIteration as done:
            draft, entries = done.value
        return draft.tree.tokens.tolist(), draft.tree.parents, list(entries), read

    for seed in range(20):
        assert grown("_on_host", seed) == grown("on_device", seed)
