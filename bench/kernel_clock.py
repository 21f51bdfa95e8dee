"""Where the time of a round goes when it goes by our kernels: what StageClock is for transformers' modules.

Physics: a kernel is one call into compiled code, which reads weights and cache; what is in no such call is our own
time. Ranking logits is choosing tokens, and our own too, unless it happens while the head is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from time import perf_counter
from types import TracebackType
from typing import Any

from vocabtrim.decoding.lean.library import Kernels

TARGET, DRAFT_BODY, DRAFT_HEAD = "target", "draft body", "draft head"
_PASSES, _WHOLE = ("run", "multiply", "best"), "grow"


class KernelClock:
    """Seconds in kernels by stage, while the context is open: the target's, and the drafter's body and heads."""

    def __init__(self, drafter: Any) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        heads = drafter.heads if hasattr(drafter, "heads") else [drafter.body.head]
        self._heads = {head.weight.data_ptr() for head in heads}
        self._drafter, self._drafting = drafter, False
        self._before = {name: getattr(Kernels, name) for name in (*_PASSES, _WHOLE)}

    def __enter__(self) -> KernelClock:
        for name, method in self._before.items():
            setattr(Kernels, name, self._growing(method) if name == _WHOLE else self._timed(method))
        propose = self._drafter.propose

        def proposing(*arguments: Any) -> Any:
            self._drafting = True
            try:
                return propose(*arguments)
            finally:
                self._drafting = False

        self._drafter.propose = proposing
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, method in self._before.items():
            setattr(Kernels, name, method)
        del self._drafter.propose

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(kernels: Kernels, *arguments: Any, **named: Any) -> Any:
            start = perf_counter()
            try:
                return method(kernels, *arguments, **named)
            finally:
                self.seconds[self._stage(arguments[0])] += perf_counter() - start

        return timed

    def _growing(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """A whole proposal in one call says itself what went to the head, and what to choosing, which is our own."""

        def timed(kernels: Kernels, dtype: Any, stack: Any, told: Any) -> Any:
            start = perf_counter()
            try:
                return method(kernels, dtype, stack, told)
            finally:
                self.seconds[DRAFT_HEAD] += told.head_seconds
                passes = perf_counter() - start - told.head_seconds - told.choosing_seconds
                self.seconds[DRAFT_BODY] += passes

        return timed

    def _stage(self, by: Any) -> str:
        """by: the matrix that rows are multiplied with; of a whole pass its dtype."""
        if not self._drafting:
            return TARGET
        return DRAFT_HEAD if getattr(by, "weight", None) in self._heads else DRAFT_BODY
