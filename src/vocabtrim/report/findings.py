"""What the numbers say, in sentences: the verdict, and a heading for every part of the page.

Knows words and when a difference may be called one; computes nothing that is not in the summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..measure.figures import Figures
from ..measure.paired import Paired
from ..measure.records import FULL
from ..vocabulary.choose_size import DO_NOT_TRIM, TRIM
from .summary import RunSummary
from .words import change, interval, milliseconds, number, share, size

UNDECIDED = "no difference can be told"
NOT_COMPARED = "not compared"

# Six questions that all say the same are the fewest that chance brings about in less than one of twenty cases (a sign
# test, two-sided: 2 / 2**6); from fewer no interval is to be relied on.
FEWEST_QUESTIONS = 6


@dataclass(frozen=True)
class Verdict:
    """kind: trim, do not trim, or one of the above. headline: read in five seconds. sentence: with the numbers.

    beside: against the target alone. caution: what speaks against relying on it; may be empty. alone_is_faster: than
    with the drafter, trimmed or not.
    """

    kind: str
    headline: str
    sentence: str
    beside: str
    caution: str
    alone_is_faster: bool = False


def verdict(run: RunSummary) -> Verdict:
    """The verdict on the picked head of a run."""
    if run.pick is None:
        return _untrimmed(run)
    pick = run.overall[run.pick]
    compared = run.over_full.get(run.pick)
    if compared is None:
        times = f"{pick.speedup:.2f} times as fast as the target alone"
        headline = f"{pick.kept_size:,} ids: {times}; the full head was not measured"
        sentence = f"With {pick.kept_size:,} ids the drafter makes {times} (95 %: {interval(pick.speedup_interval)})."
        return Verdict(NOT_COMPARED, headline, sentence, "", _caution(run))
    kind = _kind(compared)
    return Verdict(
        kind=kind,
        headline=_headline(kind, pick, compared),
        sentence=_sentence(kind, pick, compared),
        beside=_beside(pick),
        caution=_caution(run),
        alone_is_faster=_alone_is_faster(pick),
    )


def joint_headline(runs: Sequence[RunSummary]) -> str:
    """One line over several runs."""
    verdicts = [verdict(run) for run in runs]
    if len({told.headline for told in verdicts}) == 1:
        return verdicts[0].headline
    kinds = {told.kind for told in verdicts}
    picks = {None if run.pick is None else run.overall[run.pick].kept_size for run in runs}
    if len(picks) > 1 or kinds & {NOT_COMPARED}:
        return f"{len(runs)} runs, {len(kinds)} verdicts" if len(kinds) > 1 else f"{len(runs)} runs: {kinds.pop()}"
    speeds = ", ".join(f"{run.over_full[run.pick or ''].speed:.2f} ({run.label})" for run in runs)
    ids = f"{picks.pop():,} ids"
    if len(kinds) > 1:
        return f"The runs disagree on {ids}; against the full head: {speeds}"
    said = {TRIM: f"Trim to {ids}", DO_NOT_TRIM: f"Do not trim to {ids}", UNDECIDED: f"No difference with {ids}"}
    return f"{said[kinds.pop()]}; times as fast as the full head: {speeds}"


def _kind(compared: Paired) -> str:
    low, high = compared.speed_interval
    if compared.questions < FEWEST_QUESTIONS or low <= 1 <= high:
        return UNDECIDED
    return TRIM if low > 1 else DO_NOT_TRIM


def _headline(kind: str, pick: Figures, compared: Paired) -> str:
    times = f"{compared.speed:.2f} times as fast as with the full head"
    if kind == UNDECIDED:
        return f"No difference can be told between {pick.kept_size:,} ids and the full head"
    if kind == DO_NOT_TRIM:
        return f"Do not trim to {pick.kept_size:,} ids: {times}"
    if _alone_is_faster(pick):
        return f"Trimming to {pick.kept_size:,} ids helps, but the target alone is faster"
    return f"Trim to {pick.kept_size:,} ids: {times}"


def _sentence(kind: str, pick: Figures, compared: Paired) -> str:
    tokens = f"emits {change(compared.block_efficiency)} tokens per target pass"
    within = f"(95 %: {interval(compared.speed_interval)})"
    begun = f"Trimmed to {pick.kept_size:,} ids the drafter {tokens}"
    if compared.questions < FEWEST_QUESTIONS:
        few = number(compared.questions, "question")
        return f"{begun} and runs {compared.speed:.2f} times as fast as with its full head, on no more than {few}."
    if kind == UNDECIDED:
        return f"{begun}; that it is {compared.speed:.2f} times as fast as with its full head {within} may be chance."
    return f"{begun} and is {compared.speed:.2f} times as fast as with its full head {within}."


def _alone_is_faster(of: Figures) -> bool:
    return of.questions >= FEWEST_QUESTIONS and of.speedup_interval[1] < 1


def _beside(of: Figures) -> str:
    """A drafter beside none at all."""
    low, high = of.speedup_interval
    measured = f"{of.speedup:.2f} times as fast as alone (95 %: {interval(of.speedup_interval)})"
    if of.questions < FEWEST_QUESTIONS:
        return f"With it the target is {measured}, on too few questions to rely on."
    if low <= 1 <= high:
        return f"With it the target is {measured}: no difference can be told."
    if _alone_is_faster(of):
        return f"The target alone is faster here: with this drafter it is {measured}."
    return f"With it the target is {measured}."


def _untrimmed(run: RunSummary) -> Verdict:
    name = FULL if run.full else run.drafting[0]
    of = run.overall[name]
    headline = f"Only an untrimmed drafter was measured: {of.speedup:.2f} times as fast as the target alone"
    sentence = f"The drafter emits {of.summary.block_efficiency:.2f} tokens per target pass. {_beside(of)}"
    return Verdict(NOT_COMPARED, headline, sentence, "", _caution(run))


def _caution(run: RunSummary) -> str:
    told = []
    if run.questions < FEWEST_QUESTIONS:
        told.append(f"Fewer than {FEWEST_QUESTIONS} questions decide nothing: ask more.")
    answered = run.questions + len({failure.question for failure in run.failed})
    if answered < (asked := run.header.get("questions", 0)):
        told.append(f"The run is not finished: {answered} of {number(asked, 'question')} asked.")
    if run.failed:
        told.append(f"Failed, and in no figure: {number(len(run.failed), 'question')}.")
    if len(run.trimmed) > 1:
        told.append(
            f"It is the fastest of {len(run.trimmed)} trimmed heads measured; its lead over the others is not tested."
        )
    if (parity := _unequal(run)) is not None:
        told.append(parity)
    return " ".join(told)


def _unequal(run: RunSummary) -> str | None:
    unequal = {name: of.parity for name, of in run.overall.items() if of.parity and of.parity.same < of.parity.compared}
    if not unequal:
        return None
    answers = sum(parity.compared - parity.same for parity in unequal.values())
    return f"Not the target's own, token for token: {number(answers, 'answer')}; see below."


def coverage(run: RunSummary) -> str:
    """Heading of the coverage curve."""
    if run.pick is None:
        return "No trimmed head was measured"
    pick = run.overall[run.pick]
    return f"{pick.kept_size:,} ids cover {share(1 - pick.outside, 2)} of what was emitted"


def block_efficiency(run: RunSummary) -> str:
    """Heading of the block-efficiency curve."""
    if run.pick is None or not run.full:
        name = run.pick or run.drafting[0]
        return f"{run.overall[name].summary.block_efficiency:.2f} tokens per target pass"
    full, pick = (run.overall[name].summary.block_efficiency for name in (FULL, run.pick))
    return f"{pick:.2f} tokens per target pass, {full:.2f} with the full head"


def mbsu(run: RunSummary) -> str:
    """Heading of the MBSU curve."""
    if run.sizes is None:
        name = run.pick or run.drafting[0]
        beside = f", {run.overall[FULL].mbsu:.2f} with the full head" if run.full and name != FULL else ""
        return f"By bytes, {run.overall[name].mbsu:.2f} times the target alone{beside}"
    full, best = run.sizes.table.mbsu(None), run.sizes.best
    if best is None:
        return f"By bytes, no size beats the full head's {full:.2f}"
    return f"By bytes, {best:,} ids would be best: MBSU {run.sizes.table.mbsu(best):.2f}, full head {full:.2f}"


def speedup(run: RunSummary) -> str:
    """Heading of the speed-up curve."""
    name = run.pick or run.drafting[0]
    measured = f"Measured: {run.overall[name].speedup:.2f} times the target alone"
    if run.pick is None or not run.full:
        return measured
    return f"{measured}, {run.overall[FULL].speedup:.2f} with the full head"


def draft_step(run: RunSummary) -> str:
    """Heading of where a draft step's bytes and time go."""
    if run.pick is None or not run.full:
        step = run.steps[run.pick or run.drafting[0]]
        return f"A draft step reads {size(step.bytes)} and takes {milliseconds(step.seconds)}"
    full, pick = run.steps[FULL], run.steps[run.pick]
    return (
        f"A draft step reads {size(pick.bytes)} instead of {size(full.bytes)} "
        f"and takes {milliseconds(pick.seconds)} instead of {milliseconds(full.seconds)}"
    )


def acceptance(run: RunSummary) -> str:
    """Heading of acceptance by depth."""
    name = run.pick or run.drafting[0]
    by_depth = run.overall[name].summary.acceptance_by_depth
    if not by_depth:
        return "Nothing was drafted"
    first = f"{share(by_depth[0], 0)} of first drafts are accepted"
    if run.pick is None or not run.full or not run.overall[FULL].summary.acceptance_by_depth:
        return first
    return f"{first}, {share(run.overall[FULL].summary.acceptance_by_depth[0], 0)} with the full head"


def lost_tokens(run: RunSummary) -> str:
    """Heading of the lost tokens."""
    if run.lost is None or not run.lost.tokens:
        return "No emitted token was lost"
    lost = run.lost
    outside, in_prompt = share(lost.times / lost.emitted), share(lost.in_prompt / lost.times, 0)
    return f"{outside} of emitted tokens lie outside the head; {in_prompt} of them stood in the prompt"


def categories(run: RunSummary) -> str:
    """Heading of the table by category."""
    told = {name: compared for name, compared in run.pick_over_full.items() if name in run.figures}
    names = [name for name in run.figures if name in told][1:]
    if not names:
        return "By category"
    best, worst = max(names, key=lambda n: told[n].speed), min(names, key=lambda n: told[n].speed)
    if min(told[best].questions, told[worst].questions) < FEWEST_QUESTIONS:
        return "By category, of too few questions each to tell them apart"
    if f"{told[best].speed:.2f}" == f"{told[worst].speed:.2f}":
        return f"{told[best].speed:.2f} times as fast as the full head in every category"
    return f"From {told[worst].speed:.2f} times as fast as the full head on {worst} to {told[best].speed:.2f} on {best}"


def parity(run: RunSummary) -> str:
    """Heading of parity."""
    if not run.greedy:
        return "Sampled answers are not compared token for token"
    compared = [of.parity for of in run.overall.values() if of.parity is not None]
    answers, same = sum(p.compared for p in compared), sum(p.same for p in compared)
    if answers == same:
        return f"All {answers:,} drafted answers are the target's own, token for token"
    return f"{answers - same:,} of {answers:,} drafted answers differ from the target's own"
