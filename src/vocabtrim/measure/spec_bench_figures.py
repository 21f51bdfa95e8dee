"""What Spec-Bench's answer files say of a method: our figures, and those that Spec-Bench itself would print.

Pure arithmetic over `spec_bench.Answer`; knows no files. Ours are ratios of sums over turns that did not fail.
`upstream_figures` follows upstream's evaluation/speed.py, so that published numbers can be recognised. There

- "#Mean accepted tokens" is the mean over all target passes of what each emitted, the token that the target adds
  included: our block efficiency, but for failed turns and for what a script counts apart from its accept lengths;
- tokens per second is the mean over questions of each one's tokens / seconds, so a short answer weighs as much as a
  long one, where ours is all tokens / all seconds;
- the speed-up is one such mean over the other, not a mean of speed-ups, and questions are not matched: a file that
  broke off is compared with the whole of the other;
- the method's tokens are those that its script counted, with the stop token and at times more behind it; the
  baseline's are its texts tokenised again, less one for the BOS. So the baseline's stop tokens are not counted, and one
  token more of every answer is not where the tokenizer adds no BOS: all baselines are slower there than they were;
- failed turns count, with the numbers of the prompt before them; of several choices only the first is read.

Seconds include the reading of the prompt, in theirs and in ours here; `metrics.Summary` leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..cost import mbsu
from ..errors import MismatchError
from .spec_bench import Answer

OVERALL = "overall"
MT_BENCH = "mt_bench"

# speed.py's mt_bench_list
_OF_MT_BENCH = frozenset({"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"})


class Categorised(Protocol):
    """What may be grouped: an `Answer`, a `Pair`."""

    @property
    def category(self) -> str | None: ...


Grouped = TypeVar("Grouped", bound=Categorised)


def by_category(answers: Iterable[Grouped], *, merge_mt_bench: bool = True) -> dict[str, list[Grouped]]:
    """Answers or pairs by category, in the order in which categories come, and last all of them under "overall".

    merge_mt_bench: MT-Bench's eight categories as one, "mt_bench", as speed.py has them. What has no known category is
    under "overall" alone.
    """
    everything = list(answers)
    groups: dict[str, list[Grouped]] = {}
    for answer in everything:
        if answer.category is not None:
            merged = merge_mt_bench and answer.category in _OF_MT_BENCH
            groups.setdefault(MT_BENCH if merged else answer.category, []).append(answer)
    groups.pop(OVERALL, None)
    return {**groups, OVERALL: everything}


@dataclass(frozen=True)
class Figures:
    """Sums over turns that did not fail.

    turns, failed: how many entered, how many were left out.
    decoding_steps: target passes. wall_time: seconds, the reading of prompts included.
    recorded_passes: passes whose accept length is known. accepted_at[d]: those that accepted more than d draft tokens.
    """

    turns: int
    failed: int
    new_tokens: int
    decoding_steps: int
    wall_time: float
    recorded_passes: int
    accepted_at: tuple[int, ...]

    @property
    def block_efficiency(self) -> float:
        """Tokens per target pass; 0 without any."""
        return self.new_tokens / self.decoding_steps if self.decoding_steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second, the reading of prompts included; 0 without any."""
        return self.new_tokens / self.wall_time if self.wall_time else 0.0

    @property
    def acceptance_by_depth(self) -> tuple[float, ...]:
        """At each depth from 1: the share of passes that accepted so deep. Empty where nothing is recorded.

        Answer files do not tell how deep was drafted, so that every pass counts as if it had been: at depths that not
        all drafts reach, this is less than the same of `metrics.Summary`.
        """
        return tuple(accepted / self.recorded_passes for accepted in self.accepted_at)

    def mbsu(self, cost_ratio: float, steps: int) -> float:
        """Predicted speed-up, see `cost.mbsu`. steps: draft steps of one round."""
        return mbsu(self.block_efficiency, cost_ratio, steps)


def figures(answers: Iterable[Answer]) -> Figures:
    """Add up answers, of one category or of all."""
    everything = list(answers)
    good = [answer for answer in everything if not answer.failed]
    lengths = [length for answer in good for length in answer.accept_lengths or ()]
    return Figures(
        turns=len(good),
        failed=len(everything) - len(good),
        new_tokens=sum(answer.new_tokens for answer in good),
        decoding_steps=sum(answer.decoding_steps for answer in good),
        wall_time=sum(answer.wall_time for answer in good),
        recorded_passes=len(lengths),
        accepted_at=tuple(sum(length > depth for length in lengths) for depth in range(1, max(lengths, default=0))),
    )


@dataclass(frozen=True)
class Pair:
    """The same turn of the same question, by a method and by the baseline; neither failed."""

    method: Answer
    baseline: Answer

    @property
    def category(self) -> str | None:
        return self.method.category


def pairs(answers: Iterable[Answer], baseline: Iterable[Answer]) -> list[Pair]:
    """Match by question, choice and turn, in the order of `answers`; turns without a counterpart are left out.

    To compare by category, group the pairs. Raises MismatchError where the two share no turn, failed ones included.
    """
    by_turn = {(answer.question, answer.choice, answer.turn): answer for answer in baseline}
    method = list(answers)
    matched = [
        Pair(answer, by_turn[key])
        for answer in method
        if (key := (answer.question, answer.choice, answer.turn)) in by_turn
    ]
    if not matched and method:
        raise MismatchError(
            "the answers and those of the baseline are to different questions",
            expected=f"one of the {len(method)} answered turns",
            found=f"{len(by_turn)} others",
            remedy="pass the baseline's answers to the same question file",
        )
    return [pair for pair in matched if not pair.method.failed and not pair.baseline.failed]


@dataclass(frozen=True)
class Comparison:
    """Sums over pairs. same_text: pairs of one text, which greedy decoding of a lossless method gives throughout."""

    pairs: int
    same_text: int
    method: Figures
    baseline: Figures

    @property
    def speedup(self) -> float:
        """Tokens per second of the method / of the baseline, on the same turns; 0 without any.

        Tokens as the two scripts counted them, which for some methods includes a few behind an answer's end.
        """
        return self.method.tokens_per_second / self.baseline.tokens_per_second if self.pairs else 0.0


def compare(paired: Iterable[Pair]) -> Comparison:
    """Add up pairs, of one category or of all."""
    matched = list(paired)
    return Comparison(
        pairs=len(matched),
        same_text=sum(pair.method.text == pair.baseline.text for pair in matched),
        method=figures(pair.method for pair in matched),
        baseline=figures(pair.baseline for pair in matched),
    )


@dataclass(frozen=True)
class UpstreamFigures:
    """What speed.py prints. mean_accepted_tokens: None where a file without accept lengths makes upstream stop."""

    mean_accepted_tokens: float | None
    tokens_per_second: float
    baseline_tokens_per_second: float

    @property
    def speedup(self) -> float:
        """Upstream's "Speedup ratio"."""
        return self.tokens_per_second / self.baseline_tokens_per_second if self.baseline_tokens_per_second else 0.0


def upstream_figures(
    answers: Iterable[Answer], baseline: Iterable[Answer], count_ids: Callable[[str], int]
) -> UpstreamFigures:
    """Spec-Bench's own figures of one category, or of all, of two files; what they mean is told at the top.

    count_ids: ids that the target's tokenizer makes of a text, special ones included: len(tokenizer(text).input_ids).
    """
    method = _by_question(answers)
    lengths = [answer.accept_lengths for turns in method.values() for answer in turns]
    told = [length for of_turn in lengths for length in of_turn or ()]
    return UpstreamFigures(
        mean_accepted_tokens=sum(told) / len(told) if told and None not in lengths else None,
        tokens_per_second=_mean_of_questions(method, lambda answer: answer.new_tokens),
        baseline_tokens_per_second=_mean_of_questions(
            _by_question(baseline), lambda answer: count_ids(answer.text) - 1
        ),
    )


def _by_question(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    questions: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.choice == 0:
            questions.setdefault(answer.question, []).append(answer)
    return questions


def _mean_of_questions(questions: Mapping[str, Sequence[Answer]], tokens: Callable[[Answer], int]) -> float:
    speeds = [
        sum(tokens(answer) for answer in turns) / sum(answer.wall_time for answer in turns)
        for turns in questions.values()
    ]
    return sum(speeds) / len(speeds) if speeds else 0.0
