"""The clock of stages: a module's own time, without that of a timed module inside it; hooks go when it closes."""

from __future__ import annotations

import time

import torch
from torch import nn

from vocabtrim.measure.timing import StageClock


class Slow(nn.Module):
    def __init__(self, seconds: float, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.seconds, self.inner = seconds, inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return x if self.inner is None else self.inner(x)


def test_time_inside_another_stage_is_counted_once() -> None:
    """Sleeping never takes less than asked for; the whole is what both stages have together."""
    head = Slow(0.02)
    body = Slow(0.03, head)
    with StageClock({"body": [body], "head": [head]}) as clock:
        start = time.perf_counter()
        body(torch.zeros(1))
        body(torch.zeros(1))
        whole = time.perf_counter() - start
    assert clock.seconds["head"] >= 0.04
    assert clock.seconds["body"] >= 0.06
    assert clock.seconds["body"] + clock.seconds["head"] <= whole


def test_closed_it_counts_no_more() -> None:
    module = Slow(0.001)
    with StageClock({"body": [module]}) as clock:
        pass
    module(torch.zeros(1))
    assert not clock.seconds
    assert not module._forward_hooks
    assert not module._forward_pre_hooks
