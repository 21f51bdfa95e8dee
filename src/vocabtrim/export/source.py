"""A trimmed drafter, opened and proven: what every engine's export starts from.

Knows checkpoints and kept vocabularies; knows no engine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..calibrate.tokenizer import TokenizerFacts
from ..checkpoint.check import check
from ..checkpoint.head_ids import KEPT_FILE, head_ids
from ..checkpoint.layouts import Drafter, identify
from ..checkpoint.read import Checkpoint, open_checkpoint
from ..checkpoint.trim import tokenizer_beside
from ..errors import CheckpointError, UnsupportedError
from ..hub import local_folder
from ..vocabulary.kept import KeptVocabulary


@dataclass(frozen=True, eq=False)
class Source:
    """A trimmed drafter. kept: ascending; rows: (kept,) the head's row of each kept id, in case the head's order differs.

    width: rows of the target's own head, padding included. tokenizer: the target's; None where no folder holds it.
    """

    drafter: Drafter
    kept: KeptVocabulary
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    width: int
    target: Checkpoint | None
    tokenizer: TokenizerFacts | None

    @property
    def folder(self) -> Path:
        return self.drafter.checkpoint.folder

    @property
    def kind(self) -> str:
        return self.drafter.kind


def open_source(drafter: str | Path, target: str | Path | None = None) -> Source:
    """Open a trimmed drafter's folder and prove it sound, as `check` does.

    Raises CheckpointError with the first problem that `check` finds, UnsupportedError for a head that is not trimmed
    and for a kind refused by name.
    """
    folder = local_folder(drafter)
    opened = None if target is None else open_checkpoint(local_folder(target))
    understood = identify(open_checkpoint(folder), opened)
    report = check(folder, None if opened is None else opened.folder)
    for problem in report.problems:
        if problem.rule != "map.unsorted":  # rows are looked up by id
            raise CheckpointError(problem.message, remedy=problem.remedy)
    present = head_ids(understood)
    ids = present.ids
    if ids is None and (folder / KEPT_FILE).exists():  # cut to every id there is
        ids = np.arange(present.width)
    if ids is None:
        raise UnsupportedError(
            f"the head of {folder} is not trimmed",
            expected="fewer rows than the target has ids",
            found=f"{understood.heads[0].rows:,} rows",
            remedy="trim it first: vocabtrim trim",
        )
    tokenizer = tokenizer_beside(None if opened is None else opened.folder, folder)
    kept = _kept(folder, ids, present.width, tokenizer)
    return Source(understood, kept, np.argsort(ids), present.width, opened, tokenizer)


def _kept(folder: Path, ids: np.ndarray, width: int, tokenizer: TokenizerFacts | None) -> KeptVocabulary:
    """The folder's own kept file, which `check` found to be the head's; a foreign trim has its map alone."""
    if (folder / KEPT_FILE).exists():
        return KeptVocabulary.load(folder / KEPT_FILE)
    vocab = width if tokenizer is None else tokenizer.vocab_size
    return KeptVocabulary(np.sort(ids), vocab, None if tokenizer is None else tokenizer.hash)


def refuse_kind(source: Source, taken: Collection[str], engine: str, reason: str, remedy: str) -> None:
    """Raise UnsupportedError unless the engine takes drafters of this kind trimmed. reason: why it takes no others."""
    if source.kind not in taken:
        raise UnsupportedError(
            f"{engine} serves no trimmed {source.kind} drafter: {reason}",
            expected=", ".join(sorted(taken)),
            found=source.kind,
            remedy=remedy,
        )
