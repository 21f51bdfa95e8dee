"""The kernels against torch: every width of a pass, sizes that fill no register, ties, and what is no number.

Rounding is compared to the bit: a row is computed alike alone, among others, and by any number of threads.
"""

from __future__ import annotations

import platform

import pytest
import torch

from vocabtrim.decoding.lean import compiled
from vocabtrim.decoding.lean.compiled import ready_kernels
from vocabtrim.decoding.lean.library import Kernels, matrix

ROWS = [1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 64]
SHAPES = [(1, 1), (3, 5), (16, 32), (17, 33), (40, 64), (130, 100), (300, 512)]  # out, in
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module", params=["native", "x86-64-v3", "x86-64-v2"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    """For this processor, and as one with AVX2 or SSE alone would have them: other widths, no pairs of bfloat16."""
    if request.param == "native":
        found = ready_kernels(float("inf"))
        assert found is not None, "no compiler here"
        return found
    if platform.machine() != "x86_64":
        pytest.skip("not this kind of processor")
    flags = [flag.replace("native", request.param) for flag in compiled._FLAGS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_FLAGS", flags)
        library = compiled.Compilation(tmp_path_factory.mktemp("cache"), compiled.find_compiler()).library(120)
    assert library is not None
    return Kernels(library)


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("out", "width"), SHAPES)
def test_products(kernels: Kernels, out: int, width: int, dtype: torch.dtype) -> None:
    """Products of bfloat16 are exact in float32 and so are compared with float32's; sums differ by their order."""
    weight, bias = drawn(out, width, dtype=dtype), drawn(out, dtype=dtype, seed=1)
    for many in ROWS:
        rows = drawn(many, width, dtype=dtype, seed=2)
        expected = torch.nn.functional.linear(rows.double(), weight.double(), bias.double())
        found = kernels.multiply(matrix(weight, bias), rows)
        torch.testing.assert_close(found.double(), expected, atol=1e-5 * width**0.5, rtol=1e-5)
        without = kernels.multiply(matrix(weight), rows)
        torch.testing.assert_close(without.double(), expected - bias.double(), atol=1e-5 * width**0.5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_rounds_alike_whatever_stands_beside_it(kernels: Kernels, dtype: torch.dtype) -> None:
    weight, rows = drawn(100, 200, dtype=dtype), drawn(64, 200, dtype=dtype, seed=1)
    alone = torch.cat([kernels.multiply(matrix(weight), row[None]) for row in rows])
    for many in ROWS:
        assert torch.equal(kernels.multiply(matrix(weight), rows[:many].contiguous()), alone[:many])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [1, 15, 16, 255, 256, 257, 5000])
def test_the_best_of_a_head_are_the_best_of_its_logits(kernels: Kernels, columns: int, dtype: torch.dtype) -> None:
    weight = drawn(columns, 48, dtype=dtype)
    for many in (1, 3, 10):
        rows = drawn(many, 48, dtype=dtype, seed=1)
        logits = kernels.multiply(matrix(weight), rows)
        for width in {1, min(10, columns)}:
            found, ranked = kernels.best(matrix(weight), rows, width), kernels.rank(logits, width)
            values, places = logits.topk(width, dim=-1)
            assert torch.equal(found.columns, places) and torch.equal(found.values, values) and found.finite
            assert torch.equal(ranked.columns, places) and torch.equal(ranked.values, values) and ranked.finite
            assert ranked.log_sums is not None
            torch.testing.assert_close(ranked.log_sums, logits.logsumexp(dim=-1), atol=2e-6, rtol=2e-6)


def test_of_equals_the_lowest_comes_first(kernels: Kernels) -> None:
    logits = torch.zeros(2, 1000)
    logits[:, [7, 300, 999]] = 1.0
    assert kernels.rank(logits, 5).columns.tolist() == [[7, 300, 999, 0, 1]] * 2


@pytest.mark.parametrize("place", [0, 5, 257, 998])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_seen(kernels: Kernels, place: int, value: float) -> None:
    logits = drawn(3, 999, dtype=torch.float32)
    logits[1, place] = value
    assert not kernels.rank(logits, 1).finite and not kernels.rank(logits, 10).finite
    assert kernels.rank(logits[:1], 10).finite


def test_ids_that_are_ruled_out(kernels: Kernels) -> None:
    """-inf rules a column out; a row of nothing else has no best."""
    logits = torch.full((1, 300), -torch.inf)
    assert not kernels.rank(logits, 2).finite
    logits[0, 299] = -3.0
    ranked = kernels.rank(logits, 2)
    assert ranked.finite and ranked.columns[0, 0] == 299 and ranked.log_sums is not None
    assert float(ranked.log_sums) == pytest.approx(-3.0)
