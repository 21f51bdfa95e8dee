"""The bytes and parameters that a target pass and a draft step read, summed from the checkpoints' own headers.

Knows which tensors a pass touches; the arithmetic on the sums is cost.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..cost import Cost
from ..vocabulary.kept import Ids
from .head_ids import head_ids
from .layouts import EAGLE, EAGLE3, INDEPENDENT, MEDUSA, Drafter, embedding_of, head_of, identify, with_prefix
from .quantization_config import told_of
from .read import Checkpoint, open_checkpoint
from .stored import DTYPE_BITS, StoredTensor

# Beside quantized weights, and no parameters of the model; see head_tensors.py for the formats.
_BESIDE_WEIGHTS = re.compile(
    r"\.(weight_(scale|scale_inv|scale_2|global_scale|zero_point|shape|g_idx|format)|scales|qzeros|g_idx|SCB"
    r"|(input|output)_(scale|zero_point|global_scale)|weight\.\w+(\.\w+)*)$"
)
_NOT_READ_PER_TOKEN = re.compile(
    r"(^|\.)(visual|vision_tower|vision_model|audio_tower|multi_modal_projector|mtp|mtp_layers)\."
)
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_ROUTED_EXPERT = re.compile(r"\.experts\.")


@dataclass(frozen=True)
class DraftStep:
    """What one draft step reads. body_bytes: all but the head and all but one row of the input embedding.

    head_row_bytes: one row of every head, scales and bias included; where ids share a block's scale, with one of its
    own, as a cut gives it. head_rows: of one head.
    """

    body_bytes: int
    body_parameters: int
    head_row_bytes: float
    head_row_parameters: int
    head_rows: int

    @property
    def head_bytes(self) -> int:
        return round(self.head_row_bytes * self.head_rows)

    @property
    def bytes(self) -> int:
        return self.body_bytes + self.head_bytes


def draft_step(drafter: Drafter) -> DraftStep:
    """Sum what one draft step of a drafter reads, with its head as it is.

    A mixture of experts reads its active experts. Several MTP modules take turns, so a step reads the mean of them.
    EAGLE-3's feature fusion (fc), read once a round, is charged to every draft step, so its gain is understated a
    little. An embedding that belongs to the target costs one row, which is left out.
    """
    body = [drafter.checkpoint.tensors[name] for name in drafter.read_per_step]
    embeddings = _under(body, *drafter.embeddings)
    others = [(tensor, _share(drafter.checkpoint, tensor.name)) for tensor in body if tensor not in embeddings]
    body_bytes = sum(share * tensor.nbytes for tensor, share in others) + sum(t.row_bytes for t in embeddings)
    stored = [head.stored for head in drafter.heads]
    heads_at_once = len(drafter.heads) if drafter.kind == MEDUSA else 1
    body_bytes += heads_at_once * sum(head.bytes_for_all for head in stored) / len(stored) * drafter.modules
    width = stored[0].hidden or drafter.checkpoint.setting("hidden_size") or stored[0].main.shape[-1]
    return DraftStep(
        body_bytes=round(body_bytes / drafter.modules),
        body_parameters=round(
            sum(share * _parameters(drafter.checkpoint, tensor) for tensor, share in others) / drafter.modules
        ),
        head_row_bytes=heads_at_once * sum(head.bytes_per_id for head in stored) / len(stored),
        head_row_parameters=heads_at_once * width,
        head_rows=drafter.heads[0].rows,
    )


def drafter_cost(drafter: Path, target: Path) -> Cost:
    """Cost of a drafter beside its target, from their folders.

    Raises the errors of `open_checkpoint` and `identify`.
    """
    target_checkpoint = open_checkpoint(target)
    return cost_of(identify(open_checkpoint(drafter), target_checkpoint), target_checkpoint)


def cost_of(drafter: Drafter, target: Checkpoint) -> Cost:
    """`drafter_cost` of checkpoints that are open already."""
    step = draft_step(drafter)
    return Cost(
        target_pass_bytes=round(_pass_sum(target, by_bytes=True)),
        drafter_body_bytes=step.body_bytes,
        head_row_bytes=step.head_row_bytes,
        full_head_rows=step.head_rows,
        target_parameters=round(_pass_sum(target, by_bytes=False)),
        drafter_body_parameters=step.body_parameters + _paper_embedding(drafter, target),
        head_row_parameters=step.head_row_parameters,
        sequential=drafter.kind != MEDUSA,
    )


def available_ids(drafter: Path, target: Path | None = None) -> Ids | None:
    """(rows,) target ids that the drafter's head still has, in row order; None where it has all of them."""
    return head_ids(identify(open_checkpoint(drafter), None if target is None else open_checkpoint(target))).ids


def _paper_embedding(drafter: Drafter, target: Checkpoint) -> int:
    """Parameters of the input embedding, which VocabTrim's tables charge to the drafter, also where it is the target's.

    A tied head is the embedding and is charged as the head.
    """
    if drafter.kind not in {EAGLE, EAGLE3, INDEPENDENT} or drafter.tied:
        return 0
    own = _under(drafter.checkpoint.tensors.values(), *drafter.embeddings)
    return sum(tensor.elements for tensor in own or _under(target.tensors.values(), embedding_of(target)))


def _pass_sum(target: Checkpoint, *, by_bytes: bool) -> float:
    """Bytes that one target pass reads, or the target's active parameters with its embedding counted.

    A head stored beside a tied embedding is never loaded, so it does not count.
    """
    _, tied = head_of(target)
    embedding = _under(target.tensors.values(), embedding_of(target))
    layers = target.setting("num_hidden_layers")
    total = 0.0
    for name, tensor in target.tensors.items():
        layer = _LAYER.match(name)
        extra_layer = layer is not None and layers is not None and int(layer[1]) >= layers  # an MTP module
        if extra_layer or _NOT_READ_PER_TOKEN.search(name) or (tied and name.startswith("lm_head.")):
            continue
        if by_bytes and tensor in embedding and not tied:
            total += tensor.row_bytes
        else:
            total += _share(target, name) * (tensor.nbytes if by_bytes else _parameters(target, tensor))
    return total


def _parameters(checkpoint: Checkpoint, tensor: StoredTensor) -> float:
    """Parameters that a tensor stands for: several in each element of packed weights, none in scales and the like."""
    if _BESIDE_WEIGHTS.search(tensor.name):
        return 0
    packed = re.search(r"\.(weight|weight_packed|qweight)$", tensor.name)
    if packed is None or tensor.dtype not in {"I32", "U32", "U8"}:
        return tensor.elements
    bits = told_of(checkpoint, tensor.name[: packed.start()]).bits or 4
    return tensor.elements * DTYPE_BITS[tensor.dtype] / bits


def _share(checkpoint: Checkpoint, name: str) -> float:
    """How much of a tensor one token reads: of routed experts the active ones, of anything else all."""
    if not _ROUTED_EXPERT.search(name):
        return 1.0
    for key in ("n_routed_experts", "num_experts", "num_local_experts"):
        if experts := checkpoint.setting(key):
            return float(checkpoint.setting("num_experts_per_tok", experts)) / float(experts)
    return 1.0


def _under(tensors: Iterable[StoredTensor], *prefixes: str | None) -> list[StoredTensor]:
    named = {tensor.name: tensor for tensor in tensors}
    return [tensor for prefix in prefixes if prefix for tensor in with_prefix(named, prefix).values()]
