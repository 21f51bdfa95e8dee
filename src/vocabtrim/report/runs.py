"""RUN folders -> runs that may stand on one page, or the reason why not.

The one check at the door: behind it a header has what a page shows, and every answer has rounds that took time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cost import Cost
from ..errors import InputError, MismatchError
from ..measure.figures import complete
from ..measure.records import AUTOREGRESSIVE, ROUNDS, Generated, Run, read_run

_AGAIN = "measure again with `vocabtrim bench`"
_COST_WHOLE = ("target_pass_bytes", "head_row_bytes", "full_head_rows", "target_parameters")


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders whose target and tokenizer are one and the same.

    Raises InputError for a folder without a run, one that is named twice, a run without a question that every method
    answered or without a drafter, and a run that is damaged; MismatchError for runs of different targets.
    """
    for number, folder in enumerate(folders):
        if any(folder.exists() and other.exists() and folder.samefile(other) for other in folders[:number]):
            raise InputError(f"{folder} is named twice", remedy="name every run once")
    runs = [_open(folder) for folder in folders]
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        for name in ("target", "tokenizer"):
            expected, found = (of.header["identity"].get(name) for of in (runs[0], run))
            if expected != found:
                raise MismatchError(
                    f"{folder} was measured on another {name} than {folders[0]}",
                    expected=f"{name} {str(expected)[:12]} ({runs[0].header['target']})",
                    found=f"{str(found)[:12]} ({run.header['target']})",
                    remedy="make a page of its own for each target",
                )
    return runs


def _open(folder: Path) -> Run:
    run = read_run(folder)
    file = folder / ROUNDS
    _prove_header(file, run.header)
    for answer in run.generated.values():
        _prove_answer(file, answer, run)
    if not complete(run):
        raise InputError(
            f"{folder} holds no question that every method answered",
            found=f"{len(run.generated)} answers and {len(run.failed)} failures",
            remedy="end the run first: the same `vocabtrim bench` goes on where it was cut off",
        )
    if not any(told["cost"] is not None for told in run.header["methods"]):
        raise InputError(
            f"{folder} measured no drafter", found="the target alone", remedy="bench with --drafter and --trimmed"
        )
    return run


def _prove_header(file: Path, header: Mapping[str, Any]) -> None:
    identity = header["identity"]
    temperature = identity.get("temperature")
    facts = {
        "target": isinstance(header.get("target"), str),
        "vocabulary": _whole(header.get("vocabulary"), 1),
        "made": isinstance(header.get("made"), dict),
        "fingerprints": isinstance(identity.get("methods"), dict),
        "temperature": isinstance(temperature, int | float) and 0 <= temperature < math.inf,
        "methods": all(map(_is_method, header["methods"])),
    }
    if facts["methods"]:
        names = [told["name"] for told in header["methods"]]
        facts["methods"] = names[:1] == [AUTOREGRESSIVE] and len(names) == len(set(names))
    for name, there in facts.items():
        if not there:
            raise InputError(f"the first line of {file} has no {name} that bench writes", remedy=_AGAIN)


def _is_method(told: Any) -> bool:
    if not isinstance(told, dict) or not isinstance(told.get("name"), str) or "kind" not in told:
        return False
    kept, ids, cost = (told.get(name) for name in ("kept_size", "kept_ids", "cost"))
    if cost is None:
        return kept is None and ids is None
    listed = ids is None or (isinstance(ids, list) and all(_whole(token, 0) for token in ids))
    return listed and _is_cost(cost) and _whole(kept, 1) and kept <= cost["full_head_rows"]


def _is_cost(cost: Any) -> bool:
    try:
        numbers = vars(Cost(**cost))
    except TypeError:
        return False
    positive = all(isinstance(numbers[name], int | float) and 0 < numbers[name] < math.inf for name in _COST_WHOLE)
    return positive and all(isinstance(number, int | float) and number >= 0 for number in numbers.values())


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _prove_answer(file: Path, answer: Generated, run: Run) -> None:
    tokens = all(_whole(token, 0) for token in (*answer.prompt_ids, *answer.token_ids))
    counted = all(
        _whole(round.emitted, 1)
        and all(_whole(number, 0) for number in (round.accepted, round.drafted, round.depth))
        and all(_seconds(spent) for spent in (round.draft_seconds, round.target_seconds, round.seconds))
        for round in answer.rounds
    )
    named = all(isinstance(name, str) for name in (answer.question, answer.category, answer.method))
    if not (tokens and counted and named and answer.rounds and answer.method in run.methods):
        raise InputError(f"{file} has an answer that no round can give", found=_which(answer), remedy=_AGAIN)
    if not sum(round.seconds for round in answer.rounds) > 0:
        raise InputError(f"{file} has an answer that took no time", found=_which(answer), remedy=_AGAIN)


def _seconds(spent: Any) -> bool:
    return isinstance(spent, int | float) and 0 <= spent < math.inf


def _which(answer: Generated) -> str:
    return f"question {answer.question}, turn {answer.turn}, {answer.method}"
