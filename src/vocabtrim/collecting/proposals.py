"""What a drafter proposes, counted: what the target took and what it did not, as token counts like any others.

Drafter-generated text is calibration text too (arXiv 2506.22694); here it costs nothing, because the target writes
anyway, and what it rejected is counted beside what it accepted. Knows drafts and counts; knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from ..calibrate.counts import DRAFTER_GENERATED, SourceCounts, TokenCounts
from ..calibrate.tally import is_held_out
from ..calibrate.tokenizer import TokenizerFacts
from ..decoding.chance import Chance
from ..decoding.drafters.protocol import Draft, Drafter
from ..decoding.tree import ROOT
from ..errors import InputError
from ..provenance import birth_certificate
from .answers import Answer, Proposed
from .tally import HELD_OUT

NAMES = ("accepted drafts", "rejected drafts")


class ListeningDrafter:
    """A drafter that notes what it proposes; it drafts as the one it is made of."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._accepted: Counter[int] = Counter()
        self._rejected: Counter[int] = Counter()

    @property
    def states(self) -> tuple[int, ...]:
        return self._drafter.states

    @property
    def nodes(self) -> int:
        return self._drafter.nodes

    @property
    def context(self) -> int | None:
        return self._drafter.context

    @property
    def heard(self) -> Proposed:
        """Everything proposed since `begin`."""
        return Proposed(self._accepted, self._rejected)

    def begin(self, prompt: Sequence[int], length: int, hidden: torch.Tensor | None) -> None:
        self._accepted, self._rejected = Counter(), Counter()
        self._drafter.begin(prompt, length, hidden)

    def propose(self, depth: int, chance: Chance) -> Draft:
        return self._drafter.propose(depth, chance)

    def commit(self, draft: Draft, path: Sequence[int], emitted: Sequence[int], hidden: torch.Tensor | None) -> None:
        """A drafted token that was the answer's last is accepted as well, though it is not in `path`."""
        last = draft.tree.children.get((path[-1] if path else ROOT, emitted[-1]))
        taken = {*path} if last is None else {*path, last}
        for node, token in enumerate(draft.tree.tokens.tolist()):
            if node != ROOT:
                (self._accepted if node in taken else self._rejected)[token] += 1
        self._drafter.commit(draft, path, emitted, hidden)


def proposal_counts(answers: Iterable[Answer], facts: TokenizerFacts, arguments: dict[str, object]) -> TokenCounts:
    """Counts of all proposals, with two sources; those for held-out prompts are held out.

    Answers that were left out count neither. Raises InputError where there is no proposal.
    """
    documents = 0
    counted = {name: (np.zeros(facts.vocab_size, np.int64), np.zeros(facts.vocab_size, np.int64)) for name in NAMES}
    for answer in answers:
        proposed = answer.written.proposed
        if proposed is None or answer.left_out is not None:
            continue
        documents += 1
        side = int(is_held_out(answer.key, HELD_OUT))
        for name, part in zip(NAMES, (proposed.accepted, proposed.rejected), strict=True):
            for token, times in part.items():
                if token < facts.vocab_size:
                    counted[name][side][token] += times
    if not any(part.any() for sides in counted.values() for part in sides):
        raise InputError("nothing was proposed", found=f"{documents} answers", remedy="collect with --drafter")
    sources = tuple(
        SourceCounts(name, DRAFTER_GENERATED, counts, heldout, {"documents": documents, "argument": name})
        for name, (counts, heldout) in counted.items()
    )
    return TokenCounts(facts, sources, documents, provenance=birth_certificate(arguments, {"tokenizer": facts.hash}))
