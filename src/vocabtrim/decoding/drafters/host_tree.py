"""The tree of `DynamicTree`, grown in numpy where logits are on a processor: torch is slow on its few dozen numbers.

Knows what a tree is grown from; how it is grown, and why, stands in plans.py.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch

from ...vocabulary.kept import Ids
from ..drafted import Nodes
from ..head import HeadRows


def host_tree(
    rows: HeadRows, root_logits: torch.Tensor, depth: int, branching: int, drafted: int
) -> Generator[tuple[torch.Tensor, torch.Tensor], torch.Tensor, Nodes]:
    """Yields levels to be read (tokens, parents) and is sent their logits, as `DynamicTree.growth`; depth >= 1."""
    ids, log_probs = rows.best(root_logits, branching)
    tokens, worth = ids[0].numpy(), log_probs[0].numpy()
    all_tokens, all_worth, all_parents = [tokens], [worth], [np.full(len(tokens), -1)]
    parent_rows = np.zeros(len(tokens), np.int64)
    expanded: list[Ids] = []
    first = 0
    for _ in range(depth - 1):
        chosen = _largest(worth, branching)
        ids, log_probs = rows.best(
            (yield torch.from_numpy(tokens[chosen]), torch.from_numpy(parent_rows[chosen])), branching
        )
        expanded.append(first + chosen)
        first += len(tokens)
        width = ids.shape[1]
        tokens, worth = ids.numpy().ravel(), (worth[chosen, None] + log_probs.numpy()).ravel()
        parent_rows = np.repeat(np.arange(len(chosen)), width)
        all_tokens.append(tokens)
        all_worth.append(worth)
        all_parents.append(np.repeat(expanded[-1], width))
    return _best(np.concatenate(all_tokens), np.concatenate(all_worth), np.concatenate(all_parents), expanded, drafted)


def _best(tokens: Ids, worth: np.ndarray, parents: Ids, expanded: list[Ids], drafted: int) -> Nodes:
    picked = np.sort(_largest(worth, drafted))
    entry_of = np.full(len(tokens), -1)
    if expanded:
        order = np.concatenate(expanded)
        entry_of[order] = np.arange(len(order))
    node_of = np.zeros(len(tokens) + 1, np.int64)  # the last, -1, is the root
    node_of[picked] = np.arange(1, len(picked) + 1)
    return Nodes(tokens[picked].tolist(), node_of[parents[picked]].tolist(), entry_of[picked].tolist())


def _largest(worth: np.ndarray, count: int) -> Ids:
    """Places of the largest, in descending order, the first of equals first: no child comes before its parent."""
    return np.argsort(-worth, kind="stable")[:count]
