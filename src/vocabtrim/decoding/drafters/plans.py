"""How a drafter that goes token by token drafts: a greedy or sampled chain, or EAGLE-2's dynamic tree.

Knows logits and trees; knows the model behind them only as a `Body`. Any plan goes with any body.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Protocol, cast

import torch

from ...errors import InputError
from ..chance import Chance
from ..drafted import Nodes, Shape
from ..head import Head, HeadRows
from ..sampling import Sampling
from ..tree import Tree
from .host_tree import host_tree
from .protocol import Draft

_LARGEST = 4096  # more than any drafter was seen to gain from, and memory that any machine has


class Body(Protocol):
    """A drafter's model during one proposal: `catch_up` once, then a level of drafted tokens at a time."""

    @property
    def head(self) -> Head: ...

    def catch_up(self) -> torch.Tensor | None:
        """Read what was emitted since; (1, kept) logits behind the root, or None where nothing can be said yet."""

    def grow(self, root_logits: torch.Tensor, shape: Shape) -> Nodes | None:
        """Draft all levels in one go behind the logits of `catch_up`; None where `extend` is to be asked for them."""

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        """Read one level: tokens (n,), each behind row parents (n,) of the level before; (n, kept) logits."""


class Grown(NamedTuple):
    """A draft, and for each node the number of its entry in the body's cache behind the root's; -1 for unread ones."""

    draft: Draft
    entries: Sequence[int]


class Level(NamedTuple):
    """Drafted tokens that the body is to read: tokens (n,), each behind row parents (n,) of the level before."""

    tokens: torch.Tensor
    parents: torch.Tensor


class Candidates(NamedTuple):
    """All that a dynamic tree is picked from, level by level: a shallower tree's are those of its levels.

    tokens, worth, parents: (candidate,). worth: log-probability of the path to it. parents: a candidate each, -1 for
    the root. expanded: the candidates that were read, in the order of their entries. ends: behind the last candidate
    of each level.
    """

    tokens: torch.Tensor
    worth: torch.Tensor
    parents: torch.Tensor
    expanded: Sequence[torch.Tensor]
    ends: Sequence[int]


# Asks for levels to be read, is sent the (n, kept) logits behind each, and returns what was grown.
Growth = Generator[Level, torch.Tensor, Grown]


class Plan(Protocol):
    """What to draft. It asks for logits and never computes any, so that several can grow over one body's passes."""

    @property
    def nodes(self) -> int:
        """The most nodes that the tree has, root included."""

    @property
    def reads(self) -> int:
        """The most drafted tokens that the body reads for one proposal."""

    def shape(self, depth: int) -> Shape | None:
        """Of what is drafted at most `depth` >= 1 tokens deep, for bodies that can do so in one go and come to the same
        as `growth`; None where chance has a say."""

    def growth(self, rows: HeadRows, root: int, root_logits: torch.Tensor, depth: int, chance: Chance) -> Growth:
        """Draft behind the root, at most `depth` >= 1 tokens deep. rows: of the head whose logits these are.
        root_logits: (1, kept) of `catch_up`."""


def grow(growth: Growth, body: Body) -> Grown:
    """Let a body read each level that a growth asks for, and take what was grown."""
    try:
        level = next(growth)
        while True:
            level = growth.send(body.extend(level.tokens, level.parents))
    except StopIteration as done:
        return cast(Grown, done.value)


@dataclass(frozen=True)
class Chain:
    """One token behind the other. length: the draft length.

    sampling: None drafts the most probable token each time. Otherwise tokens are drawn from what it makes of the
    drafter's logits, to be verified by rejection: at a temperature more drafts survive that way.
    """

    length: int = 4
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        _prove_size("draft length", self.length)

    @property
    def nodes(self) -> int:
        return self.length + 1

    @property
    def reads(self) -> int:
        return self.length - 1

    def shape(self, depth: int) -> Shape | None:
        deep = min(depth, self.length)
        return None if self.sampled else Shape(deep, 1, deep, ranked=False)

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn: what is drafted then hangs on chance."""
        return self.sampling is not None and not self.sampling.greedy

    def growth(self, rows: HeadRows, root: int, root_logits: torch.Tensor, depth: int, chance: Chance) -> Growth:
        if not self.sampled:
            return self.grown(root, (yield from self.likeliest(rows, root_logits, depth)).tolist())
        tokens: list[int] = []
        draft_probs: list[torch.Tensor] = []
        logits, root_row = root_logits, torch.zeros(1, dtype=torch.long, device=root_logits.device)
        for step in range(min(depth, self.length)):
            if step > 0:
                logits = yield Level(torch.tensor(tokens[-1:], device=logits.device), root_row)
            rows.prove_numbers(logits[0].amax())
            draft_probs.append(self.sampling.probs(logits[0]))  # type: ignore[union-attr]
            column = torch.tensor(chance.draw(draft_probs[-1]), device=logits.device)
            tokens.append(int(rows.ids(column)))
        draft, entries = self.grown(root, tokens)
        return Grown(Draft(draft.tree, torch.stack(draft_probs), rows.kept_ids), entries)

    def likeliest(
        self, rows: HeadRows, root_logits: torch.Tensor, depth: int
    ) -> Generator[Level, torch.Tensor, torch.Tensor]:
        """(drafted,) the tokens of a greedy chain, each left where the logits are."""
        token = rows.likeliest(root_logits)
        tokens, root_row = [token], torch.zeros_like(token)
        for _ in range(min(depth, self.length) - 1):
            token = rows.likeliest((yield Level(token, root_row)))
            tokens.append(token)
        return torch.cat(tokens)

    @staticmethod
    def grown(root: int, tokens: Sequence[int]) -> Grown:
        """The chain of those tokens; the last one was not read."""
        return Grown(Draft(Tree.chain(root, tokens)), [-1, *range(len(tokens) - 1), -1])


@dataclass(frozen=True)
class DynamicTree:
    """EAGLE-2's tree (arXiv 2406.16858, section 4): expand the best nodes of each level, keep the best of all.

    A node's worth is the product of the drafter's probabilities along its path. nodes: of the tree, root included.
    depth: drafted tokens on the longest path, which is one draft step each. branching: how many nodes of a level are
    expanded, and how many children each has.
    """

    nodes: int = 60
    depth: int = 5
    branching: int = 10

    def __post_init__(self) -> None:
        _prove_size("number of drafted nodes", self.nodes - 1)
        _prove_size("depth", self.depth)
        _prove_size("branching", self.branching)

    @property
    def reads(self) -> int:
        return self.branching * (self.depth - 1)

    def shape(self, depth: int) -> Shape | None:
        return Shape(min(depth, self.depth), self.branching, self.nodes - 1)

    def growth(self, rows: HeadRows, root: int, root_logits: torch.Tensor, depth: int, chance: Chance) -> Growth:
        if root_logits.device.type == "cpu":
            return (yield from self._on_host(rows, root, root_logits, depth))
        return (yield from self.on_device(rows, root, root_logits, depth))

    def _on_host(self, rows: HeadRows, root: int, root_logits: torch.Tensor, depth: int) -> Growth:
        growing = host_tree(rows, root_logits, min(depth, self.depth), self.branching, self.nodes - 1)
        try:
            level = next(growing)
            while True:
                level = growing.send((yield Level(*level)))
        except StopIteration as done:
            nodes: Nodes = done.value
        return self.grown(root, nodes)

    def on_device(self, rows: HeadRows, root: int, root_logits: torch.Tensor, depth: int) -> Growth:
        return self.grown(root, self.picked((yield from self.candidates(rows, root_logits, depth))).tolist())

    def candidates(
        self, rows: HeadRows, root_logits: torch.Tensor, depth: int
    ) -> Generator[Level, torch.Tensor, Candidates]:
        """All candidates of all levels stand in one list; `first` is where the current level begins in it."""
        best = rows.best(root_logits, self.branching)
        tokens, worth = best.ids[0], best.log_probs[0]
        parent_rows = torch.zeros_like(tokens)
        all_tokens, all_worth, all_parents = [tokens], [worth], [torch.full_like(tokens, -1)]
        expanded: list[torch.Tensor] = []
        first = 0
        for _ in range(min(depth, self.depth) - 1):
            chosen = worth.topk(min(self.branching, len(worth))).indices
            best = rows.best((yield Level(tokens[chosen], parent_rows[chosen])), self.branching)
            expanded.append(first + chosen)
            first += len(tokens)
            width = best.ids.shape[1]
            tokens, worth = best.ids.flatten(), (worth[chosen, None] + best.log_probs).flatten()
            parent_rows = torch.arange(len(chosen), device=tokens.device).repeat_interleave(width)
            all_tokens.append(tokens)
            all_worth.append(worth)
            all_parents.append(expanded[-1].repeat_interleave(width))
        ends = [*accumulate(map(len, all_tokens))]
        return Candidates(torch.cat(all_tokens), torch.cat(all_worth), torch.cat(all_parents), expanded, ends)

    def picked(self, found: Candidates) -> torch.Tensor:
        """(3, node) the best candidates, left where they are: token, parent's node, and entry, -1 where none was read.

        The sort is stable: no child comes before a parent of equal worth."""
        tokens, worth, parents, expanded, _ = found
        picked = worth.sort(descending=True, stable=True).indices[: self.nodes - 1].sort().values
        entry_of = torch.full_like(tokens, -1)
        if expanded:
            order = torch.cat([*expanded])
            entry_of[order] = torch.arange(len(order), device=order.device)
        node_of = torch.zeros(len(tokens) + 1, dtype=torch.long, device=tokens.device)  # the last, -1, is the root
        node_of[picked] = torch.arange(1, len(picked) + 1, device=tokens.device)
        return torch.stack([tokens[picked], node_of[parents[picked]], entry_of[picked]])

    @staticmethod
    def grown(root: int, columns: Sequence[Sequence[int]]) -> Grown:
        """The tree of what was `picked`."""
        tokens, parents, entries = columns
        return Grown(Draft(Tree(torch.tensor([root, *tokens]), (-1, *parents))), [-1, *entries])


@dataclass(frozen=True)
class StaticTree:
    """The size of a Medusa drafter's tree, whose shape is its own. nodes: root included."""

    nodes: int = 64

    def __post_init__(self) -> None:
        _prove_size("number of drafted nodes", self.nodes - 1)


def _prove_size(name: str, value: int) -> None:
    if not 1 <= value <= _LARGEST:
        expected = f"1 to {_LARGEST}"
        raise InputError(f"{name} is out of range", expected=expected, found=value, remedy="use the default")
