"""What a drafter is and what a trim would save, told from headers alone.

Knows layouts and sizes; reads no weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..calibrate.tokenizer import tokenizer_facts
from ..hub import local_folder
from .costs import DraftStep, cost_of, draft_step
from .head_ids import head_ids
from .layouts import identify
from .read import Checkpoint, open_checkpoint

_SIZES = (65_536, 32_768, 16_384, 8_192)


@dataclass(frozen=True)
class Inspection:
    """A drafter described. Bytes are read per draft step.

    head_rows: rows of one head; target_rows: rows of the target's own head, padding included.
    head_owner: "drafter" or "target". trimmed: the head has fewer rows than the target's.
    head_dtypes: of all head tensors; more than one where it is quantized. head_format: "unquantized", or which.
    savings: kept size -> draft-step bytes with that many rows.
    cost_ratio: bytes of a draft step / bytes of a target pass; None without a target.
    tokenizer_ids: ids of the tokenizer beside the drafter or target; None where there is none.
    """

    kind: str
    heads: int
    head_rows: int
    hidden: int
    target_rows: int
    head_owner: str
    tied: bool
    trimmed: bool
    head_dtypes: tuple[str, ...]
    head_format: str
    body_bytes: int
    head_bytes: int
    savings: dict[int, int]
    cost_ratio: float | None
    tokenizer_ids: int | None

    @property
    def draft_step_bytes(self) -> int:
        return self.body_bytes + self.head_bytes

    @property
    def head_share(self) -> float:
        """The head's part of what a draft step reads."""
        return self.head_bytes / self.draft_step_bytes

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**vars(self), "draft_step_bytes": self.draft_step_bytes, "head_share": self.head_share}


def inspect(path: str | Path, target: str | Path | None = None) -> Inspection:
    """Describe a drafter's folder. target: needed where the drafter has no head of its own (EAGLE-1/2).

    Raises the errors of `open_checkpoint`, `identify` and `head_ids`.
    """
    target_checkpoint = None if target is None else open_checkpoint(local_folder(target))
    drafter = identify(open_checkpoint(local_folder(path)), target_checkpoint)
    ids = head_ids(drafter)
    step = draft_step(drafter)
    head = drafter.heads[0]
    return Inspection(
        kind=drafter.kind,
        heads=len(drafter.heads),
        head_rows=head.rows,
        hidden=head.stored.hidden or drafter.checkpoint.setting("hidden_size", 0),
        head_format=head.stored.format,
        target_rows=ids.width,
        head_owner="drafter" if head.owner is drafter.checkpoint else "target",
        tied=drafter.tied,
        trimmed=ids.ids is not None,
        head_dtypes=tuple(sorted({tensor.dtype for tensor in head.tensors.values()})),
        body_bytes=step.body_bytes,
        head_bytes=step.head_bytes,
        savings=_savings(step),
        cost_ratio=None
        if target_checkpoint is None
        else cost_of(drafter, target_checkpoint).cost_ratio(step.head_rows),
        tokenizer_ids=_tokenizer_ids(drafter.checkpoint, target_checkpoint),
    )


def _savings(step: DraftStep) -> dict[int, int]:
    sizes = [size for size in _SIZES if size < step.head_rows] or [step.head_rows // 2, step.head_rows // 4]
    return {size: step.body_bytes + round(size * step.head_row_bytes) for size in sizes if size}


def _tokenizer_ids(*checkpoints: Checkpoint | None) -> int | None:
    for checkpoint in checkpoints:
        if checkpoint is not None and (checkpoint.folder / "tokenizer.json").exists():
            return tokenizer_facts(checkpoint.folder).vocab_size
    return None
