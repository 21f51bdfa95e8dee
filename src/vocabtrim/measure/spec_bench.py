"""Answer files that Spec-Bench wrote (hemingkx/Spec-Bench, evaluation/eval.py): one question a line, one record a turn.

Knows upstream's fields and what its scripts put there; makes no figure, see `spec_bench_figures.py`. Of each choice
(one per seed) upstream writes `turns`, `new_tokens`, `wall_time` and its steps as lists with one entry a turn, and
`accept_lengths` as one flat list over all turns. What to know of them:

- An entry of `accept_lengths` is what one target pass emitted, the token that the target adds included: accepted + 1.
- `decoding_steps` counts passes; under its older name `idxs` (up to commit eace32d) it is the last pass's index, one
  less. PLD wrote new_tokens - 1 for it, and Token Recycling still counts one too few. So passes are counted by
  `accept_lengths`, and by the steps only where those are not there.
- Medusa, Hydra, REST and EAGLE read the prompt in a pass of its own that is not counted; SpS, PLD and Lookahead count
  theirs as the first step. `wall_time` includes it, but in REST at commit 60884d2.
- What was emitted behind the end of the answer is taken off by EAGLE-1 and PLD (as of commit 9262209) and EAGLE-2, and
  counted by EAGLE-3, Medusa, Hydra and REST. All of these but PLD stop once there are more than max_new_tokens, where
  the plain loop stops at it.
- A prompt that failed is written as the text "ERROR", with the steps, tokens, time and accept lengths of the prompt
  before it; later turns of its question are asked behind "ERROR" as if that had been the answer.
- Files of Jakiro's script, as of EAGLE's own repository, name no category and have no accept lengths. At commit bc8a422
  SpS and Hydra wrote the field `accept_lengths:`, with the colon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from ..errors import InputError, MismatchError
from .questions import Question
from .record_file import read_records

_FAILED = "ERROR"
_COLUMNS = ("question_id", "category", "model_id", "choices")
_TOO_MUCH = 2**53  # beyond it sums are not exact, and no answer is


@dataclass(frozen=True)
class Answer:
    """One answered turn.

    question: its question_id. category: None where neither the file nor the questions name it.
    model: model_id, "" without one. choice, turn: counted from 0.
    new_tokens: emitted, as the script counted them. wall_time: seconds, the reading of the prompt included.
    decoding_steps: target passes. accept_lengths: tokens that each of them emitted; None where the file does not tell.
    failed: the text is "ERROR", or that of an earlier turn is, or there is no text or no token. The numbers are the
        file's all the same; no figure but upstream's own is made of them.
    """

    question: str
    category: str | None
    model: str
    choice: int
    turn: int
    text: str
    new_tokens: int
    wall_time: float
    decoding_steps: int
    accept_lengths: tuple[int, ...] | None
    failed: bool


def read_answers(path: str | Path, questions: Iterable[Question] = ()) -> list[Answer]:
    """The answered turns of a file, in its order.

    questions: those that were asked, for categories that the file does not name; every answer must be to one of them.
    Raises InputError with file and line for a record that cannot be read, lacks a field or contradicts itself, and for
    a question answered twice: a run that is broken off and begun again appends. Raises MismatchError for an answer to
    another question.
    """
    file = Path(path)
    asked = {question.name: question for question in questions}
    answers: list[Answer] = []
    places: dict[str, str] = {}
    for place, record in read_records(file, _COLUMNS):
        where = f"{file}, {place}"
        found = _answers(record, where)
        name = found[0].question
        if name in places:
            raise InputError(
                f"{file}: question {name} is answered twice",
                found=f"{places[name]} and {place}",
                remedy="take out all but the last, as Spec-Bench does at the end of a run",
            )
        places[name] = place
        answers += _of_question(found, asked, where) if asked else found
    return answers


def _of_question(found: list[Answer], asked: Mapping[str, Question], where: str) -> list[Answer]:
    """The answers to one question with its category. Raises MismatchError where they are to another."""
    name, category, turns = found[0].question, found[0].category, max(answer.turn for answer in found) + 1
    if name not in asked:
        raise MismatchError(
            f"{where}: question {name} is not among the {len(asked)} that were asked",
            remedy="pass the question file of these answers",
        )
    question = asked[name]
    if (category or question.category, turns) != (question.category, len(question.turns)):
        raise MismatchError(
            f"{where}: not the question {name} that was asked",
            expected=f"{len(question.turns)} turns of {question.category}",
            found=f"{turns} turns of {category or question.category}",
            remedy="pass the question file of these answers",
        )
    return [replace(answer, category=question.category) for answer in found]


def _answers(record: Any, where: str) -> list[Answer]:
    """The turns of one record, at least one."""
    if not isinstance(record, Mapping):
        raise _refused(where, "no answer", expected="an object with fields", found=type(record).__name__)
    name, category, choices = (record.get(field) for field in ("question_id", "category", "choices"))
    if isinstance(name, bool) or not isinstance(name, int | str) or name == "":
        raise _refused(where, "question_id", expected="a number or a text", found=repr(name))
    if category is not None and not isinstance(category, str):
        raise _refused(where, "category", expected="a text", found=repr(category))
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, Mapping) for choice in choices):
        raise _refused(where, "choices", expected="a list of objects", found=repr(choices)[:40])
    model = record.get("model_id")
    model = model if isinstance(model, str) else ""
    return [
        Answer(str(name), category, model, number, turn, **told)
        for number, choice in enumerate(choices)
        for turn, told in enumerate(_choice(choice, f"{where}, choice {number}"))
    ]


def _choice(choice: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """What is told of each turn."""
    texts = _entries(choice, "turns", where, "a text", _is_text)
    tokens = _entries(choice, "new_tokens", where, "a number from 0", _is_count)
    times = _entries(choice, "wall_time", where, "seconds above 0", _is_time)
    steps_field = "idxs" if choice.get("decoding_steps") is None else "decoding_steps"
    steps = _entries(choice, steps_field, where, "a number from 0", _is_count)
    lengths = [len(texts), len(tokens), len(times), len(steps)]
    if not texts or len(set(lengths)) > 1:
        raise _refused(
            where,
            f"turns, new_tokens, wall_time and {steps_field} are not of the same turns",
            expected="one entry a turn in each",
            found=", ".join(map(str, lengths)),
        )
    passes = _passes(choice, steps, tokens, where)
    if passes is None and steps_field == "idxs":
        steps = [index + 1 for index in steps]
    broken = False
    for turn, text in enumerate(texts):
        broken = broken or text == _FAILED
        yield {
            "text": text,
            "new_tokens": tokens[turn],
            "wall_time": times[turn],
            "decoding_steps": steps[turn] if passes is None else len(passes[turn]),
            "accept_lengths": None if passes is None else passes[turn],
            "failed": broken or not text.strip() or not tokens[turn],
        }


def _passes(
    choice: Mapping[str, Any], steps: Sequence[int], tokens: Sequence[int], where: str
) -> list[tuple[int, ...]] | None:
    """The accept lengths of each turn; None where none are told.

    The flat list is cut by the steps as they are, by the steps as indices, or by the tokens that came of it, whichever
    adds up: a few tokens apart where the steps agree (see `_adds_up`), to the token where they do not.
    """
    field = "accept_lengths:" if choice.get("accept_lengths") is None else "accept_lengths"
    if choice.get(field) is None:
        return None
    flat = _entries(choice, field, where, "accepted tokens + 1", lambda length: _is_count(length) and length > 0)
    for counts in (steps, [index + 1 for index in steps]):
        passes = _cut(flat, counts)
        if passes is not None and all(map(_adds_up, passes, tokens)):
            return passes
    passes = _cut(flat, _counts(flat, tokens))
    if passes is not None and list(map(sum, passes)) == list(tokens):
        return passes
    raise _refused(
        where,
        f"{field} does not add up to new_tokens turn by turn",
        expected=f"{sum(tokens)} tokens",
        found=f"{sum(flat)} in {len(flat)} passes",
    )


def _cut(flat: Sequence[int], counts: Sequence[int]) -> list[tuple[int, ...]] | None:
    """So many entries for each turn; None where they are not as many together."""
    if sum(counts) != len(flat):
        return None
    return [tuple(flat[start:end]) for start, end in pairwise(accumulate(counts, initial=0))]


def _counts(flat: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """Passes of each turn when it takes as many as its tokens need, the last turn all that remain."""
    counts, position = [], 0
    for emitted in tokens[:-1]:
        start, so_far = position, 0
        while so_far < emitted and position < len(flat):
            so_far += flat[position]
            position += 1
        counts.append(position - start)
    return [*counts, len(flat) - position]


def _adds_up(passes: Sequence[int], emitted: int) -> bool:
    """Lookahead cuts at the length limit inside its last pass; Token Recycling counts a stop token that no pass has."""
    return sum(passes[:-1]) <= emitted <= sum(passes) + 1


def _entries(
    choice: Mapping[str, Any], field: str, where: str, expected: str, good: Callable[[Any], bool]
) -> Sequence[Any]:
    entries = choice.get(field)
    if not isinstance(entries, list):
        raise _refused(where, field, expected="a list", found="none" if entries is None else type(entries).__name__)
    for number, entry in enumerate(entries, start=1):
        if not good(entry):
            raise _refused(where, f"entry {number} of {field}", expected=expected, found=repr(entry)[:40])
    return entries


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _TOO_MUCH


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _TOO_MUCH


def _refused(where: str, what: str, *, expected: str, found: str) -> InputError:
    remedy = "pass an answer file that Spec-Bench wrote, or take the record out"
    return InputError(f"{where}: {what}", expected=expected, found=found, remedy=remedy)
