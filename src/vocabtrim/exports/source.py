"""A trimmed drafter, opened and proven: what every engine's export starts from.

Knows checkpoints and kept vocabularies; knows no engine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..calibrate.tokenizer import TokenizerFacts
from ..checkpoint.check import check
from ..checkpoint.head_ids import KEPT_FILE, head_ids
from ..checkpoint.layouts import Drafter, identify
from ..checkpoint.quantization_config import method_of
from ..checkpoint.read import Checkpoint, open_checkpoint
from ..checkpoint.trim import tokenizer_beside
from ..checkpoint.tuned import Tuned, read_tuned
from ..errors import CheckpointError, MismatchError, UnsupportedError
from ..hub import local_folder
from ..vocabulary.draft_map import Problem
from ..vocabulary.kept import Ids, KeptVocabulary

_OTHER = "tokenizer.other"


@dataclass(frozen=True, eq=False)
class Source:
    """A trimmed drafter. kept: ascending; rows: (kept,) the head's row of each kept id, where the head is not.

    width: rows of the target's own head, padding included. tokenizer: the target's; None where no folder holds it.
    target_name: the target as it was given, path or hub id; None where none was. tuned: what tuning found out about it;
    None where it was not tuned.
    """

    drafter: Drafter
    kept: KeptVocabulary
    rows: Ids
    width: int
    target: Checkpoint | None
    tokenizer: TokenizerFacts | None
    target_name: str | None = None
    tuned: Tuned | None = None

    @property
    def folder(self) -> Path:
        return self.drafter.checkpoint.folder

    @property
    def kind(self) -> str:
        return self.drafter.kind

    def chain_length(self, default: int) -> int:
        """Drafted tokens of a round, for an engine that drafts chains: of the best chain where it was tuned."""
        return default if self.tuned is None or self.tuned.chain is None else self.tuned.chain


class OfAKind(Protocol):
    """A drafter, or a source: what is refused by its kind."""

    @property
    def kind(self) -> str: ...


def open_source(drafter: str | Path, target: str | Path | None = None) -> Source:
    """Open a trimmed drafter's folder and prove it sound, as `check` does.

    Raises MismatchError for a target with another tokenizer, CheckpointError with the first other problem that `check`
    finds, UnsupportedError for a head that is not trimmed and for a kind refused by name.
    """
    folder = local_folder(drafter)
    opened = None if target is None else open_checkpoint(local_folder(target))
    understood = identify(open_checkpoint(folder), opened)
    _refuse_other_tokenizer(folder, opened)
    problems = check(folder, None if opened is None else opened.folder).problems
    for problem in sorted(problems, key=lambda problem: problem.rule != _OTHER):  # what explains the others first
        _refuse(problem)
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
    name = None if target is None else str(target)
    return Source(understood, kept, np.argsort(ids), present.width, opened, tokenizer, name, read_tuned(folder))


def _refuse_other_tokenizer(folder: Path, target: Checkpoint | None) -> None:
    """The drafter's own copy must give ids the target's meaning; a kept file's hash is compared by `check`."""
    mine, theirs = tokenizer_beside(folder), None if target is None else tokenizer_beside(target.folder)
    if target is not None and mine is not None and theirs is not None and mine.hash != theirs.hash:
        raise MismatchError(
            f"{folder} has another tokenizer than its target {target.folder}",
            expected=f"tokenizer {theirs.hash[:12]} ({theirs.vocab_size} ids)",
            found=f"{mine.hash[:12]} ({mine.vocab_size} ids)",
            remedy="pass the target that the drafter was trimmed for",
        )


def _refuse(problem: Problem) -> None:
    if problem.rule == "map.unsorted":  # rows are looked up by id
        return
    kind = MismatchError if problem.rule == _OTHER else CheckpointError
    raise kind(problem.message, remedy=problem.remedy)


def _kept(folder: Path, ids: Ids, width: int, tokenizer: TokenizerFacts | None) -> KeptVocabulary:
    """The folder's own kept file, which `check` found to be the head's; a foreign trim has its map alone."""
    if (folder / KEPT_FILE).exists():
        return KeptVocabulary.load(folder / KEPT_FILE)
    vocab = width if tokenizer is None else tokenizer.vocab_size
    return KeptVocabulary(np.sort(ids), vocab, None if tokenizer is None else tokenizer.hash)


def refuse_kind(drafter: OfAKind, taken: Collection[str], engine: str, reason: str, remedy: str) -> None:
    """Raise UnsupportedError unless the engine takes drafters of this kind trimmed. reason: why it takes no others."""
    if drafter.kind not in taken:
        raise UnsupportedError(
            f"{engine} serves no trimmed {drafter.kind} drafter: {reason}",
            expected=", ".join(sorted(taken)),
            found=drafter.kind,
            remedy=remedy,
        )


def refuse_quantized(source: Source, engine: str, reason: str, methods: Collection[str] = ()) -> None:
    """Raise UnsupportedError for a quantized head, unless config.json names one of `methods`, which the engine builds
    heads by. reason: why it takes no other."""
    stored = next((head.stored for head in source.drafter.heads if head.stored.quantized), None)
    method = method_of(source.drafter.checkpoint.config)
    if stored is not None and method not in methods:
        raise UnsupportedError(
            f"the head of {source.folder} is quantized, and {engine} {reason}",
            expected=" or ".join(["a plain head", *methods]),
            found=f"{stored.format} ({method or 'no quant_method'})",
            remedy="trim the drafter before it was quantized, or serve this one with another engine",
        )
