"""Which drafted tokens survive, and which token the target adds. Decides so that exactly the target's distribution is
emitted, whatever was drafted.

Knows probabilities, trees and chance; knows nothing of models, caches or text. Chance comes in as an object, so that a
test can walk through every outcome instead of sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .chance import Chance
from .tree import ROOT, Tree


@dataclass(frozen=True)
class Verdict:
    """path: the accepted nodes, from below the root downwards. token: what the target adds: the bonus token behind a
    path that ends in a leaf, otherwise the token it put in the place of the drafted ones."""

    path: tuple[int, ...]
    token: int


def follow_tree(tree: Tree, draw: Callable[[int], int]) -> Verdict:
    """Verify a tree that was drafted deterministically: draw the target's token at a node, go on where it is a child.

    draw: (node) -> the target's token behind that node, drawn afresh.
    Every emitted token is the target's own draw, so the distribution is the target's whatever the tree holds; it equals
    recursive rejection (SpecInfer, arXiv 2305.09781, and EAGLE, arXiv 2401.15077) with one-hot draft distributions.
    """
    node = ROOT
    path: list[int] = []
    while True:
        token = draw(node)
        child = tree.children.get((node, token))
        if child is None:
            return Verdict(tuple(path), token)
        node = child
        path.append(node)


def reject_chain(
    tree: Tree,
    target_probs: Callable[[int], torch.Tensor],
    draft_probs: torch.Tensor,
    kept_ids: torch.Tensor | None,
    chance: Chance,
) -> Verdict:
    """Verify a chain whose tokens were drawn from `draft_probs`: speculative sampling.

    target_probs: (node) -> (target_vocab,), the target's distribution behind that node.
    draft_probs: (drafted, kept), row i is the distribution that node i + 1 was drawn from, over the drafter's own ids.
    kept_ids: (kept,) the target id of each column, ascending; None where the drafter has all ids.
    Leviathan et al. (arXiv 2211.17192), algorithm 1: accept with probability min(1, target / draft); at the first
    rejection draw from the positive part of target - draft, renormalised. A trimmed drafter has draft probability 0
    outside its kept ids, so the residual there is the target's own.
    """
    tokens = tree.tokens.tolist()
    for row in range(tree.drafted):
        token = tokens[row + 1]
        column = token if kept_ids is None else int(torch.searchsorted(kept_ids, token))
        probs = target_probs(row)
        if not chance.happens(float(probs[token]) / float(draft_probs[row, column])):
            return Verdict(tuple(range(1, row + 1)), chance.draw(_residual(probs, draft_probs[row], kept_ids)))
    return Verdict(tuple(range(1, tree.size)), chance.draw(target_probs(tree.drafted)))


def _residual(target_probs: torch.Tensor, draft_probs: torch.Tensor, kept_ids: torch.Tensor | None) -> torch.Tensor:
    """(target_vocab,) the positive part of target - draft, renormalised."""
    residual = target_probs.clone()
    if kept_ids is None:
        residual[: len(draft_probs)] -= draft_probs  # heads of one tokenizer may be padded to different widths
    else:
        residual[kept_ids] -= draft_probs
    residual.clamp_(min=0)
    total = residual.sum()
    # Equal distributions never reject; rounding can leave nothing all the same.
    return residual / total if total > 0 else target_probs
