"""DraftMap: which target id each row of a trimmed head scores, and the one check that every foreign map passes.

Knows vectors: offsets (`ids[i] - i`), ids, and a mask over the target's vocabulary; says what is wrong with them in the
words of the files they came from. Knows nothing of files or heads.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .kept import Ids


class Problem(NamedTuple):
    """One thing wrong: the rule it breaks, what was found where, and the way out."""

    rule: str
    message: str
    remedy: str


@dataclass(frozen=True, eq=False)
class MapPieces:
    """What a file holds, before any of it is believed.

    source: the file's name, for messages.
    values: (kept,) integers as stored, offsets or ids. None where the file has only the mask.
    offsets: whether `values` are offsets; None where the file does not tell.
    mask: (target_vocab,) True or 1 for the ids in the map, where the file says it a second time; it is compared, and
        then the ids must ascend, because a mask has no other order.
    target_vocab, tokenizer_hash: of the target, where known.
    dialect: what the file is called, for people.
    """

    source: str
    values: npt.NDArray[np.integer[Any]] | None
    _: KW_ONLY
    offsets: bool | None = None
    mask: npt.NDArray[Any] | None = None
    target_vocab: int | None = None
    tokenizer_hash: str | None = None
    dialect: str | None = None

    @property
    def ids(self) -> Ids:
        """(kept,) the target ids that the pieces mean, in file order."""
        if self.values is None:
            return np.flatnonzero(np.zeros(0) if self.mask is None else self.mask).astype(np.int64)
        values = self.values.astype(np.int64)
        return values + np.arange(values.size) if self.offsets else values


@dataclass(frozen=True, eq=False)
class DraftMap:
    """A map that was proven sound.

    ids: (kept,) int64, unique; the head's row i scores target id ids[i]. In the file's order.
    warnings: what is sound and yet looks wrong: offsets that are all zero.
    """

    source: str
    dialect: str
    ids: Ids
    target_vocab: int | None = None
    tokenizer_hash: str | None = None
    warnings: tuple[Problem, ...] = ()

    @property
    def ascending(self) -> bool:
        return bool((np.diff(self.ids) > 0).all())


def prove(pieces: MapPieces) -> DraftMap:
    """Turn the pieces into ids, or raise InputError with the first problem.

    Pieces that do not tell offsets from ids are read the way that can be true; where both can, that is refused.
    """
    if pieces.offsets is None:
        pieces = _settle(pieces)
    problems = find_problems(pieces)
    if worst := next((problem for problem in problems if problem.rule != "map.zero"), None):
        raise InputError(worst.message, remedy=worst.remedy)
    return DraftMap(
        source=pieces.source,
        dialect=pieces.dialect or ("d2t" if pieces.offsets else "absolute"),
        ids=pieces.ids,
        target_vocab=pieces.mask.size
        if pieces.target_vocab is None and pieces.mask is not None
        else pieces.target_vocab,
        tokenizer_hash=pieces.tokenizer_hash,
        warnings=tuple(problems),
    )


def find_problems(pieces: MapPieces, head_rows: int | None = None) -> list[Problem]:
    """Everything that is wrong with a map, each with the first position that shows it.

    head_rows: rows of the head that the map belongs to, where there is one.
    Rules: map.length, map.zero, map.range, map.duplicate, map.unsorted, map.popcount, map.disagree. Only map.zero can
    be harmless. `pieces.offsets` must be known.
    """
    problems = _problems_as_read(pieces, head_rows)
    if any(problem.rule in {"map.range", "map.duplicate", "map.disagree"} for problem in problems):
        other = replace(pieces, offsets=not pieces.offsets)
        if not _problems_as_read(other, head_rows):
            way = "--from d2t: taken as offsets" if other.offsets else "--from absolute: taken as ids themselves"
            hint = f"read it with `vocabtrim convert` and {way} the numbers are sound"
            problems = [Problem(rule, message, hint) for rule, message, _ in problems]
    return problems


def _problems_as_read(pieces: MapPieces, head_rows: int | None) -> list[Problem]:
    ids = pieces.ids
    problems = [
        *_length(pieces, ids, head_rows),
        *_zero(pieces),
        *_range(pieces, ids),
        *_duplicate(pieces, ids),
    ]
    if pieces.mask is None or pieces.values is None:
        return problems
    if not any(problem.rule in {"map.range", "map.duplicate"} for problem in problems):
        problems += [*_unsorted(pieces, ids), *_against_mask(pieces, ids, pieces.mask)]
    return problems


def _says(pieces: MapPieces, ids: Ids, row: int) -> str:
    """How the file says the id of a row, and the id."""
    if pieces.values is not None and pieces.offsets:
        return f"d2t[{row}] = {pieces.values[row]}, id {ids[row]}"
    return f"entry {row} = {ids[row]}"


def _length(pieces: MapPieces, ids: Ids, head_rows: int | None) -> list[Problem]:
    problems = []
    if ids.size == 0:
        problems.append(Problem("map.length", f"map of {pieces.source} is empty", "pass a map with at least one id"))
    if head_rows is not None and ids.size != head_rows:
        problems.append(
            Problem(
                "map.length",
                f"map of {pieces.source} has {ids.size} ids but the head has {head_rows} rows",
                "use the map that was written with this head",
            )
        )
    if pieces.mask is not None and pieces.target_vocab not in {None, pieces.mask.size}:
        problems.append(
            Problem(
                "map.length",
                f"t2d of {pieces.source} has {pieces.mask.size} entries but the target has {pieces.target_vocab} ids",
                "use the map that was made for this target, or read d2t alone with `vocabtrim convert --from d2t`",
            )
        )
    return problems


def _zero(pieces: MapPieces) -> list[Problem]:
    if not pieces.offsets or pieces.values is None or pieces.values.any() or pieces.values.size < 2:
        return []
    meant = pieces.mask is not None and np.array_equal(np.flatnonzero(pieces.mask), np.arange(pieces.values.size))
    if meant or pieces.target_vocab == pieces.values.size:
        return []  # the mask says the same, or nothing was trimmed and the identity is right
    return [
        Problem(
            "map.zero",
            f"d2t of {pieces.source} is all zero: formally the ids 0 to {pieces.values.size - 1}, probably a map that "
            "was never filled",
            "check that the drafter was trained for the lowest ids; otherwise restore the map it was trained with",
        )
    ]


def _range(pieces: MapPieces, ids: Ids) -> list[Problem]:
    upper = pieces.target_vocab if pieces.target_vocab is not None else np.iinfo(np.int64).max
    outside = np.flatnonzero((ids < 0) | (ids >= upper))
    if not outside.size:
        return []
    expected = "0 or more" if pieces.target_vocab is None else f"0 to {upper - 1}"
    return [
        Problem(
            "map.range",
            f"{outside.size} ids of {pieces.source} lie outside the target's vocabulary: expected {expected}, "
            f"found {_says(pieces, ids, int(outside[0]))}",
            "use the map that was made for this target",
        )
    ]


def _duplicate(pieces: MapPieces, ids: Ids) -> list[Problem]:
    order = np.argsort(ids, kind="stable")  # equal ids stay in file order
    repeats = np.flatnonzero(np.diff(ids[order]) == 0) + 1
    if not repeats.size:
        return []
    again = int(order[repeats].min())
    first = int(np.flatnonzero(ids == ids[again])[0])
    return [
        Problem(
            "map.duplicate",
            f"{repeats.size} entries of {pieces.source} repeat an id: {_says(pieces, ids, first)}, and again "
            f"{_says(pieces, ids, again)}",
            "write the map again from unique ids",
        )
    ]


def _unsorted(pieces: MapPieces, ids: Ids) -> list[Problem]:
    falls = np.flatnonzero(np.diff(ids) < 0)
    if not falls.size:
        return []
    row = int(falls[0])
    return [
        Problem(
            "map.unsorted",
            f"d2t of {pieces.source} is not ascending, and t2d has no other order: {_says(pieces, ids, row)}, then "
            f"{_says(pieces, ids, row + 1)}",
            "readers of t2d would take other rows: write d2t alone with `vocabtrim convert --from d2t --to d2t`",
        )
    ]


def _against_mask(pieces: MapPieces, ids: Ids, mask: npt.NDArray[Any]) -> list[Problem]:
    """The two must name the same ids: kept == d2t + arange."""
    remedy = "restore the maps written with this head, or trust d2t alone with `vocabtrim convert --from d2t`"
    marked = np.flatnonzero(mask)
    if marked.size != ids.size:
        message = f"t2d of {pieces.source} marks {marked.size} ids but d2t has {ids.size}"
        return [Problem("map.popcount", message, remedy)]
    by_offsets = np.sort(ids)
    differ = np.flatnonzero(by_offsets != marked)
    if not differ.size:
        return []
    at = int(differ[0])
    message = (
        f"d2t and t2d of {pieces.source} name other ids: counted upwards from 0, id number {at} is {by_offsets[at]} "
        f"by d2t and {marked[at]} by t2d"
    )
    return [Problem("map.disagree", message, remedy)]


def _settle(pieces: MapPieces) -> MapPieces:
    """Tell offsets from ids by proof: only one of the two readings can be true, or both mean the same."""
    as_offsets, as_ids = replace(pieces, offsets=True), replace(pieces, offsets=False)
    wrong_as_offsets, wrong_as_ids = (
        [problem for problem in find_problems(reading) if problem.rule != "map.zero"]
        for reading in (as_offsets, as_ids)
    )
    if wrong_as_offsets and wrong_as_ids:
        raise InputError(
            f"{pieces.source} is no map, neither as offsets ({wrong_as_offsets[0].message}) "
            f"nor as ids ({wrong_as_ids[0].message})",
            remedy="use the map that was made for this target",
        )
    if not (wrong_as_offsets or wrong_as_ids or np.array_equal(as_offsets.ids, as_ids.ids)):
        row = as_ids.ids.size - 1
        raise InputError(
            f"{pieces.source} can be read as offsets and as ids: entry {row} is then id {as_offsets.ids[row]} or "
            f"{as_ids.ids[row]}",
            remedy="say which with --from d2t or --from absolute"
            + ("" if pieces.target_vocab else ", or pass --target-vocab, which may rule one out"),
        )
    return as_ids if wrong_as_offsets else as_offsets
