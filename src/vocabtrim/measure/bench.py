"""Questions answered by the target alone and by every drafter in turn, each generation recorded as it was.

Methods take turns question by question, each time beginning with another one, so that whatever the machine does
befalls all alike. A second turn follows the autoregressive answer to the first: all methods read the same prompt.
Knows how target, drafters and records go together; figures are figures.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter

import torch

from ..decoding.drafters.protocol import Drafter
from ..decoding.load import load_drafter, load_target
from ..decoding.rounds import Round, decode
from ..decoding.stopping import Reason
from ..decoding.target import Target
from ..decoding.text import TargetText
from ..errors import InputError, VocabTrimError
from ..hub import local_folder
from .methods import Method, Settings, methods_of, recording_header, run_header
from .parity import first_difference, logit_gap
from .prompts import prompt_of
from .questions import Question
from .recording import Recorded, RecordingWriter
from .records import AUTOREGRESSIVE, Difference, Failed, Generated, Key, RecordedRound, Run, RunWriter
from .state_recorder import StateRecorder

Seen = Callable[[Run, int, int], None]
_WARM_UP = 8  # tokens that every method emits before anything is measured


def bench(
    target: str | Path,
    questions: Sequence[Question],
    *,
    out: Path,
    drafter: str | Path | None = None,
    trimmed: Sequence[str | Path] = (),
    tokenizer: str | Path | None = None,
    settings: Settings | None = None,
    record: Path | None = None,
    record_states: bool = False,
    seen: Seen = lambda run, done, wanted: None,
) -> Run:
    """Answer every question by the target alone, with `drafter` and with every one of `trimmed`; record into `out`.

    A run in `out` that was cut off goes on; answers that failed are tried once more. record: folder for a recording of
    what the target alone emits, for `replay`; record_states: with the hidden states that the drafters read, taken in a
    pass of their own, so that the one that is timed is not slower for it. seen: called behind every answer
    with the run so far, the number of answers and of all that are wanted.
    Raises InputError without questions, and for methods that have one name; what `load_target`, `load_drafter` and
    `RunWriter` raise. An answer that cannot be given (a prompt that is too long, say) is recorded as failed.
    """
    if not questions:
        raise InputError("there is no question to answer", remedy="pass a question file that holds some")
    settings = settings or Settings()
    folder = local_folder(target)
    words = TargetText(tokenizer or folder)
    methods = methods_of(folder, drafter, trimmed, settings)
    header = run_header(folder, tokenizer or folder, methods, questions, settings)
    with RunWriter(Path(out), header) as writer:
        opened = load_target(folder, dtype=settings.dtype, device=settings.device, lean=settings.lean)
        opened.lm.wait()  # so that all answers are computed one way
        running = _Bench(opened, words, settings, writer)
        for method in methods:
            running.open(method)
        if record is None:
            running.answer(questions, seen)
        else:
            states = running.states if record_states else ()
            with RecordingWriter(Path(record), recording_header(header, settings, states)) as recording:
                running.answer(questions, seen, recording)
    return writer.run


class _Bench:
    """What is open while questions are answered."""

    def __init__(self, target: Target, words: TargetText, settings: Settings, writer: RunWriter) -> None:
        self.target, self.words, self.settings, self.writer = target, words, settings, writer
        self.drafters: dict[str, Drafter | None] = {}

    def open(self, method: Method) -> None:
        """Load what a method drafts with."""
        self.drafters[method.name] = None if method.folder is None else self._drafter(method)

    def _drafter(self, method: Method) -> Drafter:
        assert method.folder is not None and method.kind is not None
        return load_drafter(method.folder, self.target, plan=self.settings.plan(method.kind, method.tuned))

    @property
    def states(self) -> tuple[int, ...]:
        """The hidden states that any of the drafters reads."""
        read = (state for drafter in self.drafters.values() if drafter is not None for state in drafter.states)
        return tuple(dict.fromkeys(read))

    def answer(self, questions: Sequence[Question], seen: Seen, recording: RecordingWriter | None = None) -> None:
        """All questions, by all methods."""
        methods, run = list(self.drafters), self.writer.run
        wanted = sum(len(question.turns) for question in questions) * len(methods)
        self._prove_same(questions)
        self._warm_up(questions[0])
        for number, question in enumerate(questions):
            first = number % len(methods)
            for turn in range(len(question.turns)):
                for method in [*methods[first:], *methods[:first]]:
                    if (question.name, turn, method) not in run.generated:
                        self.writer.append(self._answer(question, turn, method))
                    seen(run, len(run.generated) + len(run.failed), wanted)
                self._compare(question, turn)
                if recording is not None:
                    self._keep(question, turn, recording)

    def _prove_same(self, questions: Sequence[Question]) -> None:
        """What the run holds answers these very questions; names alone may be "line 1" in any file."""
        for question in questions:
            for turn in range(len(question.turns)):
                given = self.writer.run.generated.get((question.name, turn, AUTOREGRESSIVE))
                if given is not None and list(given.prompt_ids) != self._prompt(question, turn):
                    raise InputError(
                        f"{self.writer.folder} holds answers to another question {question.name}",
                        expected=f"a prompt of {len(given.prompt_ids)} tokens",
                        found=f"another: {question.turns[turn][:80]!r}",
                        remedy="choose another --out, or repeat the command that began the run",
                    )

    def _warm_up(self, question: Question) -> None:
        try:
            prompt = self._prompt(question, 0)
            for drafter in self.drafters.values():
                list(decode(self.target, drafter, prompt, max_new_tokens=_WARM_UP))
        except VocabTrimError:  # will be said of the answer itself
            return

    def _prompt(self, question: Question, turn: int) -> list[int]:
        """Ids of what stands before the answer to a turn: earlier turns with their autoregressive answers."""
        return prompt_of(
            self.words, question, turn, lambda place: self._given(question, place), chat=self.settings.chat
        )

    def _given(self, question: Question, turn: int) -> str:
        given = self.writer.run.generated.get((question.name, turn, AUTOREGRESSIVE))
        if given is None:
            raise InputError(
                f"turn {turn + 1} was not answered by the target alone", remedy="see why, in the record of that turn"
            )
        return self.words.decode(given.token_ids)

    def _decode(self, drafter: Drafter | None, prompt: Sequence[int], question: str, turn: int) -> Iterator[Round]:
        """An answer's rounds, by the chance of its own that every answer has."""
        told, generator = self.settings, torch.Generator(self.target.lm.device)
        generator.manual_seed(answer_seed(told.seed, question, turn))
        return decode(
            self.target,
            drafter,
            prompt,
            max_new_tokens=told.max_new_tokens,
            sampling=told.sampling,
            generator=generator,
        )

    def _answer(self, question: Question, turn: int, method: str) -> Generated | Failed:
        rounds: list[Round] = []
        try:
            prompt = self._prompt(question, turn)
            began = perf_counter()
            for round in self._decode(self.drafters[method], prompt, question.name, turn):
                if not rounds:
                    prompt_seconds = perf_counter() - began - round.seconds
                rounds.append(round)
        except (VocabTrimError, RuntimeError, MemoryError) as error:  # torch's own are RuntimeErrors
            reason = " ".join(str(error).split())[:500] or type(error).__name__
            return Failed(question.name, question.category, turn, method, reason)
        ended = rounds[-1].ended
        assert ended is not None
        return Generated(
            question=question.name,
            category=question.category,
            turn=turn,
            method=method,
            prompt_ids=tuple(prompt),
            token_ids=tuple(token for round in rounds for token in round.tokens),
            ended=ended.value,
            prompt_seconds=prompt_seconds,
            rounds=tuple(map(_recorded, rounds)),
            turns=len(question.turns),
        )

    def _keep(self, question: Question, turn: int, recording: RecordingWriter) -> None:
        """Add the autoregressive answer to a recording."""
        given = self.writer.run.generated.get((question.name, turn, AUTOREGRESSIVE))
        name = f"{question.name}/{turn + 1}"
        if given is None or name in recording.names:
            return
        recording.append(
            Recorded(
                name=name,
                prompt=given.prompt_ids,
                output=given.token_ids,
                category=question.category,
                ended=Reason(given.ended),
                max_new_tokens=self.settings.max_new_tokens,
                hidden=self._states_of(given, recording.header.states) if recording.header.states else None,
            )
        )

    def _states_of(self, given: Generated, states: tuple[int, ...]) -> torch.Tensor:
        """The hidden states behind an answer, token by token as it was emitted."""
        recorder = StateRecorder(states)
        again = self._decode(recorder, given.prompt_ids, given.question, given.turn)
        emitted = tuple(token for round in again for token in round.tokens)
        if emitted != given.token_ids:
            raise InputError(
                f"the target does not emit its answer to question {given.question} again, so it cannot be recorded",
                expected=f"{len(given.token_ids)} tokens",
                found=f"others from token {first_difference(given.token_ids, emitted)} on",
                remedy="use another device or dtype, on which its passes repeat, or record without states",
            )
        return recorder.hidden

    def _compare(self, question: Question, turn: int) -> None:
        """Record where greedy answers to a turn leave the autoregressive one."""
        run, told = self.writer.run, self.settings
        plain = run.generated.get((question.name, turn, AUTOREGRESSIVE))
        if plain is None or not told.sampling.greedy:
            return
        for method in self.drafters:
            key: Key = (question.name, turn, method)
            answer = run.generated.get(key)
            if answer is None or key in run.differences:
                continue
            parted = first_difference(plain.token_ids, answer.token_ids)
            if parted is not None:
                at, expected, found = parted
                before = [*plain.prompt_ids, *plain.token_ids[:at]]
                gap = None
                if expected is not None and found is not None:
                    gap = logit_gap(self.target, before, expected, found)
                self.writer.append(Difference(*key, at=at, expected=expected, found=found, gap=gap))


def answer_seed(seed: int, question: str, turn: int) -> int:
    """Chance of its own for every answer, the same for all methods and in every order."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{question}/{turn}".encode()).digest()[:7], "big")


def _recorded(round: Round) -> RecordedRound:
    return RecordedRound(
        round.emitted,
        round.accepted,
        round.drafted,
        round.depth,
        round.draft_seconds,
        round.target_seconds,
        round.seconds,
    )
