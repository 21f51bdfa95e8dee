"""What the decoding loop asks of a drafter: begin, propose, commit. Whatever keeps this drafts losslessly.

A drafter proposes tokens that may follow the last emitted one (the root); the target decides. Nothing that a drafter
does can change the output, only how fast it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ..chance import Chance
from ..tree import Tree


@dataclass(frozen=True, eq=False)
class Draft:
    """tree: the root and what was drafted behind it.

    draft_probs: (drafted, kept), what each token of a sampled chain was drawn from, over the rows of the drafter's
    head; None where drafting was deterministic. kept_ids: (kept,) the target id of each row, ascending; None where row
    i is id i, and then there may be fewer rows than the target has ids.
    """

    tree: Tree
    draft_probs: torch.Tensor | None = None
    kept_ids: torch.Tensor | None = None


class Drafter(Protocol):
    """One sequence at a time, in step with a target."""

    @property
    def states(self) -> tuple[int, ...]:
        """Which of the target's hidden states it reads, counted as in `CausalLM.run`; empty for none."""

    @property
    def nodes(self) -> int:
        """The most nodes that a proposed tree has, root included."""

    @property
    def context(self) -> int | None:
        """Positions that it was made for; None where the target's are its own."""

    def begin(self, prompt: Sequence[int], length: int, hidden: torch.Tensor | None) -> None:
        """Forget everything and take a prompt, whose last token is the root.

        length: tokens that prompt and output will have at most.
        hidden: (prompt - 1, states * hidden), of every token but the root, as the target read them; None where the
        drafter reads none, or the prompt is the root alone.
        """

    def propose(self, depth: int, chance: Chance) -> Draft:
        """What may follow the root, at most `depth` tokens deep."""

    def commit(self, draft: Draft, path: Sequence[int], emitted: Sequence[int], hidden: torch.Tensor | None) -> None:
        """Take what was made of the last proposal.

        path: nodes that stay in the target's cache behind the root, a prefix of the accepted ones.
        emitted: path's tokens and one more, the new root.
        hidden: (emitted, states * hidden), of the old root and the nodes of `path`.
        """
