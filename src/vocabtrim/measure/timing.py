"""Where the time of decoding goes: the models' passes, by hooks, so that decoding knows nothing of it.

What is in no pass is our own time. On CUDA every hook waits for the device, which costs a little and makes the
split true.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any

import torch
from torch import nn

from ..decoding.causal_lm import CausalLM
from ..decoding.target import Target

Method = tuple[object, str]


def decoding_stages(target: Target, drafter: Any) -> dict[str, list[nn.Module | Method]]:
    """Stages of target and drafter of `load_target` and `load_drafter`, whichever way their passes go.

    What a feature drafter's rotations and the fusing of its features take belongs to its passes as well.
    """
    stages: dict[str, list[nn.Module | Method]] = {"target": _passes(target.lm)}
    if hasattr(drafter, "heads"):
        return stages | {"draft body": drafter.blocks, "draft head": drafter.heads}
    body = drafter.body
    if hasattr(body, "lm"):
        return stages | {"draft body": _passes(body.lm), "draft head": [body.head]}
    lean = [] if body.lean is None else [(body.lean, "run")]
    return stages | {"draft body": [body.layers, body.layers.fc, body.rotary, *lean], "draft head": [body.head]}


def _passes(lm: CausalLM) -> list[nn.Module | Method]:
    return [lm.model] if lm.lean is None else [lm.model, (lm.lean, "run")]


class _Timed:
    """A method of one object in whose place a timed one stands until `remove`."""

    def __init__(self, owner: object, name: str, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._owner, self._name = owner, name
        method = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            begin()
            try:
                return method(*arguments, **named)
            finally:
                end()

        setattr(owner, name, timed)

    def remove(self) -> None:
        delattr(self._owner, self._name)


class StageClock:
    """Seconds spent in passes, while the context is open.

    stages: name -> modules, whose forward passes are meant, and methods of objects, as (object, name). What is inside
    another is timed apart from it: seconds are a stage's own. For one thread, and not to be entered twice.
    """

    def __init__(self, stages: Mapping[str, Sequence[nn.Module | Method]]) -> None:
        self.stages = stages
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[list[float]] = []  # of each running pass: when it began, and the time of passes inside it
        self._hooks: list[Any] = []

    def __enter__(self) -> StageClock:
        for name, passes in self.stages.items():
            for timed in passes:
                if isinstance(timed, nn.Module):
                    self._hooks.append(timed.register_forward_pre_hook(self._begin))
                    self._hooks.append(timed.register_forward_hook(self._ends(name), always_call=True))
                else:
                    self._hooks.append(_Timed(*timed, self._begin, self._ends(name)))
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
