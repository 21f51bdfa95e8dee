"""What a drafter drafts at each place of a known output, for many kept vocabularies in one go.

Along a known output the state of a drafter at a root hangs on the tokens before it alone, not on what was drafted. So
the drafter reads them once, and each kept vocabulary picks its rows out of the same full-head scores: what is drafted
is what a head cut to these rows would draft. Knows drafters from inside; knows nothing of rounds or files.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from ..decoding.acceptance import follow_tree
from ..decoding.chance import TorchChance
from ..decoding.drafters.independent import IndependentBody
from ..decoding.drafters.medusa import MedusaDrafter
from ..decoding.drafters.plans import Chain, Level
from ..decoding.drafters.protocol import Draft, Drafter
from ..decoding.drafters.stepping import SteppingBody, SteppingDrafter
from ..decoding.head import Head, HeadRows
from ..decoding.tree import Tree
from ..errors import InputError, MismatchError, UnsupportedError
from ..vocabulary.kept import Ids
from .recording import Recorded

_UNKNOWN = -1  # in the place of a drafted token that cannot count
_NOWHERE = -2  # the target's token where the output has ended: in no tree
_BLOCK = 64  # tokens whose logits are in memory at a time
CHANCE = TorchChance()  # asked by nobody: all drafting here is deterministic

Found = TypeVar("Found")  # what a growth comes to


class Redraft(Protocol):
    """One generation at a time: `begin`, then `trees` at ascending places."""

    def begin(self, recorded: Recorded) -> None: ...

    def trees(self, place: int, depth: int, vocabularies: Sequence[int]) -> list[Tree]:
        """What is drafted behind `place` tokens of the output, at most `depth` deep, by each of the vocabularies, which
        are named by their numbers. In a chain, tokens behind one that is not the output's may be any."""


@dataclass(frozen=True, eq=False)
class Pick:
    """A kept vocabulary's rows among a head's. columns: (kept,) ascending; None for all of them. ids: of these rows."""

    head: Head
    columns: torch.Tensor | None
    ids: torch.Tensor | None

    @property
    def rows(self) -> HeadRows:
        """Found as a head cut to these rows would find them."""
        return HeadRows(self.ids, self.head.kernels)

    def of(self, head_logits: torch.Tensor) -> torch.Tensor:
        """(row, head rows) -> (row, kept)."""
        return head_logits if self.columns is None else head_logits.index_select(-1, self.columns)


def redraft(drafter: Drafter, kept: Sequence[Ids | None]) -> Redraft:
    """kept: for each vocabulary its ascending ids; None for the drafter's head as it is.

    Raises InputError for a drafter that draws its drafts, MismatchError for ids that its head has no row for,
    UnsupportedError for kept ids and a drafter that is none of ours, whose head nobody knows.
    """
    if isinstance(drafter, SteppingDrafter):
        if isinstance(drafter.plan, Chain) and drafter.plan.sampled:
            raise _sampled()
        picks = [pick_rows(drafter.body.head, ids) for ids in kept]
        if isinstance(drafter.plan, Chain) and isinstance(drafter.body, IndependentBody):
            return _Forced(drafter.body, drafter.plan.length, picks)
        return _Stepping(drafter, picks)
    if isinstance(drafter, MedusaDrafter):
        return StaticBest(drafter, [pick_rows(drafter.heads[0], ids) for ids in kept])
    if any(ids is not None for ids in kept):
        raise UnsupportedError(
            f"{type(drafter).__name__} does not show its head, so no rows of it can be left out",
            expected="a drafter of `load_drafter`",
            found=type(drafter).__name__,
            remedy="replay it without kept vocabularies",
        )
    return _Opaque(drafter)


def right_path(tree: Tree, following: Sequence[int]) -> tuple[int, ...]:
    """The nodes, from below the root downwards, that are right about the tokens following the root."""
    depths = tree.depths.tolist()

    def recorded(node: int) -> int:
        return following[depths[node]] if depths[node] < len(following) else _NOWHERE

    return follow_tree(tree, recorded).path


class _Forced:
    """A greedy chain of a drafter whose logits hang on the tokens before alone: one pass over the output says, at each
    place, what would be drafted next. A chain's token counts only while all before it are the output's own."""

    def __init__(self, body: IndependentBody, length: int, picks: Sequence[Pick]) -> None:
        self._body, self._length, self._picks = body, length, picks
        self._known: Sequence[int] = ()
        self._next: list[list[int]] = []  # of each vocabulary, behind each place

    def begin(self, recorded: Recorded) -> None:
        *before, root = recorded.prompt
        self._known = [root, *recorded.output]
        read = self._known[:-1]
        self._body.begin(before, len(before) + len(read), None)
        if before:
            self._body.catch_up()
        parts: list[list[torch.Tensor]] = [[] for _ in self._picks]
        for start in range(0, len(read), _BLOCK):
            block = read[start : start + _BLOCK]
            logits = self._body.read(block, rows=len(block))
            for part, pick in zip(parts, self._picks, strict=True):
                part.append(pick.rows.likeliest(pick.of(logits)))
        self._next = [torch.cat(part).tolist() for part in parts]

    def trees(self, place: int, depth: int, vocabularies: Sequence[int]) -> list[Tree]:
        length = min(depth, self._length)
        chains = [self._next[number][place : place + length] for number in vocabularies]
        return [Tree.chain(self._known[place], chain + [_UNKNOWN] * (length - len(chain))) for chain in chains]


class Walk:
    """A body that is led along a recorded output, place by place. reads: the most tokens that it reads at one place."""

    def __init__(self, body: SteppingBody, reads: int) -> None:
        self.body, self._reads = body, reads
        self._recorded: Recorded | None = None
        self._place = 0

    def begin(self, recorded: Recorded) -> None:
        """Take another output. Room for all that may be read behind it is reserved."""
        tokens = len(recorded.prompt) + len(recorded.output)
        hidden = states_of(recorded, 0, len(recorded.prompt) - 1, self.body.head)
        self.body.begin(recorded.prompt, tokens + self._reads, hidden)
        self._recorded, self._place = recorded, 0

    def logits(self, place: int) -> torch.Tensor | None:
        """(1, kept) behind `place` tokens of the output, no earlier place than the last one."""
        assert self._recorded is not None
        if place > self._place:
            first = len(self._recorded.prompt) - 1
            hidden = states_of(self._recorded, first + self._place, first + place, self.body.head)
            self.body.commit([], self._recorded.output[self._place : place], hidden)
            self._place = place
        return self.body.catch_up()


class _Stepping:
    """Any plan over any body: the plans of all vocabularies grow level by level, and the body reads each node that one
    of them asks for once."""

    def __init__(self, drafter: SteppingDrafter, picks: Sequence[Pick]) -> None:
        self._walk = Walk(drafter.body, drafter.plan.reads * len(picks))
        self._plan, self._picks = drafter.plan, picks
        self._known: Sequence[int] = ()

    def begin(self, recorded: Recorded) -> None:
        self._walk.begin(recorded)
        self._known = [recorded.prompt[-1], *recorded.output]

    def trees(self, place: int, depth: int, vocabularies: Sequence[int]) -> list[Tree]:
        root = self._known[place]
        logits = self._walk.logits(place) if depth > 0 else None
        if logits is None:
            return [Tree.chain(root) for _ in vocabularies]
        picks = [self._picks[number] for number in vocabularies]
        growths = [self._plan.growth(pick.rows, root, pick.of(logits), depth, CHANCE) for pick in picks]
        return [grown.draft.tree for grown in grow_together(self._walk.body, growths, picks)]


def grow_together(
    body: SteppingBody, growths: Sequence[Generator[Level, torch.Tensor, Found]], picks: Sequence[Pick]
) -> list[Found]:
    """Like `plans.grow` for each, but of what they ask for the body reads nothing twice."""
    grown: dict[int, Found] = {}
    device = body.head.weight.device
    asked = dict(_asked(growths, dict.fromkeys(range(len(growths))), grown))
    # Of each growth, which row of the body's last level each token of its own last level is; the root is row 0.
    row_of = {number: [0] for number in asked}
    while asked:
        rows: dict[tuple[int, int], int] = {}  # (row of the parent, token) -> row of this level
        for number, level in asked.items():
            parents = (row_of[number][parent] for parent in level.parents.tolist())
            level_nodes = zip(parents, level.tokens.tolist(), strict=True)
            row_of[number] = [rows.setdefault(node, len(rows)) for node in level_nodes]
        nodes = torch.tensor([*rows], device=device)
        logits = body.extend(nodes[:, 1], nodes[:, 0])
        scores = {number: picks[number].of(logits[row_of[number]]) for number in asked}
        asked = dict(_asked(growths, scores, grown))
    return [grown[number] for number in range(len(growths))]


def _asked(
    growths: Sequence[Generator[Level, torch.Tensor, Found]],
    scores: dict[int, torch.Tensor] | dict[int, None],
    grown: dict[int, Found],
) -> Iterator[tuple[int, Level]]:
    """Go on with those growths that have got what they asked for; what they ask for next. The others are `grown`."""
    for number, logits in scores.items():
        try:
            yield number, next(growths[number]) if logits is None else growths[number].send(logits)
        except StopIteration as done:
            grown[number] = done.value


class StaticBest:
    """Medusa: what its heads say hangs on one hidden state, so the output is read in blocks."""

    def __init__(self, drafter: MedusaDrafter, picks: Sequence[Pick]) -> None:
        self._drafter, self._picks = drafter, picks
        self._recorded: Recorded | None = None
        self._widths = drafter.widths(len(drafter.heads))
        self._best: list[list[list[list[int]]]] = []  # of each vocabulary and head, behind each token with a state
        self._first = 0  # place of the first of them

    @torch.inference_mode()
    def begin(self, recorded: Recorded) -> None:
        self._recorded = recorded
        start = max(0, len(recorded.prompt) - 2)  # the token before the first root, or the root itself
        self._first = start - (len(recorded.prompt) - 2)
        self._best = [[[] for _ in self._widths] for _ in self._picks]
        hidden = states_of(recorded, start, len(recorded.prompt) + len(recorded.output) - 2, self._drafter.heads[0])
        self._drafter.choose_way(len(recorded.output))
        for block in () if hidden is None else torch.split(hidden, _BLOCK):
            for head, (width, logits) in enumerate(zip(self._widths, self._drafter.logits(block), strict=False)):
                for best, pick in zip(self._best, self._picks, strict=True):
                    best[head] += pick.rows.best(pick.of(logits), width).ids.tolist()

    def trees(self, place: int, depth: int, vocabularies: Sequence[int]) -> list[Tree]:
        assert self._recorded is not None
        root = [self._recorded.prompt[-1], *self._recorded.output][place]
        return [
            self._drafter.filled(root, self.best(place, number)[:depth]) if depth > 0 else Tree.chain(root)
            for number in vocabularies
        ]

    def best(self, place: int, vocabulary: int) -> list[list[int]]:
        """What each head drafts behind `place` tokens of the output, the best first; nothing where no state is."""
        row = place - self._first
        return [] if row < 0 else [ids[row] for ids in self._best[vocabulary]]


class _Opaque:
    """Any drafter that keeps the loop's protocol: it is led through the rounds that it would have had."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._recorded: Recorded | None = None
        self._draft: Draft | None = None
        self._place = 0

    def begin(self, recorded: Recorded) -> None:
        tokens = len(recorded.prompt) + len(recorded.output)
        self._drafter.begin(recorded.prompt, tokens, states_of(recorded, 0, len(recorded.prompt) - 1))
        self._recorded, self._draft, self._place = recorded, None, 0

    def trees(self, place: int, depth: int, vocabularies: Sequence[int]) -> list[Tree]:
        assert self._recorded is not None
        if self._draft is not None:
            emitted = self._recorded.output[self._place : place]
            path = right_path(self._draft.tree, emitted)
            first = len(self._recorded.prompt) - 1
            hidden = states_of(self._recorded, first + self._place, first + place)
            self._drafter.commit(self._draft, path[: len(emitted) - 1], emitted, hidden)
        self._draft, self._place = self._drafter.propose(depth, CHANCE), place
        if self._draft.draft_probs is not None:
            raise _sampled()
        return [self._draft.tree for _ in vocabularies]


def pick_rows(head: Head, ids: Ids | None) -> Pick:
    """A kept vocabulary's rows among a head's. Raises MismatchError for ids that the head has no row for."""
    if ids is None:
        return Pick(head, None, head.kept_ids)
    wanted, device = torch.tensor(ids), head.weight.device
    own = torch.arange(head.weight.shape[0]) if head.kept_ids is None else head.kept_ids.cpu()
    columns = torch.searchsorted(own, wanted).clamp(max=len(own) - 1)
    missing = wanted[own[columns] != wanted]
    if missing.numel():
        raise MismatchError(
            f"the drafter's head has no row for {missing.numel()} of the kept ids",
            expected=f"a subset of its {len(own)} ids",
            found=f"id {missing[0]}",
            remedy="replay the drafter that the kept vocabulary was chosen for, before it was cut",
        )
    whole = len(columns) == len(own)
    return Pick(head, None if whole else columns.to(device), wanted.to(device))


def states_of(recorded: Recorded, start: int, end: int, head: Head | None = None) -> torch.Tensor | None:
    """(end - start, states * hidden) of those tokens of prompt and output; None for none of them. head: whose dtype
    and device they are wanted in."""
    if recorded.hidden is None or start >= end:
        return None
    found = recorded.hidden[start:end]
    return found if head is None else found.to(head.weight.device, head.weight.dtype)


def _sampled() -> InputError:
    return InputError(
        "the drafter draws its drafts, so what would have been accepted hangs on chance",
        expected="deterministic drafting",
        found="a sampled chain",
        remedy="replay it with a greedy chain or a tree: Chain(length) or DynamicTree()",
    )
