"""Trains one drafter against the finished target.

    python -m vocabtrim.testbed.train.drafter RUN eagle|eagle3|medusa|independent

Reads RUN/target-exported and RUN/completions-target.safetensors (completions.py) beside RUN/train.safetensors; works in
RUN/<drafter> (loop.py says how to end it).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import llama
from .distil import Teacher, aligned, distil_loss, valid
from .eagle import Eagle
from .eagle3 import Eagle3
from .loop import Run, Settings
from .medusa import Medusa
from .mixture import Batch, Mixture
from .shards import Shard, read
from .sizes import EAGLE3_TAPS, INDEPENDENT
from .target import WEIGHTS

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

_ROWS = 8
_SEED = 1
_THREADS = 2
_STEPS = 4  # drafted in training; deeper drafts go on in the same way
_FADE = 0.8  # weight of a step beside the one before it: a later draft counts only where the earlier were right
_FEATURE_WEIGHT = 0.2  # of EAGLE's regression onto the target's features
_OWN = 0.7  # share of the target's own completions; the rest are the documents it was trained on

SETTINGS = {
    "eagle": Settings(matrix_rate=2e-3, vector_rate=1e-3, decay=0.05, warmup=30, evaluate_every=200),
    "eagle3": Settings(matrix_rate=2e-3, vector_rate=5e-4, decay=0.05, warmup=30, evaluate_every=200),
    "medusa": Settings(matrix_rate=2e-3, vector_rate=1e-3, decay=0.05, warmup=30, evaluate_every=200),
    "independent": Settings(matrix_rate=4e-3, vector_rate=4e-3, decay=0.05, warmup=60, evaluate_every=300),
}


@dataclass(frozen=True, eq=False)
class Pupil:
    """A drafter in training. drafted: what its steps hand to the head, see `distil.aligned`. head: what scores it."""

    module: nn.Module
    drafted: Callable[[Batch, Teacher], list[Tensor]]
    head: Callable[[], Tensor]
    steps: int
    feature_weight: float = 0.0


def teacher_of(target: LlamaForCausalLM, batch: Batch) -> Teacher:
    """The target's hidden states on a batch, without gradients."""
    with torch.no_grad():
        out = llama.hidden_of(target.model, batch, output_hidden_states=True)
    taps = torch.cat([out.hidden_states[layer] for layer in EAGLE3_TAPS], -1)
    return Teacher(out.last_hidden_state, taps, out.hidden_states[0])


def pupil(kind: str, target_head: Tensor, steps: int = _STEPS) -> Pupil:
    """A drafter of this kind, fresh from the seed. steps: how far EAGLEs draft."""
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        if kind in ("eagle", "eagle3"):
            return (_eagle if kind == "eagle" else _eagle3)(target_head, steps)
        return {"medusa": _medusa, "independent": _independent}[kind](target_head)


def _eagle(target_head: Tensor, steps: int) -> Pupil:
    module = Eagle()
    drafted = _ahead(module, lambda teacher: teacher.features, steps)
    return Pupil(module, drafted, lambda: target_head, steps, _FEATURE_WEIGHT)


def _eagle3(target_head: Tensor, steps: int) -> Pupil:
    module = Eagle3()
    with torch.no_grad():
        module.lm_head.weight.copy_(target_head)  # what it would come to anyway, for the most part
    return Pupil(module, _ahead(module, lambda teacher: teacher.taps, steps), lambda: module.lm_head.weight, steps)


def _ahead(
    module: nn.Module, read: Callable[[Teacher], Tensor], steps: int
) -> Callable[[Batch, Teacher], list[Tensor]]:
    """How an EAGLE drafts `steps` deep, compiled. read: what it takes of the target."""
    forward = torch.compile(module, dynamic=False)

    def drafted(batch: Batch, teacher: Teacher) -> list[Tensor]:
        place = torch.from_numpy(batch.position), llama.mask_of(batch)
        hidden: list[Tensor] = forward(read(teacher), teacher.embedded, *place, steps)
        return hidden

    return drafted


def _medusa(target_head: Tensor) -> Pupil:
    module = Medusa()
    return Pupil(module, lambda _, teacher: module(teacher.features), lambda: target_head, len(module.heads))


def _independent(target_head: Tensor) -> Pupil:
    module = llama.build(llama.config(INDEPENDENT), _SEED)
    core = torch.compile(module.model, dynamic=False)

    def drafted(batch: Batch, _: Teacher) -> list[Tensor]:
        # It scores the token after its own place; a roll ahead makes it what `aligned` expects of a first step.
        return [torch.roll(llama.hidden_of(core, batch).last_hidden_state, -1, 1)]

    return Pupil(module, drafted, lambda: module.lm_head.weight, 1)


def loss_of(student: Pupil, target: LlamaForCausalLM, batch: Batch) -> Tensor:
    """What the drafter learns from: cross-entropy under the target's distribution, later steps weighing less."""
    teacher = teacher_of(target, batch)
    with torch.autocast("cpu", torch.bfloat16):
        drafted = aligned(student.drafted(batch, teacher))
    fade = _FADE ** torch.arange(student.steps)
    weight = valid(batch, student.steps) * fade
    weight = (weight / weight.sum()).flatten(0, 1)
    places, features = drafted.flatten(0, 1), teacher.features.flatten(0, 1)
    head = target.lm_head.weight
    loss = distil_loss(places, features, student.head(), head, weight, compiled=True)
    if student.feature_weight:
        apart = nn.functional.smooth_l1_loss(places.float(), features[:, None].expand_as(places), reduction="none")
        loss = loss + student.feature_weight * (apart.mean(-1) * weight).sum()
    return loss


def training_shards(run: Path) -> tuple[dict[str, Shard], dict[str, float]]:
    """The target's completions and the documents, with shares of the tokens."""
    own = {f"own {name}": shard for name, shard in read(run / "completions-target.safetensors").items()}
    documents = read(run / "train.safetensors")
    weights = {name: _OWN * WEIGHTS[name.removeprefix("own ")] for name in own}
    return own | documents, weights | {name: (1 - _OWN) * share for name, share in WEIGHTS.items()}


def main(run: Path, kind: str) -> None:
    """Start or go on."""
    from transformers import LlamaForCausalLM

    torch.set_num_threads(_THREADS)
    target = LlamaForCausalLM.from_pretrained(run / "target-exported", dtype=torch.float32).requires_grad_(False)
    student = pupil(kind, target.lm_head.weight)
    shards, weights = training_shards(run)
    heldout = read(run / "heldout.safetensors")

    def evaluate() -> dict[str, float]:
        batches = {name: Mixture(heldout, {name: 1.0}, rows=_ROWS, seed=0).next() for name in heldout}
        return {name: float(loss_of(student, target, batch).detach()) for name, batch in batches.items()}

    training = Run(run / kind, student.module, Mixture(shards, weights, rows=_ROWS, seed=_SEED), SETTINGS[kind])
    training.train(lambda batch: loss_of(student, target, batch), evaluate)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
