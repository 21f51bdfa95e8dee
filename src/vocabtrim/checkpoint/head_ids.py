"""Which target ids the rows of a drafter's head stand for, and how wide the target's vocabulary is.

A head that was trimmed before has a map; a full head's row i is id i. Everything that cuts, counts or checks a head
asks here, so that a wrong map is refused in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..calibrate.tokenizer import TokenizerFacts
from ..errors import CheckpointError, MismatchError
from ..vocabulary.draft_map import MapPieces, Problem, find_problems
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

    Raises CheckpointError with the first of `map_problems` and `width_problems`.
    """
    for problem in (*map_problems(drafter), *width_problems(drafter)):
        if problem.rule != "map.unsorted":  # rows are looked up by id here, and every map is written anew
            raise CheckpointError(problem.message, remedy=problem.remedy)
    pieces = _map_pieces(drafter)
    return HeadIds(None if pieces is None else pieces.ids, target_width(drafter))


def map_problems(drafter: Drafter) -> list[Problem]:
    """Everything wrong with what a drafter says about the ids of its head's rows.

    Rules: those of `find_problems`, and map.missing for a head narrower than its vocabulary without a map.
    """
    rows, width = drafter.heads[0].rows, target_width(drafter)
    pieces = _map_pieces(drafter)
    if pieces is not None:
        return find_problems(pieces, head_rows=rows)
    if rows == width:
        return []
    message = (
        f"the head of {drafter.checkpoint.folder} has {rows} rows for a vocabulary of {width} and no map says which "
        f"ids they are: d2t or {KEPT_FILE} is missing"
    )
    return [Problem("map.missing", message, "fetch the folder whole: without a map vLLM drafts ids 0 and on, silently")]


def width_problems(drafter: Drafter) -> Iterator[Problem]:
    """Heads whose rows are not of the hidden size, or that do not all have the same number of rows."""
    hidden = drafter.checkpoint.setting("hidden_size")
    for head in drafter.heads:
        main, stored = head.main, head.stored
        if hidden and stored.hidden not in {None, hidden}:
            packed = f", {stored.format}: {stored.ids} rows of {stored.hidden}" if stored.quantized else ""
            yield Problem(
                "head.width",
                f"{main.name} of {main.path} is {list(main.shape)}{packed}: expected rows of the hidden size {hidden}",
                "the head belongs to another model, or hidden_size is wrong",
            )
        if head.rows != drafter.heads[0].rows:
            yield Problem(
                "head.rows",
                f"{main.name} has {head.rows} rows but {drafter.heads[0].main.name} has {drafter.heads[0].rows}",
                "all heads must be cut to one kept vocabulary: trim the original again",
            )


def _map_pieces(drafter: Drafter) -> MapPieces | None:
    """The map beside a head that was trimmed before; None for a full head, where row i is id i."""
    checkpoint, rows, width = drafter.checkpoint, drafter.heads[0].rows, target_width(drafter)
    folder = checkpoint.folder
    if "d2t" in checkpoint.tensors:
        offsets = checkpoint.tensors["d2t"].array()
        if offsets.size == rows == width and not offsets.any():  # some full heads carry an all-zero map
            return None
        mask = checkpoint.tensors["t2d"].array() if "t2d" in checkpoint.tensors else None
        return MapPieces(str(folder), offsets, offsets=True, mask=mask, target_vocab=width)
    if drafter.heads[0].owner is checkpoint and (folder / KEPT_FILE).exists() and rows != width:
        kept = KeptVocabulary.load(folder / KEPT_FILE)
        return MapPieces(str(folder / KEPT_FILE), kept.ids, offsets=False, target_vocab=width)
    return None


def target_width(drafter: Drafter) -> int:
    """Rows of the target's head: from the drafter's config or the target's, else a mask, else an untrimmed head.

    A trim writes vocab_size where the layout's config has none (Medusa), so that this stays answerable.
    """
    checkpoint, head = drafter.checkpoint, drafter.heads[0]
    if head.owner is not checkpoint:
        return head.rows
    said = checkpoint.setting("vocab_size")
    if said is None and drafter.target is not None:
        said = drafter.target.setting("vocab_size")
    if said is None:
        said = checkpoint.tensors["t2d"].rows if "t2d" in checkpoint.tensors else head.rows
    return int(said)


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
            f"the kept vocabulary's tokenizer does not fit the head of {owner.folder}",
            expected=f"about {width} ids, as many as its head has rows, less a little padding",
            found=f"{kept.target_vocab} ids",
            remedy="count and choose with the target's own tokenizer",
        )
