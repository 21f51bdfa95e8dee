"""replay: recorded target output in, what kept vocabularies and a drafter would reach on it out. No target runs.

Puts the parts together: recordings (`recordings.py`), what the text alone says (`text_coverage.py`), and the rounds
that a drafter would have had (`replay_rounds.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ..calibrate.tokenizer import OpenTokenizer, open_tokenizer
from ..checkpoint.costs import drafter_cost
from ..checkpoint.layouts import INDEPENDENT
from ..cost import Cost, mbsu
from ..decoding.drafters.choose_plan import choose_plan, plan_depth
from ..decoding.drafters.medusa import MedusaDrafter
from ..decoding.drafters.protocol import Drafter
from ..decoding.drafters.stepping import SteppingDrafter
from ..decoding.lean.compiled import ready_kernels
from ..decoding.load import drafter_kind, load_drafter, open_ends
from ..decoding.sampling import Sampling
from ..errors import InputError, MismatchError
from ..hub import local_folder
from ..vocabulary.dialects import read_map
from ..vocabulary.kept import Ids, KeptVocabulary
from .metrics import Summary, summarise
from .recording import Recorded
from .recordings import Recordings
from .redraft import redraft
from .replay_rounds import ReplayedRound, replay_rounds
from .text_coverage import CoverageTally, TextCoverage

FULL, OWN = "full head", "own head"
TOO_LONG = "longer than the drafter's context"


@dataclass(frozen=True)
class ReplayedGeneration:
    """A generation that was replayed, without its tokens."""

    name: str
    source: str
    category: str
    tokens: int


@dataclass(frozen=True, eq=False)
class ReplayedVocabulary:
    """What one kept vocabulary came to.

    name: of its file; FULL or OWN for the drafter's head as it is. kept_size: its ids. text: how much of the output
    could be drafted at all.
    rounds: those of each generation, in the order of `Replayed.generations`; None without a drafter. mbsu: predicted
    from the block efficiency and the bytes of a draft step; None without a drafter and its target. depth: planned; None
    without a plan.
    """

    name: str
    kept_size: int
    text: TextCoverage
    rounds: tuple[tuple[ReplayedRound, ...], ...] | None = None
    cost: Cost | None = None
    depth: int | None = None

    @cached_property
    def summary(self) -> Summary | None:
        """All rounds together; None without a drafter."""
        return None if self.rounds is None else summarise(round for part in self.rounds for round in part)

    @property
    def mbsu(self) -> float | None:
        summary = self.summary
        if summary is None or self.cost is None:
            return None
        steps = self.cost.steps(self.depth or len(summary.drafted_at))
        return mbsu(summary.block_efficiency, self.cost.cost_ratio(self.kept_size), steps)


@dataclass(frozen=True, eq=False)
class Replayed:
    """kept: the drafter's own head first, where there is a drafter, then the others as they were named.
    kind: of the drafter. skipped: why recorded output was left out, and how often. token_text: lost ids as text, as far
    as a tokenizer is there."""

    kept: tuple[ReplayedVocabulary, ...]
    generations: tuple[ReplayedGeneration, ...]
    kind: str | None
    skipped: dict[str, int] = field(default_factory=dict)
    token_text: dict[int, str] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Emitted, over all generations."""
        return sum(generation.tokens for generation in self.generations)

    def by_category(self, vocabulary: ReplayedVocabulary) -> dict[str, Summary]:
        """Category -> its rounds together, in the order of their first appearance; empty without a drafter."""
        parts: dict[str, list[ReplayedRound]] = {}
        for generation, rounds in zip(self.generations, vocabulary.rounds or (), strict=False):
            parts.setdefault(generation.category, []).extend(rounds)
        return {category: summarise(rounds) for category, rounds in parts.items()}


@dataclass(frozen=True, eq=False)
class _Vocabulary:
    """ids: ascending; None for all of a full head."""

    name: str
    ids: Ids | None
    size: int
    tokenizer_hash: str | None = None
    target_vocab: int | None = None


def replay(
    recorded: Sequence[str | Path],
    *,
    drafter: str | Path | None = None,
    target: str | Path | None = None,
    kept: Sequence[str | Path | KeptVocabulary] = (),
    tokenizer: str | Path | None = None,
    draft_length: int | None = None,
    nodes: int | None = None,
    branching: int | None = None,
    group_by: str | None = None,
    limit: int | None = None,
    keep_loops: bool = False,
    dtype: str = "bfloat16",
    device: str = "cpu",
    lean: bool = True,
    seen: Callable[[int, int], None] = lambda generations, tokens: None,
) -> Replayed:
    """What would have been accepted of a drafter's drafts, and how much of the text each kept vocabulary covers.

    recorded, group_by, limit, keep_loops: see `Recordings`. drafter: full, or trimmed already; None reads the text
    alone. target: its folder, of which embedding and head are read at most; needed by drafters that are none by
    themselves. kept: maps of any dialect, folders that hold one, or kept vocabularies; each is replayed as if the
    drafter's head were cut to it. tokenizer: the target's, by default that in the folder of target or drafter.
    draft_length, nodes, branching: see `choose_plan`; drafting is deterministic. lean: see
    `load_target`. seen: called behind every generation
    with the numbers so far.
    Raises InputError where there is nothing to compare, MismatchError for recordings, maps and drafters that do not
    belong together, and what `Recordings`, `load_drafter` and `read_map` raise. Nothing is written.
    """
    _prove_asked(drafter, kept, {"draft_length": draft_length, "nodes": nodes, "branching": branching})
    vocabularies = _read_kept(kept)
    opened = _tokenizer(tokenizer, target, drafter)
    read = Recordings(recorded, opened, group_by=group_by, limit=limit, keep_loops=keep_loops)
    _prove_tokenizer(vocabularies, read.tokenizer_hash)
    drafting: Drafter | None = None
    kind = cost = depth = None
    vocab: int | None = None
    if drafter is not None:
        kind = _kind(drafter, target)
        plan = choose_plan(kind, Sampling(), draft_length=draft_length, nodes=nodes, branching=branching)
        folder, alone = drafter if target is None else target, target is None
        ends = open_ends(folder, dtype=dtype, device=device, alone=alone, lean=lean)
        if lean:
            ready_kernels(float("inf"))  # so that all is computed one way
        vocab, drafting = ends.vocab, load_drafter(drafter, ends, plan=plan)
        vocabularies, depth = [_own(drafting), *vocabularies], plan_depth(plan)
        read.want(drafting.states)
        cost = None if target is None else drafter_cost(local_folder(drafter), local_folder(target))
    run = _Run(vocabularies, drafting, vocab)
    for generation in read:
        run.add(generation)
        seen(len(run.generations), run.tokens)
    if not run.generations:
        left_out = read.skipped + run.skipped
        raise InputError(
            "no generation is left to replay",
            expected="recorded output",
            found=", ".join(f"{count:,} left out: {reason}" for reason, count in left_out.items()) or "none",
            remedy="name other recordings, or a drafter with a longer context",
        )
    results = run.results(cost, depth)
    return Replayed(
        kept=results,
        generations=tuple(run.generations),
        kind=kind,
        skipped=dict(read.skipped + run.skipped),
        token_text={} if opened is None else _token_text(opened, results),
    )


class _Run:
    """Generations as they are replayed."""

    def __init__(self, vocabularies: Sequence[_Vocabulary], drafter: Drafter | None, vocab: int | None) -> None:
        self._vocabularies, self._drafter = vocabularies, drafter
        self._tallies = [CoverageTally(vocabulary.ids) for vocabulary in vocabularies]
        self._rounds: list[list[tuple[ReplayedRound, ...]]] = [[] for _ in vocabularies]
        self._drafting = None if drafter is None else redraft(drafter, [one.ids for one in vocabularies])
        limits = [vocab, *(vocabulary.target_vocab for vocabulary in vocabularies)]
        self._vocab = min((limit for limit in limits if limit is not None), default=None)
        self.generations: list[ReplayedGeneration] = []
        self.tokens = 0
        self.skipped: Counter[str] = Counter()

    def add(self, recorded: Recorded) -> None:
        _prove_ids(recorded, self._vocab)
        context = None if self._drafter is None else self._drafter.context
        if context is not None and len(recorded.prompt) + len(recorded.output) > context:
            self.skipped[TOO_LONG] += 1
            return
        for tally in self._tallies:
            tally.add(recorded)
        if self._drafting is not None:
            replayed = replay_rounds(recorded, self._drafting, len(self._vocabularies))
            for part, rounds in zip(self._rounds, replayed, strict=True):
                part.append(tuple(rounds))
        self.generations.append(
            ReplayedGeneration(recorded.name, recorded.source, recorded.category, len(recorded.output))
        )
        self.tokens += len(recorded.output)

    def results(self, cost: Cost | None, depth: int | None) -> tuple[ReplayedVocabulary, ...]:
        return tuple(
            ReplayedVocabulary(
                vocabulary.name,
                vocabulary.size,
                tally.result(),
                None if self._drafter is None else tuple(rounds),
                cost,
                depth,
            )
            for vocabulary, tally, rounds in zip(self._vocabularies, self._tallies, self._rounds, strict=True)
        )


def _prove_asked(drafter: str | Path | None, kept: Sequence[object], plan: dict[str, int | None]) -> None:
    if drafter is None and not kept:
        raise InputError(
            "nothing to replay", expected="a drafter, kept vocabularies, or both", remedy="pass --drafter or --kept"
        )
    if drafter is None and any(number is not None for number in plan.values()):
        raise InputError("nothing is drafted without a drafter", remedy="pass --drafter, or leave its options out")


def _kind(drafter: str | Path, target: str | Path | None) -> str:
    kind = drafter_kind(drafter, target)
    if target is None and kind != INDEPENDENT:
        raise InputError(
            f"{drafter} is a drafter of kind {kind}, which is built on its target",
            remedy="pass --target; its layers are not loaded",
        )
    return kind


def _read_kept(maps: Iterable[str | Path | KeptVocabulary]) -> list[_Vocabulary]:
    found: list[_Vocabulary] = []
    for one in maps:
        if isinstance(one, KeptVocabulary):
            found.append(_Vocabulary(f"{one.size:,} ids", one.ids, one.size, one.tokenizer_hash, one.target_vocab))
            continue
        path = Path(one)
        read = read_map(path)
        name = path.name if path.is_dir() else path.stem
        taken = {FULL, OWN, *(other.name for other in found)}
        ids = np.sort(read.ids)
        vocabulary = (ids, ids.size, read.tokenizer_hash, read.target_vocab)
        found.append(_Vocabulary(name if name not in taken else str(path), *vocabulary))
    return found


def _own(drafter: Drafter) -> _Vocabulary:
    """The head of a drafter that was opened, as it is."""
    assert isinstance(drafter, SteppingDrafter | MedusaDrafter)
    head = drafter.heads[0] if isinstance(drafter, MedusaDrafter) else drafter.body.head
    ids = None if head.kept_ids is None else head.kept_ids.cpu().numpy()
    return _Vocabulary(FULL if ids is None else OWN, ids, head.weight.shape[0])


def _tokenizer(*places: str | Path | None) -> OpenTokenizer | None:
    """The tokenizer that was named, or the one in the first folder that has one; None where none does."""
    named, *folders = places
    if named is not None:
        return open_tokenizer(named)
    local = [local_folder(folder) for folder in folders if folder is not None]
    return next((open_tokenizer(folder) for folder in local if (folder / "tokenizer.json").is_file()), None)


def _token_text(opened: OpenTokenizer, vocabularies: Iterable[ReplayedVocabulary]) -> dict[int, str]:
    """Of ids that are no whole characters, what the tokenizer calls them."""
    found: dict[int, str] = {}
    for token in {lost.token for vocabulary in vocabularies for lost in vocabulary.text.lost}:
        text = opened.tokenizer.decode([token], skip_special_tokens=False)
        found[token] = text if text and "\ufffd" not in text else opened.tokenizer.id_to_token(token) or ""
    return found


def _prove_tokenizer(vocabularies: Sequence[_Vocabulary], tokenizer_hash: str | None) -> None:
    for vocabulary in vocabularies:
        found = vocabulary.tokenizer_hash
        if None not in (found, tokenizer_hash) and found != tokenizer_hash:
            raise MismatchError(
                f"the ids of {vocabulary.name} were chosen with another tokenizer than that of the recordings",
                expected=f"tokenizer {str(tokenizer_hash)[:12]}",
                found=str(found)[:12],
                remedy="pass kept vocabularies and recordings of one target",
            )


def _prove_ids(recorded: Recorded, vocab: int | None) -> None:
    largest = max((*recorded.prompt, *recorded.output))
    if vocab is not None and largest >= vocab:
        raise MismatchError(
            f"generation {recorded.name} of {recorded.source} holds an id that drafter and kept ids do not know",
            expected=f"0 to {vocab - 1}",
            found=largest,
            remedy="pass recordings of the drafter's own target, and its --tokenizer",
        )
