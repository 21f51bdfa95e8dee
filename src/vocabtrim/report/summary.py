"""Runs, and what was counted -> everything that a page shows, as plain data.

Pure: sums and ratios, no words, no pictures, no files. What a run measured and what the counts predict stand apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..calibrate.counts import TokenCounts
from ..cost import Cost
from ..measure.figures import OVERALL, Figures, by_category, complete, figures, kept_ids
from ..measure.paired import Paired, paired
from ..measure.records import AUTOREGRESSIVE, FULL, Failed, Generated, Run
from .sizes import Sizes, sizes_of


@dataclass(frozen=True)
class DraftStep:
    """What one draft step of a method takes. seconds: mean, what is not the head's rows included."""

    body_bytes: int
    head_bytes: int
    seconds: float

    @property
    def bytes(self) -> int:
        return self.body_bytes + self.head_bytes


@dataclass(frozen=True)
class LostToken:
    """An emitted id that the head cannot draft. times: emitted. in_prompt: of these, where the prompt held it too."""

    token: int
    times: int
    in_prompt: int


@dataclass(frozen=True)
class Lost:
    """What a trimmed head cannot draft of what was emitted with it. tokens: every lost id, the most frequent first."""

    tokens: tuple[LostToken, ...]
    emitted: int

    @property
    def times(self) -> int:
        return sum(token.times for token in self.tokens)

    @property
    def in_prompt(self) -> int:
        return sum(token.in_prompt for token in self.tokens)


@dataclass(frozen=True)
class RunSummary:
    """A run. figures: by category, `OVERALL` first, then by method.

    full: whether the full head was measured. trimmed: names of its trims, by kept size. pick: the one that is judged.
    over_full: of every trim. pick_over_full: by category; empty without a pick and a full head.
    steps: by method with a drafter. failed: questions that enter no figure. sizes: None without counts or full head.
    """

    label: str
    header: Mapping[str, Any]
    figures: Mapping[str, Mapping[str, Figures]]
    full: bool
    trimmed: tuple[str, ...]
    pick: str | None
    over_full: Mapping[str, Paired]
    pick_over_full: Mapping[str, Paired]
    steps: Mapping[str, DraftStep]
    lost: Lost | None
    failed: tuple[Failed, ...]
    sizes: Sizes | None

    @property
    def overall(self) -> Mapping[str, Figures]:
        return self.figures[OVERALL]

    @property
    def questions(self) -> int:
        return self.overall[AUTOREGRESSIVE].questions

    @property
    def greedy(self) -> bool:
        return bool(self.header["identity"]["temperature"] == 0)

    @property
    def drafting(self) -> list[str]:
        """Methods with a drafter, in the run's order."""
        return list(self.steps)


def summarise_runs(runs: Mapping[str, Run], counts: Sequence[TokenCounts] = ()) -> list[RunSummary]:
    """Runs by label, as `runs.open_runs` proved them. counts: the primary first, as for `choose`; may be empty.

    One head is judged: of the trims that all runs measured the fastest over all of them, else each run's own fastest.
    Raises MismatchError for counts of another tokenizer than the runs', InputError for counts without a token.
    """
    measured = {label: _by_method(run) for label, run in runs.items()}
    pick = _common_pick(list(runs.values()), list(measured.values()))
    return [_summary(label, run, measured[label], pick, counts) for label, run in runs.items()]


def _by_method(run: Run) -> dict[str, dict[str, Figures]]:
    """Category -> method -> figures."""
    return {category: {part.method: part for part in parts} for category, parts in figures(run, kept_ids(run)).items()}


def _common_pick(runs: Sequence[Run], measured: Sequence[Mapping[str, Mapping[str, Figures]]]) -> str | None:
    """The trim, the same in all runs, whose speeds have the largest product; None where there is none."""
    trims = [{(name, run.header["identity"]["methods"].get(name)) for name in _trims(run)} for run in runs]
    common = sorted(name for name, _ in set.intersection(*trims))

    def speed(name: str) -> float:
        return math.prod(found[OVERALL][name].summary.tokens_per_second for found in measured)

    return max(common, key=speed, default=None)


def _summary(
    label: str,
    run: Run,
    found: Mapping[str, Mapping[str, Figures]],
    common_pick: str | None,
    counts: Sequence[TokenCounts],
) -> RunSummary:
    told = {method["name"]: method for method in run.header["methods"]}
    questions, overall = complete(run), found[OVERALL]
    trimmed = _trims(run)
    fastest = max(trimmed, key=lambda name: overall[name].summary.tokens_per_second, default=None)
    pick = fastest if common_pick is None else common_pick
    compared = {} if FULL not in told else {name: paired(questions, name, FULL) for name in trimmed}
    pick_over_full = {}
    if pick in compared:
        pick_over_full = {name: paired(part, pick, FULL) for name, part in by_category(questions).items()}
    kept = [told[name]["kept_size"] for name in trimmed]
    return RunSummary(
        label=label,
        header=run.header,
        figures=found,
        full=FULL in told,
        trimmed=trimmed,
        pick=pick,
        over_full=compared,
        pick_over_full=pick_over_full,
        steps={name: _step(method, overall[name]) for name, method in told.items() if method["cost"] is not None},
        lost=None if pick is None else _lost(questions, pick, told[pick]["kept_ids"]),
        failed=tuple({failure.question: failure for failure in run.failed.values()}.values()),
        sizes=sizes_of(run, overall[FULL].summary, kept, counts) if counts and FULL in told else None,
    )


def _trims(run: Run) -> tuple[str, ...]:
    """Trims of the full drafter: of its kind, with fewer rows; without a full one, every head that drafts not all."""
    told = {method["name"]: method for method in run.header["methods"]}
    full = told.get(FULL)
    if full is None:
        names = [name for name, method in told.items() if method["kept_ids"] is not None]
    else:
        names = [
            name
            for name, method in told.items()
            if method["kept_ids"] is not None
            and method["kind"] == full["kind"]
            and method["kept_size"] < full["kept_size"]
        ]
    return tuple(sorted(names, key=lambda name: told[name]["kept_size"]))


def _step(method: Mapping[str, Any], measured: Figures) -> DraftStep:
    cost = Cost(**method["cost"])
    by_depth = measured.summary.drafted_at
    steps = sum(by_depth) if cost.sequential else sum(by_depth[:1])
    return DraftStep(
        body_bytes=cost.drafter_body_bytes,
        head_bytes=cost.head_bytes(method["kept_size"]),
        seconds=measured.summary.draft_seconds / steps if steps else 0.0,
    )


def _lost(questions: Sequence[Sequence[Generated]], method: str, kept: Sequence[int]) -> Lost:
    held = set(kept)
    times: Counter[int] = Counter()
    in_prompt: Counter[int] = Counter()
    emitted = 0
    for answer in (answer for answers in questions for answer in answers if answer.method == method):
        lost, prompt = [token for token in answer.token_ids if token not in held], set(answer.prompt_ids)
        emitted += len(answer.token_ids)
        times.update(lost)
        in_prompt.update(token for token in lost if token in prompt)
    ranked = sorted(times, key=lambda token: (-times[token], token))
    return Lost(tuple(LostToken(token, times[token], in_prompt[token]) for token in ranked), emitted)
