"""The bytes and parameters that a target pass and a draft step read, summed from the checkpoints' own headers.

Knows which tensors a pass touches; the arithmetic on the sums is cost.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..cost import Cost
from ..vocabulary.kept import Ids
from .head_ids import head_ids
from .layouts import INDEPENDENT, MEDUSA, Drafter, embedding_of, head_of, identify, with_prefix
from .read import Checkpoint, open_checkpoint
from .stored import StoredTensor

_NOT_READ_PER_TOKEN = re.compile(
    r"(^|\.)(visual|vision_tower|vision_model|audio_tower|multi_modal_projector|mtp|mtp_layers)\."
)
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_ROUTED_EXPERT = re.compile(r"\.experts\.")


def drafter_cost(drafter: Path, target: Path) -> Cost:
    """Cost of a drafter beside its target, with the drafter's head as it is (full_head_rows).

    One row of the input embedding is read per token; a mixture of experts reads its active experts only. EAGLE-3's
    feature fusion (fc), read once a round, is charged to every draft step, so its gain is slightly understated.
    Raises the errors of `open_checkpoint` and `identify`.
    """
    target_checkpoint = open_checkpoint(target)
    return cost_of(identify(open_checkpoint(drafter), target_checkpoint), target_checkpoint)


def cost_of(drafter: Drafter, target: Checkpoint) -> Cost:
    """`drafter_cost` of checkpoints that are open already."""
    body = [drafter.checkpoint.tensors[name] for name in drafter.body]
    embedding = _under(body, drafter.embedding)
    head_tensors = [tensor for head in drafter.heads for tensor in head.tensors.values() if tensor.elements > 1]
    rows = drafter.heads[0].rows
    # EAGLE drafters without an embedding of their own look up the target's; the paper charges it to them all the same.
    looked_up = embedding or _under(target.tensors.values(), embedding_of(target))
    parameters = sum(tensor.elements for tensor in body if tensor not in embedding)
    return Cost(
        target_pass_bytes=round(_pass_sum(target, by_bytes=True)),
        drafter_body_bytes=sum(tensor.nbytes for tensor in body if tensor not in embedding) + _row_bytes(looked_up),
        head_row_bytes=sum(tensor.nbytes for tensor in head_tensors) / rows,
        full_head_rows=rows,
        target_parameters=round(_pass_sum(target, by_bytes=False)),
        drafter_body_parameters=parameters + (0 if drafter.tied else _paper_embedding(drafter, looked_up)),
        head_row_parameters=round(sum(head.main.elements for head in drafter.heads) / rows),
        sequential=drafter.kind != MEDUSA,
    )


def available_ids(drafter: Path, target: Path | None = None) -> Ids | None:
    """(rows,) target ids that the drafter's head still has, in row order; None where it has all of them."""
    return head_ids(identify(open_checkpoint(drafter), None if target is None else open_checkpoint(target))).ids


def _paper_embedding(drafter: Drafter, looked_up: list[StoredTensor]) -> int:
    """Parameters of the input embedding, where VocabTrim's tables charge it: to EAGLE drafters."""
    own = drafter.kind == INDEPENDENT or drafter.kind.startswith("EAGLE")
    return sum(tensor.elements for tensor in looked_up) if own else 0


def _pass_sum(target: Checkpoint, *, by_bytes: bool) -> float:
    """Bytes that one target pass reads, or the target's active parameters with its embedding counted."""
    _, tied = head_of(target)
    embedding = _under(target.tensors.values(), embedding_of(target))
    layers = target.setting("num_hidden_layers")
    total = 0.0
    for name, tensor in target.tensors.items():
        layer = _LAYER.match(name)
        extra_layer = layer is not None and layers is not None and int(layer[1]) >= layers  # an MTP module
        if extra_layer or _NOT_READ_PER_TOKEN.search(name):
            continue
        share = _active_share(target) if _ROUTED_EXPERT.search(name) else 1.0
        if by_bytes and tensor in embedding and not tied:
            total += tensor.row_bytes
        else:
            total += share * (tensor.nbytes if by_bytes else tensor.elements)
    return total


def _active_share(target: Checkpoint) -> float:
    """The share of routed experts that one token passes through."""
    experts = next(
        (
            target.setting(key)
            for key in ("n_routed_experts", "num_experts", "num_local_experts")
            if target.setting(key)
        ),
        None,
    )
    return target.setting("num_experts_per_tok", experts) / experts if experts else 1.0


def _under(tensors: Iterable[StoredTensor], prefix: str | None) -> list[StoredTensor]:
    return list(with_prefix({tensor.name: tensor for tensor in tensors}, prefix).values()) if prefix else []


def _row_bytes(tensors: list[StoredTensor]) -> int:
    return sum(tensor.row_bytes for tensor in tensors)
