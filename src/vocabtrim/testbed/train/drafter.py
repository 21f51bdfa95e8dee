"""Trains one drafter against the finished target.

    python -m vocabtrim.testbed.train.drafter RUN eagle|eagle3|medusa|independent

Reads RUN/target-exported and RUN/lessons.safetensors (lessons.py), works in RUN/<drafter>. EAGLEs learn one step deep
for most of the time, which is four times as quick, and at the end several steps, on what they drafted themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from . import llama
from .distil import aligned, distil_loss, sampled_ids, valid
from .eagle import Eagle
from .eagle3 import Eagle3
from .lessons import LESSONS, ROWS, Lesson, Lessons, lesson_of
from .loop import Run, Settings
from .medusa import Medusa
from .mixture import Mixture
from .shards import read
from .sizes import INDEPENDENT, MEDUSA_HEADS, VOCAB

_SEED = 1
_THREADS = 2
_FADE = 0.8  # weight of a step beside the one before it: a later draft counts only where the earlier were right
_FEATURE_WEIGHT = 4.0  # of EAGLE's regression onto the target's features, which tells it more than the tokens alone
_SAMPLED, _COMMON = 3072, 1024  # ids in the softmax, and how many of them are always those that answers hold most

# (depth, training steps) in order.
CURRICULUM = {
    "eagle": ((1, 1700), (3, 300)),
    "eagle3": ((1, 1700), (3, 300)),
    "medusa": ((MEDUSA_HEADS, 800),),
    "independent": ((1, 6000),),
}
RATES = {
    "eagle": (3e-3, 1e-3),
    "eagle3": (3e-3, 5e-4),
    "medusa": (2e-3, 1e-3),
    "independent": (4e-3, 4e-3),
}
SETTINGS = {
    kind: Settings(*RATES[kind], decay=0.05, warmup=30, evaluate_every=400, steps=sum(steps for _, steps in parts))
    for kind, parts in CURRICULUM.items()
}


@dataclass(frozen=True, eq=False)
class Pupil:
    """A drafter in training. drafted: as many steps as asked for, see `distil.aligned`. head: what scores them."""

    module: nn.Module
    drafted: Callable[[Lesson, int], list[Tensor]]
    head: Callable[[], Tensor]
    feature_weight: float = 0.0


def pupil(kind: str, target_head: Tensor) -> Pupil:
    """A drafter of this kind, fresh from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        return {"eagle": _eagle, "eagle3": _eagle3, "medusa": _medusa, "independent": _independent}[kind](target_head)


def _eagle(target_head: Tensor) -> Pupil:
    module = Eagle()
    drafted = _ahead(module, lambda lesson: lesson.features)
    return Pupil(module, drafted, lambda: target_head, _FEATURE_WEIGHT)


def _eagle3(target_head: Tensor) -> Pupil:
    module = Eagle3()
    with torch.no_grad():
        module.lm_head.weight.copy_(target_head)  # what it would come to anyway, for the most part
    return Pupil(module, _ahead(module, lambda lesson: lesson.taps), lambda: module.lm_head.weight)


def _ahead(module: nn.Module, read: Callable[[Lesson], Tensor]) -> Callable[[Lesson, int], list[Tensor]]:
    """How an EAGLE drafts several steps deep, compiled for each depth. read: what it takes of the target."""
    forward = torch.compile(module, dynamic=False)

    def drafted(lesson: Lesson, depth: int) -> list[Tensor]:
        place = torch.from_numpy(lesson.position), llama.mask_of(lesson)
        hidden: list[Tensor] = forward(read(lesson), lesson.embedded, *place, depth)
        return hidden

    return drafted


def _medusa(target_head: Tensor) -> Pupil:
    module = Medusa()
    return Pupil(module, lambda lesson, depth: module(lesson.features)[:depth], lambda: target_head)


def _independent(target_head: Tensor) -> Pupil:
    module = llama.build(llama.config(INDEPENDENT), _SEED)
    with torch.no_grad():
        module.lm_head.weight.copy_(narrowed(target_head, INDEPENDENT.hidden))
    core = torch.compile(module.model, dynamic=False)

    def drafted(lesson: Lesson, _: int) -> list[Tensor]:
        # It scores the token after its own place; a roll ahead makes it what `aligned` expects of a first step.
        return [torch.roll(llama.hidden_of(core, lesson).last_hidden_state, -1, 1)]

    return Pupil(module, drafted, lambda: module.lm_head.weight)


def narrowed(rows: Tensor, width: int) -> Tensor:
    """(vocab, width): what of rows (vocab, hidden) lies in the `width` directions that tell most of them apart.

    As large as a fresh embedding. What the target knows of its tokens need not be learned again.
    """
    _, _, directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    projected: Tensor = rows @ directions[:width].T
    return projected * (0.02 / float(projected.square().mean().sqrt()))


def loss_of(
    student: Pupil, target_head: Tensor, lesson: Lesson, depth: int, ids: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """What the drafter learns from: cross-entropy under the target's distribution, later steps weighing less.

    ids: of `sampled_ids`; all where None.
    """
    with torch.autocast("cpu", torch.bfloat16):
        drafted = aligned(student.drafted(lesson, depth))
    weight = valid(lesson, depth) * _FADE ** torch.arange(depth)
    weight = (weight / weight.sum()).flatten(0, 1)
    places, features = drafted.flatten(0, 1), lesson.features.flatten(0, 1)
    rows, offset = (slice(None), None) if ids is None else ids
    loss = distil_loss(places, features, student.head()[rows], target_head[rows], weight, offset=offset, compiled=True)
    if student.feature_weight:
        wanted = features[:, None].float().expand_as(places)
        apart = nn.functional.smooth_l1_loss(places.float(), wanted, reduction="none")
        loss = loss + student.feature_weight * (apart.mean(-1) * weight).sum()
    return loss


def depth_at(kind: str, step: int) -> int:
    """How deep a kind of drafter learns at a training step, counted from 0."""
    depths = [depth for depth, steps in CURRICULUM[kind] for _ in range(steps)]
    return depths[min(step, len(depths) - 1)]


def main(run: Path, kind: str) -> None:
    """Start or go on."""
    from transformers import LlamaForCausalLM

    torch.set_num_threads(_THREADS)
    target = LlamaForCausalLM.from_pretrained(run / "target-exported", dtype=torch.float32)
    head = target.requires_grad_(False).lm_head.weight
    student = pupil(kind, head)
    lessons = Lessons(run / LESSONS, target.model.embed_tokens.weight)
    common = lessons.answers.argsort(descending=True, stable=True)[:_COMMON]
    heldout = read(run / "heldout.safetensors")
    training = Run(run / kind, student.module, lessons, SETTINGS[kind])

    def loss(lesson: Lesson) -> Tensor:
        ids = sampled_ids(torch.from_numpy(lesson.ids), common, _SAMPLED, VOCAB)
        return loss_of(student, head, lesson, depth_at(kind, training.step), ids)

    def evaluate() -> dict[str, float]:
        batches = {name: Mixture(heldout, {name: 1.0}, rows=ROWS, seed=0).next() for name in heldout}
        parts = {name: loss_of(student, head, lesson_of(target, batch), 1) for name, batch in batches.items()}
        return {name: float(part.detach()) for name, part in parts.items()}

    training.train(loss, evaluate)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
