"""A CPU's stand-in for a CUDA graph: the operators of a step, run again on the same memory without its Python.

What a recording bakes in, a length, a shape, an address, is baked in here too, so a step that hangs on anything but
the contents of its tensors gives another result when it is replayed. What CUDA refuses to record is refused: asking for
a number, shapes that hang on contents, tensors made from the host's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_REFUSED = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "lift_fresh", "lift"),
    *("_unique2", "unique_dim", "tolist", "bincount", "allclose"),
}


class RefusedError(AssertionError):
    """What a CUDA graph cannot hold."""


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        bools = [leaf for leaf in tree_leaves(args[1:2]) if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool]
        if name in _REFUSED or (name in {"index", "index_put_", "index_put"} and bools):
            raise RefusedError(f"{func} waits for the device, or reads what lies on the host")
        with self:
            parts = func.decompose(*args, **(kwargs or {}))  # what it is made of, where it is made of others
        if parts is not NotImplemented:
            return parts
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Run everything again; what was made anew then is overwritten where it lies."""
        for func, args, kwargs, out in self.calls:
            known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if _tensor(leaf)}
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if _tensor(old) and old.numel() and old.untyped_storage().data_ptr() not in known:
                    old.copy_(new)


def _tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)


class Recorder:
    """`recorded`: how many steps were; `replays`: how often any was replayed."""

    def __init__(self) -> None:
        self.recorded = self.replays = 0

    def __call__(self, step: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        recording = _Recording()
        with recording:
            out = step()
        self.recorded += 1
        with torch.inference_mode():
            for leaf in tree_leaves(vars(out) if hasattr(out, "__dict__") else out):
                if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                    leaf.fill_(torch.nan)  # a recording gives nothing: only its replays do

        def replay() -> None:
            self.replays += 1
            with torch.inference_mode():
                recording.replay()

        return replay, out
