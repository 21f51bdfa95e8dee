"""A step over tensors that stay where they are: run as it is, or recorded once and replayed.

On CUDA a replay is one launch instead of some hundred, and Python is out of the way. On a CPU there is nothing to
record. Knows nothing of models.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

import torch

Out = TypeVar("Out")
Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")

_MOST = 32  # a graph of a 60-node pass over Llama 3's vocabulary holds 15 MB of logits


class Recorder(Protocol):
    def __call__(self, step: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        """Run a step that was run before; how to replay it, and its results, which every replay overwrites."""


class Program(Generic[Out]):
    """step: reads and writes the same tensors every time, whatever is in them, and never asks a device for a number.

    The first run is plain: no wait for who asks but once. The second is recorded, and all others are replays. record:
    None runs it plainly for ever, as does a recording that failed, with a warning.
    """

    def __init__(self, step: Callable[[], Out], record: Recorder | None) -> None:
        self._step, self._record = step, record
        self._replay: Callable[[], object] | None = None
        self._out: Out | None = None
        self._ran = False

    def __call__(self) -> Out:
        """The step's results; those of a replay stay until the next one."""
        if self._replay is not None:
            self._replay()
            return self._out  # type: ignore[return-value]
        if self._record is None or not self._ran:
            self._ran = True
            return self._step()
        try:
            self._replay, self._out = self._record(self._step)
        except RuntimeError as error:  # as CUDA's errors are
            self._record = None
            warnings.warn(f"a pass could not be recorded and runs operator by operator: {error}", stacklevel=2)
            return self._step()
        self._replay()
        return self._out


class Programs(Generic[Key, Made]):
    """What is made for a key, made when it is first asked for; the oldest goes where there are too many."""

    def __init__(self, make: Callable[[Key], Made]) -> None:
        self._make = make
        self._made: dict[Key, Made] = {}
        self._rest_on: object = None

    def get(self, key: Key, rest_on: object) -> Made:
        """rest_on: what all of them hold on to, such as where a cache lies; they are made anew when it is another."""
        if rest_on != self._rest_on:
            self._made.clear()
            self._rest_on = rest_on
        if key not in self._made:
            while len(self._made) >= _MOST:
                del self._made[next(iter(self._made))]
            self._made[key] = self._make(key)
        return self._made[key]


def cuda_graph(step: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
    """Record on the current device. Every graph has a pool of its own: what one has given back, no other overwrites."""
    side = _side_stream(torch.cuda.current_device())
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):  # whatever is chosen, made or compiled at first use, by stream or by shape, is then there
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with _no_collection(), torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        out = step()
    return graph.replay, out


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """One for all recordings, so that they share what libraries keep by stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Memory that garbage gives back in the middle of a recording can end it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def recorder(device: torch.device) -> Recorder | None:
    """How steps on a device are recorded; None where they are not."""
    if device.type != "cuda":
        return None

    def record(step: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        with torch.cuda.device(device):
            return cuda_graph(step)

    return record
