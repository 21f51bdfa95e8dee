"""Drafters whose proposals are programs: catching up is one, and everything that is drafted behind it another.

Protocol and plans are those of the plain drafters; what a program cannot do, such as drawing by chance, or drafting
less deep at the end of an output, is done step by step, on the same cache.
"""

from __future__ import annotations

import torch

from ..chance import Chance
from ..drafters.feature_body import FeatureBody
from ..drafters.independent import IndependentBody
from ..drafters.medusa import MedusaDrafter
from ..drafters.plans import Plan
from ..drafters.protocol import Draft, Drafter
from ..drafters.stepping import SteppingDrafter
from ..tree import Tree
from .buckets import context_bucket
from .feature_pass import StaticFeatures
from .fused_head import FusedHead
from .growth import propose, proposed, recordable, steps
from .independent_pass import StaticIndependent
from .lm_pass import moving_rope, why_not, window
from .medusa_pass import StaticMedusa
from .program import Program, Programs, Recorder, recorder


def static_drafter(drafter: Drafter, record: Recorder | None = None, *, compiled: bool = False) -> Drafter:
    """The same drafter by programs, or itself where it cannot be: nothing may have been read with it.

    record: how programs are recorded; by the device's own way where None. compiled: heads, and the layers of feature
    drafters, by torch.compile.
    """
    if isinstance(drafter, MedusaDrafter):
        return StaticMedusa(drafter, record or recorder(drafter.heads[0].weight.device), compiled=compiled)
    if not isinstance(drafter, SteppingDrafter):
        return drafter
    record = record or recorder(drafter.body.head.weight.device)
    if isinstance(drafter.body, FeatureBody) and moving_rope(drafter.body.layers.config) is None:
        return StaticDrafter(
            StaticFeatures(drafter.body, record, compiled=compiled), drafter.plan, record, compiled=compiled
        )
    if isinstance(drafter.body, IndependentBody) and _fits(drafter.body):
        return StaticDrafter(StaticIndependent(drafter.body, record), drafter.plan, record, compiled=compiled)
    return drafter


def _fits(body: IndependentBody) -> bool:
    """A proposal of programs has no plain path to leave for beyond a window."""
    return why_not(body.lm) is None and window(body.lm.config) is None


class StaticDrafter(SteppingDrafter):
    """A drafter that goes token by token, and on the device as long as it goes as deep as its plan says."""

    body: StaticFeatures | StaticIndependent

    def __init__(
        self, body: StaticFeatures | StaticIndependent, plan: Plan, record: Recorder | None, *, compiled: bool = False
    ) -> None:
        super().__init__(body, plan)
        self._record = record
        self._head = FusedHead(body.head, compiled=compiled)
        self._weight, self._replaced = body.head.weight, 0
        self._programs = Programs(self._make)

    def propose(self, depth: int, chance: Chance) -> Draft:
        plan, static = self.plan, self.body.static
        if not recordable(plan) or depth < steps(plan):
            return super().propose(depth, chance)
        if not self.body.read_unread():
            draft, self._entries = Draft(Tree.chain(self._root)), [-1]
            return draft
        past = static.cache.length
        context = context_bucket(past + plan.reads)
        finite, *said = self._programs.get((plan, context), self._rest_on())().tolist()
        if not finite:
            FusedHead.prove_numbers(torch.tensor([torch.nan]))
        static.cache.set_length(past + plan.reads)
        draft, self._entries = proposed(plan, self._root, said)
        return draft

    def _rest_on(self) -> tuple[int, int]:
        """Where the cache lies, and the rows of the head, which may be others from one round to the next."""
        head = self.body.head
        if head.weight is not self._weight:
            self._weight, self._replaced = head.weight, self._replaced + 1
            self._head.kept_ids = head.kept_ids
        return self.body.static.cache.moved, self._replaced

    def _make(self, key: tuple[Plan, int]) -> Program[torch.Tensor]:
        plan, context = key

        @torch.inference_mode()
        def step() -> torch.Tensor:
            return propose(plan, self.body.static, self._head, context)

        return Program(step, self._record)
