"""completions.jsonl: what was collected, a line for each answer, gone on with after a kill.

A line is written when its answer is whole, so that a kill loses what was in flight and nothing else. The fields that
counting reads are those of `calibrate/collected.py`. Knows lines; knows nothing of models or servers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..calibrate.collected import COMPLETION, HEADER, KEY, LEFT_OUT, PROMPT, TOKEN_IDS, TOKENIZER
from ..errors import InputError, OutputError
from ..measure.growing_file import GrowingFile, prove_same_run, whole_lines
from ..provenance import refuse_unwritable

SCHEMA = 1
_BEGINNING = json.dumps({HEADER: "collect", "schema": SCHEMA}, separators=(",", ":"))[:-1].encode()

LOOPS = "ends in circles"
NOT_BACK = "text that does not tokenise back"

# Where the ids of an answer are from.
TARGET, SERVER, TEXT = "target", "server", "text"


Prompt = list[dict[str, Any]] | str  # the messages of a chat, or plain text


@dataclass(frozen=True)
class Proposed:
    """What a drafter proposed for one answer, id -> how often: what the target took, and what it did not."""

    accepted: Mapping[int, int]
    rejected: Mapping[int, int]


@dataclass(frozen=True)
class Written:
    """What a target wrote. token_ids: with its stop id. ids_from: "target" or "server", where they are what was
    emitted, "text" where the text was tokenised again. ended: "stop", "length", or what a server says.

    fits: whether text, ids and the number of tokens that a server tells are one tokenizer's; None where nothing can be
    compared. fault: why it is no calibration text.
    """

    text: str
    token_ids: tuple[int, ...]
    ids_from: str
    ended: str
    seconds: float
    proposed: Proposed | None = None
    fits: bool | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Answer:
    """An answer and what it answers. key: of what was asked. turn, sample: from 1. left_out: None where it counts."""

    key: str
    question: str
    category: str
    turn: int
    sample: int
    prompt: Prompt
    written: Written
    left_out: str | None = None


class AnswerFile:
    """The file, open to be written to: a context manager. Reading and writing go through it alone.

    header: `identity` is what a run that goes on must share with the one that began; more may stand beside it.
    Raises OutputError for a file that is something else's and where it cannot be written, InputError for the answers of
    another run and for a line that is none. Nothing is changed then.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], tokenizer_hash: str) -> None:
        self.path, self._hash = path, tokenizer_hash
        self._header = {HEADER: "collect", "schema": SCHEMA, **header}
        self._file: GrowingFile | None = None

    def __enter__(self) -> AnswerFile:
        _refuse_other_file(self.path)
        file = GrowingFile(self.path)
        try:
            if file.empty:
                file.forget_half_a_line()
                file.write(self._header)
            else:
                found = _header(self.path)
                prove_same_run(self.path, found["identity"], self._header["identity"], "answers")
                for _ in self.answers():  # every line is one, before anything is added
                    pass
                file.forget_half_a_line()
        except BaseException:
            file.close()
            raise
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def append(self, answer: Answer) -> None:
        """Write an answer; when this returns, a kill of the process no longer loses it."""
        assert self._file is not None
        self._file.write(_as_line(answer, self._hash))

    def answers(self) -> Iterator[Answer]:
        """Every whole answer, in the order in which they came."""
        for number, line in enumerate(whole_lines(self.path), start=1):
            if number > 1:
                yield _answer(self.path, number, line)


def _refuse_other_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is no file", remedy="choose another --out")
    refuse_unwritable(path)
    if path.exists():
        with path.open("rb") as file:
            begun = file.read(len(_BEGINNING))
        if not _BEGINNING.startswith(begun):
            raise OutputError(
                f"{path} exists and holds no answers of this version",
                expected=f"a first line that begins with {_BEGINNING.decode()}",
                found=begun[:40].decode(errors="replace"),
                remedy="choose another --out",
            )


def _header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(next(whole_lines(path)))
        if isinstance(header["identity"], dict):
            return dict(header)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise _no_answer(path, 1, "no identity")


def _as_line(answer: Answer, tokenizer_hash: str) -> dict[str, Any]:
    written, chat = answer.written, not isinstance(answer.prompt, str)
    line = {
        KEY: answer.key,
        "question": answer.question,
        "category": answer.category,
        "turn": answer.turn,
        "sample": answer.sample,
        PROMPT: answer.prompt,
        COMPLETION: [{"role": "assistant", "content": written.text}] if chat else written.text,
        TOKEN_IDS: written.token_ids,
        TOKENIZER: tokenizer_hash,
        "ids_from": written.ids_from,
        "ended": written.ended,
        "seconds": round(written.seconds, 3),
    }
    if written.fits is not None:
        line["fits"] = written.fits
    if written.proposed is not None:
        parts = {"accepted": written.proposed.accepted, "rejected": written.proposed.rejected}
        line["proposed"] = {name: [list(part), list(part.values())] for name, part in parts.items()}
    if answer.left_out is not None:
        line[LEFT_OUT] = answer.left_out
    return line


def _answer(path: Path, number: int, line: bytes) -> Answer:
    try:
        told = json.loads(line)
        completion, proposed = told[COMPLETION], told.get("proposed")
        return Answer(
            key=told[KEY],
            question=told["question"],
            category=told["category"],
            turn=told["turn"],
            sample=told["sample"],
            prompt=told[PROMPT],
            written=Written(
                text=completion if isinstance(completion, str) else completion[0]["content"],
                token_ids=tuple(map(int, told[TOKEN_IDS])),
                ids_from=told["ids_from"],
                ended=told["ended"],
                seconds=told["seconds"],
                proposed=None if proposed is None else Proposed(*(_counter(proposed[name]) for name in _PROPOSED)),
                fits=told.get("fits"),
            ),
            left_out=told.get(LEFT_OUT),
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise _no_answer(path, number, f"{type(error).__name__}: {error}") from error


_PROPOSED = ("accepted", "rejected")


def _counter(pairs: list[list[int]]) -> dict[int, int]:
    return dict(zip(map(int, pairs[0]), map(int, pairs[1]), strict=True))


def _no_answer(path: Path, number: int, found: str) -> InputError:
    return InputError(
        f"line {number} of {path} is no answer that was collected",
        found=found[:200],
        remedy="the file was changed: take the line out, and its answer is asked for again, or choose another --out",
    )
