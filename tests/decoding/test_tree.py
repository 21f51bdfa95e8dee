"""Trees by hand: depths, masks, paths, children; and against a walk from every node, on random trees."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from vocabtrim.decoding.tree import ROOT, Tree

#        0
#      / | \
#     1  2  3
#    / \     \
#   4   5     6
DRAWN = Tree(torch.tensor([50, 7, 8, 9, 7, 8, 7]), (-1, 0, 0, 0, 1, 1, 3))


def test_the_drawn_tree() -> None:
    assert DRAWN.size == 7 and DRAWN.drafted == 6
    assert DRAWN.depths.tolist() == [0, 1, 1, 1, 2, 2, 2]
    assert DRAWN.path_to(5) == [1, 5] and DRAWN.path_to(6) == [3, 6] and DRAWN.path_to(ROOT) == []
    assert DRAWN.children[0, 8] == 2 and DRAWN.children[1, 8] == 5 and (2, 7) not in DRAWN.children
    assert DRAWN.visible.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 0],
        [1, 0, 0, 1, 0, 0, 1],
    ]


def test_a_chain_is_a_causal_mask() -> None:
    chain = Tree.chain(5, [6, 7, 8])
    assert chain.parents == (-1, 0, 1, 2) and chain.tokens.tolist() == [5, 6, 7, 8]
    assert torch.equal(chain.visible, torch.ones(4, 4).tril().bool()) and chain.depths.tolist() == [0, 1, 2, 3]


@st.composite
def parent_lists(draw: st.DrawFn) -> tuple[int, ...]:
    size = draw(st.integers(1, 40))
    return (-1, *(draw(st.integers(0, node - 1)) for node in range(1, size)))


@given(parents=parent_lists())
def test_random_trees_against_a_walk_to_the_root(parents: tuple[int, ...]) -> None:
    tree = Tree(torch.arange(len(parents)), parents)
    for node in range(tree.size):
        walked, at = {node}, node
        while parents[at] >= 0:
            at = parents[at]
            walked.add(at)
        assert set(torch.nonzero(tree.visible[node]).flatten().tolist()) == walked
        assert int(tree.depths[node]) == len(walked) - 1
        assert [ROOT, *tree.path_to(node)] == sorted(walked)
