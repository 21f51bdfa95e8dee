"""Where the time of decoding goes: the models' forward passes, by hooks, so that decoding knows nothing of it.

What is in no forward pass is our own time. On CUDA every hook waits for the device, which costs a little and makes the
split true.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from time import perf_counter
from types import TracebackType
from typing import Any

import torch
from torch import nn


class StageClock:
    """Seconds spent in the forward passes of named modules, while the context is open.

    stages: name -> modules. A module inside another is timed apart from it: seconds are the module's own.
    For one thread, and not to be entered twice.
    """

    def __init__(self, stages: Mapping[str, list[nn.Module]]) -> None:
        self.stages = stages
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[list[float]] = []  # of each running pass: when it began, and the time of passes inside it
        self._hooks: list[Any] = []

    def __enter__(self) -> StageClock:
        for name, modules in self.stages.items():
            for module in modules:
                self._hooks.append(module.register_forward_pre_hook(self._begin))
                self._hooks.append(module.register_forward_hook(self._ends(name), always_call=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _begin(self, *_: Any) -> None:
        self._open.append([_now(), 0.0])

    def _ends(self, name: str) -> Any:
        def end(*_: Any) -> None:
            began, inside = self._open.pop()
            spent = _now() - began
            self.seconds[name] += spent - inside
            if self._open:
                self._open[-1][1] += spent

        return end


def _now() -> float:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return perf_counter()
