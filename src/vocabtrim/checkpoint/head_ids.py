"""Which target ids the rows of a drafter's head stand for, and how wide the target's vocabulary is.

A head that was trimmed before has a map; a full head's row i is id i. Everything that cuts, counts or checks a head
asks here, so that a wrong map is refused in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..calibrate.tokenizer import TokenizerFacts
from ..errors import CheckpointError, MismatchError
from ..vocabulary.draft_map import MapPieces, find_problems
from ..vocabulary.kept import Ids, KeptVocabulary
from .layouts import Drafter
from .read import Checkpoint

KEPT_FILE = "kept.safetensors"


@dataclass(frozen=True, eq=False)
class HeadIds:
    """ids: (rows,), the target id of each head row; None for a full head, where row i is id i.

    width: rows of the target's own head, padding included; the length of a mask over the vocabulary.
    """

    ids: Ids | None
    width: int

    def rows_of(self, kept: KeptVocabulary, drafter: Path) -> Ids:
        """(kept,), the head row of each kept id. Raises MismatchError for ids that the head has no row for."""
        if self.ids is None:
            return kept.ids
        row_of_id = np.full(self.width, -1, np.int64)
        row_of_id[self.ids] = np.arange(self.ids.size)
        rows = row_of_id[kept.ids]
        missing = kept.ids[rows < 0]
        if missing.size:
            raise MismatchError(
                f"the head of {drafter} has no row for {missing.size} of the kept ids",
                expected=f"a subset of its {self.ids.size} ids",
                found=f"id {missing[0]}",
                remedy="choose again with --drafter, which keeps to the ids that are there",
            )
        return np.asarray(rows, np.int64)


def head_ids(drafter: Drafter) -> HeadIds:
    """Read and prove the map of a drafter's head.

    Raises CheckpointError for a head narrower than its vocabulary without a map, and for a map that is all zero,
    repeats ids, leaves the vocabulary, or has another length than the head.
    """
    checkpoint, rows = drafter.checkpoint, drafter.heads[0].rows
    width = target_width(drafter)
    kept_path = checkpoint.folder / KEPT_FILE
    ids: Ids | None = None
    if "d2t" in checkpoint.tensors:
        ids = _ids_of_map(checkpoint, rows, width)
    elif drafter.heads[0].owner is checkpoint and kept_path.exists() and "draft_vocab_size" in checkpoint.config:
        ids = KeptVocabulary.load(kept_path).ids
    if ids is None and rows != width:
        raise CheckpointError(
            f"the head of {checkpoint.folder} does not say which ids its rows are for",
            expected=f"{width} rows, or d2t or {KEPT_FILE} beside {rows} rows",
            found=f"{rows} rows and no map",
            remedy="fetch the folder again: without a map an engine would draft ids 0 and on",
        )
    if ids is not None and ids.size != rows:
        raise CheckpointError(
            f"the map of {checkpoint.folder} does not fit its head",
            expected=f"{rows} ids, one per head row",
            found=f"{ids.size} ids",
            remedy="a map belongs to the head it was cut with: fetch both together",
        )
    return HeadIds(ids, width)


def _ids_of_map(checkpoint: Checkpoint, rows: int, width: int) -> Ids | None:
    """(rows,) ids of the map beside the head's rows, in row order; None where it is the identity over everything."""
    offsets = checkpoint.tensors["d2t"].array()
    if rows == width and not offsets.any():  # some full heads carry an all-zero map
        return None
    mask = checkpoint.tensors["t2d"].array() if "t2d" in checkpoint.tensors else None
    pieces = MapPieces(str(checkpoint.folder), offsets, offsets=True, mask=mask, target_vocab=width)
    for problem in find_problems(pieces, head_rows=rows):
        if problem.rule != "map.unsorted":  # rows are looked up by id here, and the mask is written anew
            raise CheckpointError(problem.message, remedy=problem.remedy)
    return pieces.ids


def target_width(drafter: Drafter) -> int:
    """Rows of the target's head: from t2d, else the config, else a head that was never trimmed.

    A trim writes vocab_size where the layout's config has none (Medusa), so that this stays answerable.
    """
    checkpoint = drafter.checkpoint
    if "t2d" in checkpoint.tensors:
        return checkpoint.tensors["t2d"].rows
    if drafter.heads[0].owner is not checkpoint:
        return drafter.heads[0].rows
    return int(checkpoint.setting("vocab_size", drafter.heads[0].rows))


def prove_tokenizer(kept: KeptVocabulary, width: int, owner: Checkpoint, facts: TokenizerFacts | None) -> None:
    """The kept vocabulary was cut for this target's tokenizer, and that tokenizer fits the head.

    Raises MismatchError for another tokenizer, for one with more ids than the head has rows, and for one so much
    smaller that the spare rows cannot be padding.
    """
    if facts is not None and kept.tokenizer_hash is not None and facts.hash != kept.tokenizer_hash:
        raise MismatchError(
            f"the kept vocabulary was cut for another tokenizer than that of {owner.folder}",
            expected=f"tokenizer {facts.hash[:12]} ({facts.vocab_size} ids)",
            found=f"{kept.tokenizer_hash[:12]} ({kept.target_vocab} ids)",
            remedy="count and choose with the target's own tokenizer",
        )
    # Heads are padded to round numbers: Qwen2.5 by 399 rows of 152,064, phi-2 by 905 of 51,200.
    padding = width - kept.target_vocab
    if padding < 0 or padding > max(64, width // 20):
        raise MismatchError(
            f"the tokenizer of the kept vocabulary does not fit the head of {owner.folder}",
            expected=f"at most {width} ids, and few less",
            found=f"{kept.target_vocab} ids",
            remedy="count and choose with the target's own tokenizer",
        )
