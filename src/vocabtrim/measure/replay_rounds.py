"""The rounds that deterministic drafting would have had on a recorded generation. Exact, not a simulation.

How far a draft is accepted follows from the tokens that the target emitted: the walk that live decoding takes down a
tree (`acceptance.follow_tree`) asks for the target's token at each node, and along the accepted path that is the
recorded one. Knows trees and ids; what is drafted is `redraft.py`'s to say.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ..decoding.tree import Tree
from .recording import Recorded
from .redraft import Redraft, right_path


@dataclass(frozen=True, slots=True)
class ReplayedRound:
    """A round (`decoding.rounds.Round`) that nobody waited for, so that it took no time."""

    emitted: int
    accepted: int
    drafted: int
    depth: int

    @property
    def draft_seconds(self) -> float:
        return 0.0

    @property
    def target_seconds(self) -> float:
        return 0.0

    @property
    def seconds(self) -> float:
        return 0.0


def replay_rounds(recorded: Recorded, drafting: Redraft, vocabularies: int) -> list[list[ReplayedRound]]:
    """The rounds of one generation, for each of so many kept vocabularies.

    Emitted tokens, accepted, drafted and depth are those of `decode` with the same `max_new_tokens` and stop ids. Where
    the recording does not know its length limit, drafts reach as deep as they would without one.
    """
    drafting.begin(recorded)
    rounds: list[list[ReplayedRound]] = [[] for _ in range(vocabularies)]
    waiting = {0: list(range(vocabularies))}  # place in the output -> vocabularies whose next round begins there
    while waiting:
        place = min(waiting)
        here = waiting.pop(place)
        following = recorded.output[place:]
        for number, tree in zip(here, drafting.trees(place, _depth(recorded, place), here), strict=True):
            rounds[number].append(_round(tree, following))
            if (after := place + rounds[number][-1].emitted) < len(recorded.output):
                waiting.setdefault(after, []).append(number)
    return rounds


def _depth(recorded: Recorded, place: int) -> int:
    """How deep is drafted behind so many tokens: the last one is always the target's own."""
    return sys.maxsize if recorded.max_new_tokens is None else recorded.max_new_tokens - place - 1


def _round(tree: Tree, following: tuple[int, ...]) -> ReplayedRound:
    """Where the output ends in the middle of what is right, live decoding cuts too."""
    accepted = len(right_path(tree, following))
    return ReplayedRound(min(accepted + 1, len(following)), accepted, tree.drafted, tree.depth)
