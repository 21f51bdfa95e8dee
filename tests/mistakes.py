"""Mistakes that verification invites: tests put them in, to show that they would be found out.

`making(patch, name)` makes one, in the loop itself, until the patch is undone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from vocabtrim.decoding import acceptance
from vocabtrim.decoding import rounds as loop
from vocabtrim.decoding.acceptance import Verdict
from vocabtrim.decoding.chance import Chance
from vocabtrim.decoding.drafters.protocol import Draft
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.decoding.target import Target
from vocabtrim.decoding.tree import Tree

_ACCEPT, _COMMIT, _REJECT = loop._accept, Target.commit, loop.reject_chain


def _draft_of_the_full_head(
    tree: Tree, target_probs: Any, draft_probs: torch.Tensor, kept_ids: torch.Tensor | None, chance: Chance
) -> Verdict:
    """Not renormalised: as if 0.3 of the mass were still on the ids that were trimmed away."""
    return _REJECT(tree, target_probs, 0.7 * draft_probs, kept_ids, chance)


def _residual_of_the_target(target_probs: torch.Tensor, *_: Any) -> torch.Tensor:
    """What was drafted is not taken off."""
    return target_probs


def _uncut_bonus(draft: Draft, target_logits: torch.Tensor, sampling: Sampling, chance: Chance) -> Verdict:
    """The bonus token is drawn without temperature and top-p."""
    verdict = _ACCEPT(draft, target_logits, sampling, chance)
    last = verdict.path[-1] if verdict.path else 0
    if last in draft.tree.parents:
        return verdict
    return replace(verdict, token=chance.draw(target_logits[last].softmax(dim=-1)))


def _commit_what_stands_first(target: Target, tree: Tree, path: tuple[int, ...]) -> None:
    """As many nodes as were accepted stay in the cache, not those that were."""
    _COMMIT(target, tree, range(1, len(path) + 1))


def _siblings_see_each_other(tree: Tree) -> torch.Tensor:
    return torch.ones(tree.size, tree.size, dtype=torch.bool).tril()


def _positions_by_node(tree: Tree) -> torch.Tensor:
    return torch.arange(tree.size)


# Of sampled chains, and of trees: what is replaced, by what.
OF_CHAINS: dict[str, tuple[Any, str, Callable[..., Any] | property]] = {
    "draft of the full head": (loop, "reject_chain", _draft_of_the_full_head),
    "residual of the target": (acceptance, "_residual", _residual_of_the_target),
}
OF_TREES: dict[str, tuple[Any, str, Callable[..., Any] | property]] = {
    "uncut bonus token": (loop, "_accept", _uncut_bonus),
    "wrong nodes committed": (Target, "commit", _commit_what_stands_first),
    "siblings see each other": (Tree, "visible", property(_siblings_see_each_other)),
    "positions by node": (Tree, "depths", property(_positions_by_node)),
}


def making(patch: pytest.MonkeyPatch, mistake: str) -> None:
    patch.setattr(*(OF_CHAINS | OF_TREES)[mistake])


def forgetting_the_draft(patch: pytest.MonkeyPatch) -> None:
    """No mistake: what a chain was drawn from is forgotten, and the chain followed as any tree."""

    def accept(draft: Draft, target_logits: torch.Tensor, sampling: Sampling, chance: Chance) -> Verdict:
        return _ACCEPT(Draft(draft.tree), target_logits, sampling, chance)

    patch.setattr(loop, "_accept", accept)
