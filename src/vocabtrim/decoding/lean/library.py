"""The compiled kernels as Python calls them: tensors in, tensors out. What they are told stands in kernels.cpp.

Structures have the fields of those in matrix.h, attention.h and layers.h. Whoever makes one keeps the tensors alive
that it points to.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch

from ...errors import InputError

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_NO_MEMORY, _NO_TOKEN, _NO_NUMBER = 1, 2, 3  # what kernels.cpp answers
DTYPES = {torch.float32: 0, torch.bfloat16: 1}


class Matrix(ctypes.Structure):
    _fields_ = (("weight", _POINTER), ("bias", _POINTER), ("out", _COUNT))


class Heads(ctypes.Structure):
    _fields_ = (
        *(("queries", _COUNT), ("keys", _COUNT), ("size", _COUNT), ("capacity", _COUNT)),
        ("scaling", ctypes.c_float),
    )


class Layer(ctypes.Structure):
    _fields_ = (
        *(("input_norm", _POINTER), ("beside_norm", _POINTER)),
        *((name, Matrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *(("query_norm", _POINTER), ("key_norm", _POINTER), ("middle_norm", _POINTER)),
        *(("keys", _POINTER), ("values", _POINTER), ("window", _COUNT)),
    )


class Stack(ctypes.Structure):
    _fields_ = (
        *(("layers", _COUNT), ("hidden", _COUNT), ("inner", _COUNT), ("ids", _COUNT), ("heads", Heads)),
        *(("eps", ctypes.c_float), ("normed_residual", ctypes.c_int32), ("layer", ctypes.POINTER(Layer))),
        *(("embedding", _POINTER), ("fuse", Matrix), ("last_norm", _POINTER)),
        *(("cosines", _POINTER), ("sines", _POINTER)),
    )


class Pass(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("tokens", "positions", "features", "visible")),
        *(("rows", _COUNT), ("columns", _COUNT), ("past", _COUNT)),
        *(("states", _POINTER), ("states_count", _COUNT), ("hidden", _POINTER)),
        *(("features_out", _POINTER), ("head_input", _POINTER)),
    )


class Growth(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("root_logits", "root_feature", "kept_ids")),
        *(("head", Matrix), ("depth", _COUNT), ("branching", _COUNT), ("drafted", _COUNT), ("past", _COUNT)),
        *(("ranked", ctypes.c_int32), ("normed_features", ctypes.c_int32)),
        *((name, _POINTER) for name in ("tokens", "parents", "entries")),
        *(("count", _COUNT), ("read", _COUNT), ("largest", ctypes.c_float)),
        *(("head_seconds", ctypes.c_double), ("choosing_seconds", ctypes.c_double)),
    )


class Ranked(NamedTuple):
    """columns: (row, width) int64, the best first. values: (row, width) their logits, float32. log_sums: (row,) log of
    the sum of all exponentials, or None where it was not asked for. finite: whether every row's largest is a number."""

    columns: torch.Tensor
    values: torch.Tensor
    log_sums: torch.Tensor | None
    finite: bool


def address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def matrix(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Matrix:
    """weight: (out, in), contiguous. bias: (out,), in its dtype."""
    return Matrix(address(weight), address(bias), weight.shape[0])


class Kernels:
    """library: as compiled.py opens it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._pass, self._grow = library.vocabtrim_pass, library.vocabtrim_grow
        self._multiply, self._best, self._rank = (
            getattr(library, f"vocabtrim_{name}") for name in ("multiply", "best", "rank")
        )
        dtype = ctypes.c_int
        self._pass.argtypes = (dtype, ctypes.POINTER(Stack), ctypes.POINTER(Pass))
        self._grow.argtypes = (dtype, ctypes.POINTER(Stack), ctypes.POINTER(Growth))
        self._multiply.argtypes = (dtype, ctypes.POINTER(Matrix), _POINTER, _COUNT, _COUNT, _POINTER)
        self._best.argtypes = (dtype, ctypes.POINTER(Matrix), _POINTER, _COUNT, _COUNT, _COUNT, _POINTER, _POINTER)
        self._rank.argtypes = (_POINTER, _COUNT, _COUNT, _COUNT, _POINTER, _POINTER, _POINTER)

    def run(self, dtype: torch.dtype, stack: Stack, told: Pass) -> None:
        """Raises InputError for a token that the embedding has no row for."""
        if self._proven(self._pass(DTYPES[dtype], stack, told)) == _NO_TOKEN:
            raise InputError(
                "a token is outside the model's vocabulary",
                expected=f"0 to {stack.ids - 1}",
                remedy="encode with the model's own tokenizer",
            )

    def grow(self, dtype: torch.dtype, stack: Stack, told: Growth) -> bool:
        """Draft and append; False where a logit, `told.largest`, is no number."""
        return self._proven(self._grow(DTYPES[dtype], stack, told)) != _NO_NUMBER

    def multiply(self, by: Matrix, rows: torch.Tensor) -> torch.Tensor:
        """rows: (n, in), contiguous, in the weight's dtype. Returns (n, out) float32."""
        out = torch.empty(rows.shape[0], by.out)
        self._proven(
            self._multiply(DTYPES[rows.dtype], by, rows.data_ptr(), rows.shape[0], rows.shape[1], out.data_ptr())
        )
        return out

    def project(self, linear: Any, rows: torch.Tensor) -> torch.Tensor:
        """What a plain nn.Linear gives for rows (n, in), as float32 (n, out)."""
        return self.multiply(matrix(linear.weight, linear.bias), rows.contiguous())

    def best(self, by: Matrix, rows: torch.Tensor, width: int) -> Ranked:
        """The `width` best of a matrix's products with each row, which are never written. rows: as in `multiply`."""
        found = self._room(rows.shape[0], width)
        code = self._best(
            *(DTYPES[rows.dtype], by, rows.data_ptr(), rows.shape[0], rows.shape[1]),
            *(width, found.values.data_ptr(), found.columns.data_ptr()),
        )
        return found._replace(finite=self._proven(code) != _NO_NUMBER)

    def rank(self, logits: torch.Tensor, width: int, *, sums: bool = True) -> Ranked:
        """logits: (n, columns) float32, contiguous. width: at most as many as there are columns.

        Of equals the lower column comes first; NaN counts as the largest.
        """
        found = self._room(logits.shape[0], width)
        log_sums = torch.empty(logits.shape[0]) if sums else None
        code = self._rank(
            *(logits.data_ptr(), logits.shape[0], logits.shape[1], width),
            *(found.values.data_ptr(), found.columns.data_ptr(), address(log_sums)),
        )
        return found._replace(log_sums=log_sums, finite=self._proven(code) != _NO_NUMBER)

    @staticmethod
    def _room(rows: int, width: int) -> Ranked:
        return Ranked(torch.empty(rows, width, dtype=torch.int64), torch.empty(rows, width), None, True)

    @staticmethod
    def _proven(code: Any) -> int:
        if code == _NO_MEMORY:
            raise MemoryError("no memory for a pass")
        return int(code)
