"""A run on disk: `rounds.jsonl`, whose first line says what is run, and every other one what came of it.

One generation a line, appended as soon as it is there, so that a run that was cut off can go on. Raw rounds only:
every ratio is computed elsewhere, from sums. Knows lines and files; knows no models and no figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from .growing_file import GrowingFile, prove_same_run, refuse_other_folder, shown, whole_lines

SCHEMA = 1
ROUNDS = "rounds.jsonl"
AUTOREGRESSIVE = "autoregressive"  # the method without a drafter
FULL = "full"  # the one with the drafter as it was before any trim


@dataclass(frozen=True)
class RecordedRound:
    """A round (`decoding.rounds.Round`) without its tokens, which stand in their generation."""

    emitted: int
    accepted: int
    drafted: int
    depth: int
    draft_seconds: float
    target_seconds: float
    seconds: float


@dataclass(frozen=True)
class Generated:
    """One answer. turn: which of the question's, from 0. prompt_ids: what the target read.

    turns: how many the question has. prompt_seconds: until the first round began.
    ended: why it did (`decoding.stopping.Reason`).
    """

    question: str
    category: str
    turn: int
    method: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    ended: str
    prompt_seconds: float
    rounds: tuple[RecordedRound, ...]
    turns: int = 1


@dataclass(frozen=True)
class Failed:
    """An answer that there is not, and why."""

    question: str
    category: str
    turn: int
    method: str
    reason: str


@dataclass(frozen=True)
class Difference:
    """Where a method's greedy answer first leaves the autoregressive one.

    at: how many tokens were equal before. expected: the autoregressive token there, None where that answer had ended.
    found: the method's, likewise. gap: logit of the expected token less that of the found one, as the target scores
    both behind the same tokens; None where one of them had ended.
    """

    question: str
    turn: int
    method: str
    at: int
    expected: int | None
    found: int | None
    gap: float | None


Record = Generated | Failed | Difference
Key = tuple[str, int, str]  # question, turn, method
_TOLD_BY: dict[str, type[Record]] = {"generated": Generated, "failed": Failed, "difference": Difference}
_NAMES = {kind: name for name, kind in _TOLD_BY.items()}


@dataclass(frozen=True)
class Run:
    """What a run folder holds. header: its first line. The last record of a question, turn and method counts."""

    header: Mapping[str, Any]
    generated: dict[Key, Generated] = field(default_factory=dict)
    failed: dict[Key, Failed] = field(default_factory=dict)
    differences: dict[Key, Difference] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Take one more record, in place of an earlier one of the same answer."""
        key = key_of(record)
        if isinstance(record, Difference):
            self.differences[key] = record
        elif isinstance(record, Generated):
            self.generated[key] = record
            self.failed.pop(key, None)
        else:
            self.failed[key] = record

    @property
    def methods(self) -> list[str]:
        """Their names, the autoregressive one first."""
        return [method["name"] for method in self.header["methods"]]


def key_of(record: Record) -> Key:
    return record.question, record.turn, record.method


def read_run(folder: Path) -> Run:
    """Read a run folder; a last line that was cut off is left out.

    Raises InputError for a folder without a run, another schema version, and a line that is no record.
    """
    path = folder / ROUNDS
    if not path.is_file():
        raise InputError(f"{folder} holds no run", expected=ROUNDS, remedy="pass what `vocabtrim bench --out` wrote")
    run = None
    for number, line in enumerate(whole_lines(path), start=1):
        if run is None:
            run = Run(_header(path, line))
        else:
            run.add(_record(path, number, line))
    if run is None:
        raise InputError(f"{path} is empty", expected="a line that says what was run", remedy="measure again")
    return run


class RunWriter:
    """A run folder that is written to, new or gone on with: a context manager.

    header: what is run; its entry `identity` is what a run that goes on must share with the one that began.
    Raises InputError for a folder whose run is another one, OutputError where it cannot be written, where it holds
    other things than a run, or where another process writes to it. Nothing is changed then.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.folder = folder
        self.run = Run({"schema": SCHEMA, **header})
        self._file: GrowingFile | None = None

    def __enter__(self) -> RunWriter:
        refuse_other_folder(self.folder, ROUNDS, "run")
        if (self.folder / ROUNDS).exists():
            self._begin()
        return self  # a new run is not there before its first record

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, record: Record) -> None:
        """Write a record; when this returns, a kill of the process no longer loses it."""
        file = self._file or self._begin()
        file.write({"record": _NAMES[type(record)], **_as_object(record)})
        self.run.add(record)

    def _begin(self) -> GrowingFile:
        """Open the file behind the last whole line of the run that stands there, or behind a header."""
        file = GrowingFile(self.folder / ROUNDS)
        try:
            if file.empty:
                file.forget_half_a_line()
                file.write(self.run.header)
            else:
                found = read_run(self.folder)
                prove_same_run(self.folder, found.header["identity"], self.run.header["identity"])
                file.forget_half_a_line()
                self.run = found
        except BaseException:
            file.close()
            raise
        self._file = file
        return file


def _header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        schema = header["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_run(path, 1, error) from error
    if schema != SCHEMA:
        raise InputError(
            f"{path} is of another schema version",
            expected=SCHEMA,
            found=shown(schema),
            remedy="read it with the version of vocabtrim that wrote it",
        )
    if not isinstance(header.get("identity"), dict) or not isinstance(header.get("methods"), list):
        raise _no_run(path, 1, "no identity or methods")
    return dict(header)


def _record(path: Path, number: int, line: bytes) -> Record:
    try:
        told = json.loads(line)
        kind = _TOLD_BY[told.pop("record")]
        if kind is Generated:
            told["rounds"] = tuple(RecordedRound(*numbers) for numbers in told["rounds"])
            told["prompt_ids"], told["token_ids"] = tuple(told["prompt_ids"]), tuple(told["token_ids"])
        return kind(**told)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _no_run(path, number, error) from error


def _no_run(path: Path, number: int, found: object) -> InputError:
    return InputError(
        f"line {number} of {path} is no record of a run",
        found=found if isinstance(found, str) else f"{type(found).__name__}: {found}",
        remedy="the file was changed or is of something else: measure again",
    )


def _as_object(record: Record) -> dict[str, Any]:
    told = asdict(record)
    if isinstance(record, Generated):
        told["rounds"] = [list(asdict(round).values()) for round in record.rounds]
    return told
