"""tune: kept size, draft length and tree shape together, from what is measured here; written where others read it.

Puts the parts in order: the target answers questions once (`answers.py`), every kept vocabulary and shape is replayed
on that (`redrafted.py`, `reach.py`), stages are timed (`clock.py`), all combinations predicted (`predict.py`), the most
promising measured live (`race.py`), and judged (`verdict.py`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import torch

from ..checkpoint.read import open_checkpoint
from ..checkpoint.stored import fingerprint
from ..checkpoint.trim import trim
from ..checkpoint.tuned import Tuned
from ..decoding.drafters.medusa import MedusaDrafter
from ..decoding.drafters.protocol import Drafter
from ..decoding.drafters.stepping import SteppingDrafter
from ..decoding.lean.compiled import ready_kernels
from ..decoding.load import drafter_kind, load_drafter, load_target
from ..decoding.rounds import decode
from ..decoding.text import TargetText
from ..errors import InputError, MismatchError, UnsafeError, VocabTrimError
from ..hub import local_folder
from ..measure.bench import answer_seed
from ..measure.methods import Settings
from ..measure.questions import Question
from ..measure.recording import Recorded
from ..provenance import atomic_directory, birth_certificate, refuse_existing, this_machine
from ..vocabulary.kept import KeptVocabulary
from .answers import answer_turns, counted
from .clock import draft_as, time_stages
from .folder import fill
from .kept_sizes import kept_from_counts, read_counts
from .predict import Prediction, all_rounds, corrected, finalists, predictions
from .race import Answer, Contender, Race, race
from .reach import Reached, acceptance_by_depth
from .redrafted import Redrafted
from .shapes import DEPTH, Combination, shapes
from .stages import StageTimes
from .verdict import Verdict, judge

# Up to which share of the time each part goes on; the rest is the race's.
_RECORDING, _REPLAYING, _TIMING = 0.2, 0.4, 0.55
_FEWEST_TOKENS = 16  # of an answer, however slow the target is
_MANY_BYTES = 1 << 50
_GAIN = 1.01  # a refined prediction below this is not worth measuring

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Tuning:
    """What tuning did. out: the folder. kind: of the drafter. full_size: rows of its head as it is.

    verdict: with all that was measured. predicted: how many combinations were weighed. rounds, tokens: that were
    replayed. kept_sizes: that were tried. acceptance: of the pick by depth. tuned: as it was written. failed: questions
    that the target could not answer, and why. calibrated: what kept ids were chosen from, in words.
    """

    out: Path
    kind: str
    full_size: int
    verdict: Verdict
    predicted: int
    tokens: int
    kept_sizes: tuple[int, ...]
    acceptance: tuple[float, ...]
    times: StageTimes
    tuned: Tuned
    seconds: float
    calibrated: str
    failed: dict[str, str] = field(default_factory=dict)


def tune(
    target: str | Path,
    drafter: str | Path,
    questions: Sequence[Question],
    out: str | Path,
    *,
    calibrate: Sequence[str | Path] = (),
    kept: Sequence[str | Path | KeptVocabulary] = (),
    tokenizer: str | Path | None = None,
    settings: Settings | None = None,
    minutes: float = 5.0,
    strict: bool = False,
    say: Say = lambda line: None,
) -> Tuning:
    """Find the fastest kept size, draft length and tree shape on this machine, and write `out`.

    drafter: full, or trimmed already. calibrate: text or counts files that kept ids are chosen from, the first most
    like the work; where there are none, half of the questions is answered for that, and they measure nothing. kept:
    kept vocabularies to try in place of them. settings: how all generate; its draft length, nodes and branching must
    be None. minutes: how long about. strict: refuse, and write nothing, where the target alone is faster. say: told
    what is being done.
    Raises InputError without questions, where none could be answered, and for what is given twice, UnsafeError for a
    losing drafter under `strict`, and what `load_target`, `load_drafter`, `choose` and `trim` raise. `out` appears
    whole or not at all.
    """
    settings = settings or Settings()
    _prove_asked(questions, calibrate, kept, settings, minutes)
    refuse_existing(Path(out))
    given = [one if isinstance(one, KeptVocabulary) else KeptVocabulary.load(Path(one)) for one in kept]
    run = _Tune(local_folder(target), local_folder(drafter), settings, minutes, say)
    with atomic_directory(Path(out)) as folder:
        work = folder / "work"
        work.mkdir()
        found = run.tune(questions, work, calibrate=calibrate, kept=given, tokenizer=tokenizer, out=Path(out))
        if strict and not found.verdict.speculate:
            raise UnsafeError(found.verdict.reason, remedy="serve the target alone; nothing was written")
        size = found.verdict.picked.kept_size
        trimmed = size != found.full_size
        fill(folder, work / str(size) if trimmed else run.drafter_folder, found.tuned, ours=trimmed)
        shutil.rmtree(work)
    return found


class _Tune:
    """What is open while tuning, and how much time is left."""

    def __init__(self, target: Path, drafter: Path, settings: Settings, minutes: float, say: Say) -> None:
        self.began, self.seconds, self.say = monotonic(), 60 * minutes, say
        self.target_folder, self.drafter_folder, self.settings = target, drafter, settings
        self.kind = drafter_kind(drafter, target)
        self.target = load_target(target, dtype=settings.dtype, device=settings.device, lean=settings.lean)
        if self.target.lm.lean is not None:
            ready_kernels(_MANY_BYTES)  # what is timed is how it will be, not how it is while they are compiled
        self.full: Drafter = load_drafter(drafter, self.target)
        self.full_size = _head_rows(self.full)
        self.heads = len(self.full.heads) if isinstance(self.full, MedusaDrafter) else 0
        self.depth = self.heads or DEPTH
        self.drafters: dict[int, Drafter] = {self.full_size: self.full}
        self.failed: dict[str, str] = {}

    def within(self, share: float) -> bool:
        """Whether less than this share of the time has passed."""
        return monotonic() - self.began < share * self.seconds

    def left(self, share: float) -> float:
        return max(share * self.seconds - (monotonic() - self.began), 0.0)

    def tune(
        self,
        questions: Sequence[Question],
        work: Path,
        *,
        calibrate: Sequence[str | Path],
        kept: Sequence[KeptVocabulary],
        tokenizer: str | Path | None,
        out: Path,
    ) -> Tuning:
        words = TargetText(tokenizer or self.target_folder)
        counts = read_counts(calibrate, tokenizer or self.target_folder)
        own = not counts and not kept
        recorded, told = self._record(words, questions, own)
        tried = self._kept(kept, counts if not own else [counted(told, words.facts)] if told else [])
        self._prove_tokenizer(tried, words)
        sizes = [self.full_size, *(one.size for one in tried)]
        reached = self._replay([None, *(one.ids for one in tried)], recorded)
        cut = _Cut(self, tried, work)
        times = self._time(cut, recorded)
        passed = all_rounds(reached, sizes, shapes(self.kind, depth=self.depth, heads=self.heads))
        found = predictions(passed, times)
        verdict = judge(self._race(found, times, cut, recorded), self.full_size)
        place = (sizes.index(verdict.picked.kept_size), verdict.picked.shape.branching)
        return Tuning(
            out=out,
            kind=self.kind,
            full_size=self.full_size,
            verdict=verdict,
            predicted=len(found),
            tokens=sum(one.tokens for one in reached[place]),
            kept_sizes=tuple(sorted(sizes)),
            acceptance=tuple(acceptance_by_depth(reached[place], verdict.picked.shape)),
            times=times,
            tuned=self._tuned(verdict, found, times),
            seconds=monotonic() - self.began,
            calibrated=_source(calibrate, kept, told),
            failed=self.failed,
        )

    def _record(
        self, words: TargetText, questions: Sequence[Question], own: bool
    ) -> tuple[list[Recorded], list[Recorded]]:
        """Answers to measure on, with hidden states; and, where `own`, answers to choose kept ids from: to every other
        question."""
        self.say(f"the target answers {len(questions)} questions, as far as there is time")
        measuring: list[Recorded] = []
        choosing: list[Recorded] = []
        tokens = None
        for number, question in enumerate(questions):
            if measuring and (choosing or not own or len(questions) == 1) and not self.within(_RECORDING):
                break
            part = choosing if own and number % 2 else measuring
            try:
                tokens = tokens or self._tokens(words, question)
                part += answer_turns(
                    self.target,
                    words,
                    question,
                    settings=self.settings,
                    states=self.full.states if part is measuring else (),
                    max_new_tokens=tokens,
                )
            except (VocabTrimError, RuntimeError, MemoryError) as error:  # torch's own are RuntimeErrors
                self.failed[question.name] = " ".join(str(error).split())[:300] or type(error).__name__
        context = self.full.context
        fitting = [one for one in measuring if context is None or len(one.prompt) + len(one.output) <= context]
        if not fitting:
            raise InputError(
                "no question could be answered",
                found=next(iter(self.failed.values()), "none that fits the drafter's context"),
                remedy="see why, and pass questions that target and drafter have room for",
            )
        return fitting, choosing

    def _tokens(self, words: TargetText, question: Question) -> int:
        """How long answers may be, so that some fit into the time."""
        wanted = self.settings.max_new_tokens
        began, few = monotonic(), min(_FEWEST_TOKENS, wanted)
        answer = answer_turns(self.target, words, question, settings=self.settings, max_new_tokens=few)
        each = (monotonic() - began) / max(sum(len(one.output) for one in answer), 1)
        return max(few, min(wanted, int(self.left(_RECORDING) / (4 * len(question.turns) * each))))

    def _kept(self, given: Sequence[KeptVocabulary], counts: Sequence[Any]) -> list[KeptVocabulary]:
        if given or not counts:
            by_size = {one.size: one for one in given if one.size < self.full_size}
            return [by_size[size] for size in sorted(by_size)]
        self.say("choosing kept ids of several sizes")
        return kept_from_counts(
            counts, full_size=self.full_size, drafter=self.drafter_folder, target=self.target_folder
        )

    def _prove_tokenizer(self, tried: Sequence[KeptVocabulary], words: TargetText) -> None:
        for one in tried:
            if one.tokenizer_hash not in (None, words.facts.hash):
                raise MismatchError(
                    f"a kept vocabulary of {one.size:,} ids was chosen with another tokenizer than the target's",
                    expected=f"tokenizer {words.facts.hash[:12]}",
                    found=str(one.tokenizer_hash)[:12],
                    remedy="pass one that was chosen for this target",
                )

    def _replay(self, kept: Sequence[Any], recorded: Sequence[Recorded]) -> dict[tuple[int, int], list[Reached]]:
        self.say(f"replaying {len(kept)} kept sizes on {len(recorded)} answers, as far as there is time")
        reader = Redrafted(self.full, kept, self.depth)
        reached: dict[tuple[int, int], list[Reached]] = {}
        for number, one in enumerate(recorded):
            if number and not self.within(_REPLAYING):
                break
            for key, found in reader.read(one).items():
                reached.setdefault(key, []).append(found)
        return reached

    def _time(self, cut: _Cut, recorded: Sequence[Recorded]) -> StageTimes:
        """Of the full head, the smallest and one between them."""
        sizes = [self.full_size, *dict.fromkeys(cut.sizes[place] for place in (0, len(cut.sizes) // 2) if cut.sizes)]
        self.say(f"timing the stages of rounds, with {len(sizes)} kept sizes")
        return time_stages(
            self.target,
            {size: cut.drafter(size) for size in sizes},
            self.kind,
            recorded,
            depth=self.depth,
            sampling=self.settings.sampling,
            seconds=self.left(_TIMING),
        )

    def _race(self, found: Sequence[Prediction], times: StageTimes, cut: _Cut, recorded: Sequence[Recorded]) -> Race:
        chosen = finalists(found, self.full_size)
        tokens = self._race_tokens(found, chosen, times, recorded)
        self.say(f"{len(found)} combinations predicted; measuring {len(chosen)} of them beside the target alone")
        for size in {one.kept_size for one in chosen}:
            cut.drafter(size)

        def answer(contender: Contender, number: int) -> Answer:
            return self._answer(contender, recorded[number], tokens, cut)

        for contender in [None, *chosen]:  # warms up
            self._answer(contender, recorded[0], min(tokens, 2 * _FEWEST_TOKENS), cut)
        return race(
            chosen,
            len(recorded),
            answer,
            full_size=self.full_size,
            go_on=lambda: self.within(1.0),
            refine=lambda running: _refined(running, found, times),
        )

    def _race_tokens(
        self,
        found: Sequence[Prediction],
        chosen: Sequence[Combination],
        times: StageTimes,
        recorded: Sequence[Recorded],
    ) -> int:
        """How long answers may be, so that all can give a few in the time that is left."""
        speeds = {one.combination: one.tokens_per_second for one in found}
        each = times.alone + sum(1 / speeds[one] for one in chosen)
        longest = max(one.max_new_tokens or self.settings.max_new_tokens for one in recorded)
        return max(_FEWEST_TOKENS, min(longest, int(self.left(1.0) / (4 * each))))

    def _answer(self, contender: Contender, recorded: Recorded, tokens: int, cut: _Cut) -> Answer:
        drafter = None
        if contender is not None:
            drafter = draft_as(cut.drafter(contender.kept_size), self.kind, contender.shape, self.settings.sampling)
        generator = torch.Generator(self.target.lm.device)
        generator.manual_seed(answer_seed(self.settings.seed, recorded.name, 0))
        limit = min(tokens, recorded.max_new_tokens or tokens)
        rounds = list(
            decode(
                self.target,
                drafter,
                recorded.prompt,
                max_new_tokens=limit,
                sampling=self.settings.sampling,
                generator=generator,
            )
        )
        return Answer(
            emitted=sum(one.emitted for one in rounds),
            rounds=len(rounds),
            seconds=len(rounds) * median(one.seconds for one in rounds),
            draft_seconds=len(rounds) * median(one.draft_seconds for one in rounds),
        )

    def _tuned(self, verdict: Verdict, found: Sequence[Prediction], times: StageTimes) -> Tuned:
        picked, settings = verdict.picked, self.settings
        chains = [one for one in found if one.combination.kept_size == picked.kept_size]
        chain = next((one.combination.shape for one in chains if one.combination.shape.branching == 1), None)
        if picked.shape.branching == 1:
            chain = picked.shape
        return Tuned(
            speculate=verdict.speculate,
            verdict=verdict.verdict,
            reason=verdict.reason,
            kept_size=picked.kept_size,
            target=fingerprint(open_checkpoint(self.target_folder).tensors.values()),
            dtype=settings.dtype,
            device=settings.device,
            machine=this_machine(),
            **picked.shape.numbers,
            chain=None if chain is None else chain.draft_length,
            figures={
                "measured": [_told(one) for one in verdict.measured],
                "predicted": len(found),
                "alone_seconds": times.alone,
                "way": self.target.lm.way,
            },
            made=birth_certificate(
                {"threads": torch.get_num_threads(), "torch": torch.__version__, **asdict(settings)},
                {"drafter": fingerprint(open_checkpoint(self.drafter_folder).tensors.values())},
            ),
        )


class _Cut:
    """The drafter at its kept sizes: trimmed and loaded when first asked for. sizes: without the full head."""

    def __init__(self, run: _Tune, kept: Sequence[KeptVocabulary], work: Path) -> None:
        self._run, self._work = run, work
        self._kept = {one.size: one for one in kept}
        self.sizes = sorted(self._kept)

    def drafter(self, size: int) -> Drafter:
        drafters = self._run.drafters
        if size not in drafters:
            place = self._work / str(size)
            trim(self._run.drafter_folder, self._kept[size], target=self._run.target_folder, out=place)
            drafters[size] = load_drafter(place, self._run.target)
        return drafters[size]


def _refined(running: Race, found: Sequence[Prediction], times: StageTimes) -> list[Combination]:
    """Of the two best so far, what their kept size and branching predict once the stages are as they were seen."""
    drafting = [one for one in running.left if one is not None]
    asked = running.common(*drafting)
    best = sorted(drafting, key=lambda one: running.speedup(one, asked), reverse=True)[:2]
    new: list[Combination] = []
    for combination in best:
        answers = running.answers[combination].values()
        rounds = sum(one.rounds for one in answers)
        draft = sum(one.draft_seconds for one in answers) / rounds
        other = sum(one.seconds for one in answers) / rounds - draft
        again = corrected(
            found,
            (combination.kept_size, combination.shape.branching),
            times=times,
            draft_factor=draft / times.draft(combination.kept_size, combination.shape),
            pass_factor=other / times.verify(combination.shape),
        )
        before = next(one for one in again if one.combination == combination)
        if again[0].tokens_per_second > _GAIN * before.tokens_per_second:
            new.append(again[0].combination)
    return new


def _told(measured: Any) -> dict[str, Any]:
    """A contender for JSON."""
    combination = measured.combination
    return {
        "name": "autoregressive" if combination is None else f"{combination.kept_size} rows, {combination.shape}",
        "kept_size": None if combination is None else combination.kept_size,
        "draft_length": None if combination is None else combination.shape.draft_length,
        "branching": None if combination is None else combination.shape.branching,
        "nodes": None if combination is None else combination.shape.nodes,
        **{name: value for name, value in asdict(measured).items() if name != "combination"},
        "speedup_interval": list(measured.speedup_interval),
    }


def unlike_names(files: Sequence[Sequence[Question]]) -> list[Question]:
    """The questions of several files, the first of each, then the second of each; names told apart by the file's
    number."""
    turns = zip_longest(*files)
    several = len(files) > 1
    return [
        replace(question, name=f"{number}/{question.name}") if several else question
        for turn in turns
        for number, question in enumerate(turn, start=1)
        if question is not None
    ]


def _head_rows(drafter: Drafter) -> int:
    assert isinstance(drafter, SteppingDrafter | MedusaDrafter)
    head = drafter.heads[0] if isinstance(drafter, MedusaDrafter) else drafter.body.head
    return int(head.weight.shape[0])


def _source(calibrate: Sequence[Any], kept: Sequence[Any], told: Sequence[Recorded]) -> str:
    if calibrate:
        return ", ".join(map(str, calibrate))
    if kept:
        return "given kept vocabularies"
    tokens = sum(len(one.output) for one in told)
    return f"{tokens:,} tokens that the target answered to questions of their own" if told else "nothing"


def _prove_asked(
    questions: Sequence[Question],
    calibrate: Sequence[Any],
    kept: Sequence[Any],
    settings: Settings,
    minutes: float,
) -> None:
    if not questions:
        raise InputError("there is no question to answer", remedy="pass a question file that holds some")
    if calibrate and kept:
        raise InputError("both calibration text and kept vocabularies are given", remedy="give one of them")
    if (settings.draft_length, settings.nodes, settings.branching) != (None, None, None):
        raise InputError("draft length, nodes and branching are what is tuned", remedy="leave them out")
    if not 0 < minutes < float("inf"):
        raise InputError("no time to tune in", expected="minutes above 0", found=minutes, remedy="give some")
