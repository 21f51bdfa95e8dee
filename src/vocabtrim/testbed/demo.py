"""The whole job on the built-in family: trim a drafter, then let it and the full one draft what the target writes.

Puts the public functions in order; knows no stage from inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.costs import drafter_cost
from ..checkpoint.layouts import MEDUSA
from ..cost import mbsu
from ..decoding.generate import Generation
from ..decoding.load import drafter_kind, load_drafter, load_target
from ..decoding.rounds import decode
from ..decoding.text import Piece, TargetText, TextStream
from ..job import Job, calibrate_and_trim
from ..measure.metrics import Summary, summarise
from .family import CALIBRATION, FAMILY, MEMBERS, HeldOut, calibration, held_out_prompts, member

DRAFTERS = tuple(name for name in MEMBERS if name != "target")
PLAIN, FULL, TRIMMED = WAYS = ("plain", "full head", "trimmed head")


@dataclass(frozen=True, eq=False)
class Written:
    """One answer, written one way. pieces: its text, with what of it was drafted and accepted."""

    generation: Generation
    pieces: tuple[Piece, ...]

    @property
    def tokens(self) -> list[int]:
        return self.generation.token_ids


@dataclass(frozen=True, eq=False)
class Compared:
    """One held-out prompt, answered in every way of WAYS."""

    prompt: HeldOut
    written: dict[str, Written]

    @property
    def same(self) -> bool:
        """Whether all ways wrote the same tokens."""
        first, *others = (way.tokens for way in self.written.values())
        return all(tokens == first for tokens in others)


@dataclass(frozen=True)
class Side:
    """What one way came to over all prompts. head_rows: of its drafter. mbsu: predicted from its block efficiency."""

    name: str
    summary: Summary
    head_rows: int | None
    mbsu: float


def trim_built_in(drafter: str, out: Path, *, family: Path = FAMILY) -> Job:
    """Count the carried calibration text, choose, trim and check. Raises as `member` and `calibrate_and_trim`."""
    return calibrate_and_trim(
        member(drafter, family=family),
        target=member("target", family=family),
        calibrate=[f"{origin}:{calibration(origin, family=family)}" for origin in CALIBRATION],
        out=out,
    )


def chosen_prompts(number: int, *, family: Path = FAMILY) -> list[HeldOut]:
    """The first `number` held-out prompts, one category after the other in turn."""
    by_category: dict[str, list[HeldOut]] = {}
    for prompt in held_out_prompts(family=family):
        by_category.setdefault(prompt.category, []).append(prompt)
    longest = max(map(len, by_category.values()))
    turns = (part[turn] for turn in range(longest) for part in by_category.values() if turn < len(part))
    return [prompt for prompt, _ in zip(turns, range(number), strict=False)]


class Comparison:
    """The target with no drafter, the full one and the trimmed one, opened once.

    In float32, where the order of two tokens does not hang on rounding: all ways must then write the same.
    """

    def __init__(self, drafter: str, trimmed: Path, *, family: Path = FAMILY) -> None:
        self._folder, self._target_folder = member(drafter, family=family), member("target", family=family)
        self._target = load_target(self._target_folder, dtype="float32")
        self._words = TargetText(self._target_folder)
        self._drafters = {
            PLAIN: None,
            FULL: load_drafter(self._folder, self._target),
            TRIMMED: load_drafter(trimmed, self._target),
        }
        self.kind = drafter_kind(self._folder, self._target_folder)

    def answer(self, prompt: HeldOut, max_new_tokens: int) -> Compared:
        """Greedy, one way after the other."""
        return Compared(prompt, {way: self._write(prompt, way, max_new_tokens) for way in WAYS})

    def _write(self, prompt: HeldOut, way: str, max_new_tokens: int) -> Written:
        ids = self._words.conversation(prompt.messages)
        rounds = decode(self._target, self._drafters[way], ids, max_new_tokens=max_new_tokens)
        stream = TextStream(self._words)
        kind = None if way == PLAIN else self.kind
        generation = Generation(rounds, stream, kind=kind, prompt_tokens=len(ids), seed=None)
        return Written(generation, tuple(generation))

    def sides(self, compared: Iterable[Compared], kept_size: int) -> list[Side]:
        """Every way over all prompts. kept_size: rows of the trimmed head."""
        cost = drafter_cost(self._folder, self._target_folder)
        rows = {PLAIN: None, FULL: cost.full_head_rows, TRIMMED: kept_size}
        answers = list(compared)
        found = []
        for way in WAYS:
            summary = summarise(round for answer in answers for round in answer.written[way].generation.rounds)
            steps = 1 if self.kind == MEDUSA else len(summary.drafted_at)  # one for each depth
            head_rows = rows[way]
            ratio = 0.0 if head_rows is None else cost.cost_ratio(head_rows)
            found.append(Side(way, summary, head_rows, mbsu(summary.block_efficiency, ratio, steps)))
        return found
