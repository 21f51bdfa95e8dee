"""What is still to be asked, what becomes of each answer, and what a run came to.

Whoever writes asks for the next talk when it has room for one, so that never more is in flight than was allowed, and
every answer is in the file before the next is asked for. Knows talks, answers and their file; knows no models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from ..calibrate.loops import ends_in_circles
from ..errors import InputError, MismatchError
from .answers import LOOPS, NOT_BACK, Answer, AnswerFile, Prompt, Written
from .talks import Talk
from .tally import Tally, Until

_PROBATION = 20  # answers or failures, after which all or most of them tell that something is wrong altogether


class RefusedError(Exception):
    """A prompt to which there is no answer, and why."""


@dataclass(frozen=True)
class Failure:
    """An answer that there is not, and why."""

    question: str
    turn: int
    reason: str


@dataclass
class Collected:
    """What a run came to, and while it runs, what it is at.

    tally: everything in the file. answers, tokens, seconds: of this run alone. wanted: answers to all prompts, each
    question's turns, as often as samples. again: questions that stood there before. ended: "prompts" used up, "budget"
    reached, or coverage "flat"; None while it runs. way: how a server is asked.
    """

    tally: Tally
    wanted: int
    again: int
    until: Until
    answers: int = 0
    tokens: int = 0
    seconds: float = 0.0
    ended: str | None = None
    way: str = ""
    failed: list[Failure] = field(default_factory=list)

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1: of the answers, or of the budget where that is reached sooner."""
        answered = (self.tally.answers + len(self.failed)) / max(1, self.wanted)
        budget = 0.0 if self.until.tokens is None else self.tally.tokens / self.until.tokens
        return min(1.0, max(answered, budget))


Seen = Callable[[Collected], None]


class Work:
    """What is still to be asked, and what becomes of each answer."""

    def __init__(
        self,
        wanted: Sequence[Talk],
        state: Collected,
        file: AnswerFile,
        *,
        seed: int,
        chat: bool,
        loop_ratio: float,
        seen: Seen,
    ) -> None:
        self.state, self._file, self._seed, self._chat = state, file, seed, chat
        self._loop_ratio, self._seen = loop_ratio, seen
        several = {key for talk in wanted if len(talk.keys) > 1 for key in talk.keys}
        self._given: dict[str, str] = {}  # keys that are answered; the text where a later turn follows it
        self._dropped: set[str] = set()
        for answer in file.answers():
            state.tally.add(answer)
            self._note(answer, answer.key in several)
        self._several = several
        self._began = perf_counter()
        self.talks = self._waiting(wanted)

    def _note(self, answer: Answer, needed: bool) -> None:
        self._given[answer.key] = answer.written.text if needed else ""
        if answer.left_out is not None:
            self._dropped.add(answer.key)

    def _waiting(self, wanted: Sequence[Talk]) -> Iterator[Talk]:
        """One after the other, each when it is asked for, until there is enough."""
        for talk in wanted:
            if all(key in self._given for key in talk.keys) or self._dropped.intersection(talk.keys):
                continue
            self.state.ended = self.state.ended or self.state.tally.enough(self.state.until)
            if self.state.ended is not None:
                return
            yield talk
        self.state.ended = self.state.ended or "prompts"

    def next_turn(self, talk: Talk) -> tuple[int, Prompt, int] | None:
        """Turn, prompt and seed of what is to be asked next in a talk; None where nothing more is.

        Every answer has chance of its own. Raises RefusedError for what cannot be asked.
        """
        answers = [self._given[key] for key in talk.keys if key in self._given]
        turn = len(answers)
        if turn == len(talk.keys) or self._dropped.intersection(talk.keys):
            return None
        if not self._chat and (turn or talk.question.before):
            raise RefusedError("several turns, or messages before the first, need a chat template")
        prompt = talk.messages(answers) if self._chat else talk.question.turns[0]
        digest = hashlib.sha256(f"{self._seed}/{talk.keys[turn]}".encode()).digest()
        return turn, prompt, int.from_bytes(digest[:4], "big") >> 1

    def take(self, talk: Talk, turn: int, prompt: Prompt, written: Written) -> None:
        """Write an answer down. Raises MismatchError where the first ones tell that the tokenizer is another's."""
        left_out = written.fault
        if left_out is None and self._loop_ratio and ends_in_circles(written.text, self._loop_ratio):
            left_out = LOOPS
        question = talk.question
        answer = Answer(
            talk.keys[turn], question.name, question.category, turn + 1, talk.sample + 1, prompt, written, left_out
        )
        self._file.append(answer)
        self._note(answer, answer.key in self._several)
        state = self.state
        state.tally.add(answer)
        state.answers += 1
        state.tokens += len(written.token_ids)
        self._tell()
        self._prove_tokenizer()

    def fail(self, talk: Talk, reason: str) -> None:
        """An answer that there will not be in this run. Raises InputError where the first prompts all fail."""
        turn = sum(key in self._given for key in talk.keys)
        self.state.failed.append(Failure(talk.question.name, turn + 1, reason))
        self._tell()
        if not self.state.tally.answers and len(self.state.failed) >= _PROBATION:
            raise InputError(
                f"none of the first {_PROBATION} prompts was answered", found=reason, remedy="see the reason"
            )

    def _tell(self) -> None:
        self.state.seconds = perf_counter() - self._began
        self._seen(self.state)

    def _prove_tokenizer(self) -> None:
        tally = self.state.tally
        if tally.compared >= _PROBATION and 2 * tally.fitting < tally.compared:
            raise MismatchError(
                "the server's answers are not in the tokens of this tokenizer",
                expected="text and number of tokens that agree",
                found=f"{tally.fitting} of {tally.compared} answers that do",
                remedy="pass the --tokenizer of the model that is served, and choose another --out",
            )
        if tally.answers >= _PROBATION and tally.left_out[NOT_BACK] == tally.answers:
            raise MismatchError(
                f"none of the first {tally.answers} answers tokenises back",
                expected="ids that are the text again",
                found="other text",
                remedy="pass the --tokenizer of the model that is served, and choose another --out",
            )
