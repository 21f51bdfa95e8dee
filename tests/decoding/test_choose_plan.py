"""Draft length, nodes and branching -> a plan, for every kind of drafter."""

from __future__ import annotations

import pytest

from vocabtrim.checkpoint.layouts import EAGLE, EAGLE3, INDEPENDENT, MEDUSA, MTP
from vocabtrim.decoding.drafters.choose_plan import choose_plan
from vocabtrim.decoding.drafters.plans import Chain, DynamicTree, Plan, StaticTree
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.errors import InputError, UnsupportedError

GREEDY, WARM = Sampling(), Sampling(0.7, top_k=20, top_p=0.9)


@pytest.mark.parametrize(
    ("kind", "sampling", "given", "expected"),
    [
        (INDEPENDENT, GREEDY, {}, Chain()),
        (INDEPENDENT, GREEDY, {"draft_length": 7}, Chain(7)),
        (INDEPENDENT, WARM, {}, Chain(sampling=WARM)),
        (INDEPENDENT, WARM, {"branching": 1, "draft_length": 2}, Chain(2, WARM)),
        (INDEPENDENT, WARM, {"branching": 3, "draft_length": 2}, DynamicTree(depth=2, branching=3)),
        (INDEPENDENT, GREEDY, {"nodes": 8}, DynamicTree(nodes=8)),
        (EAGLE, GREEDY, {}, DynamicTree()),
        (EAGLE3, WARM, {"draft_length": 3, "nodes": 9, "branching": 2}, DynamicTree(9, 3, 2)),
        (EAGLE, GREEDY, {"branching": 1}, Chain()),
        (EAGLE3, WARM, {"branching": 1, "draft_length": 6}, Chain(6, WARM)),
        (MEDUSA, WARM, {}, None),
        (MEDUSA, WARM, {"nodes": 8}, StaticTree(8)),
        (MTP, GREEDY, {}, None),
    ],
)
def test_the_plan_follows_from_kind_and_numbers(
    kind: str, sampling: Sampling, given: dict[str, int], expected: Plan | StaticTree | None
) -> None:
    assert choose_plan(kind, sampling, **given) == expected


@pytest.mark.parametrize("given", [{"draft_length": 3}, {"branching": 1}, {"branching": 1, "nodes": 8}])
def test_a_medusa_drafter_refuses_what_it_would_ignore(given: dict[str, int]) -> None:
    option = "--" + next(iter(given)).replace("_", "-")
    with pytest.raises(UnsupportedError, match=rf"static.*found {option} .*leave {option} out"):
        choose_plan(MEDUSA, GREEDY, **given)


def test_a_chain_has_no_nodes() -> None:
    with pytest.raises(InputError, match="found --nodes 8, --branching 1"):
        choose_plan(EAGLE, GREEDY, branching=1, nodes=8)


def test_a_medusa_drafter_has_some_nodes() -> None:
    with pytest.raises(InputError, match="out of range"):
        choose_plan(MEDUSA, GREEDY, nodes=1)


@pytest.mark.parametrize("given", [{"draft_length": 0}, {"branching": 0}, {"nodes": 1}])
def test_numbers_out_of_range(given: dict[str, int]) -> None:
    with pytest.raises(InputError, match="out of range"):
        choose_plan(EAGLE, GREEDY, **given)
