"""The fused head finds what `Head` finds, its tiles hide nothing, and it says at the end whether all were numbers."""

from __future__ import annotations

import pytest
import torch

from vocabtrim.decoding.graphs.fused_head import FusedHead, top_by_tiles
from vocabtrim.decoding.head import Head


def head(kept: int, hidden: int = 16, *, bias: bool = True, trimmed: bool = True) -> Head:
    generator = torch.Generator().manual_seed(kept)
    ids = torch.randperm(4 * kept, generator=generator)[:kept].sort().values if trimmed else None
    weight = torch.randn(kept, hidden, generator=generator)
    return Head(weight, torch.randn(kept, generator=generator) if bias else None, ids)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kept", "width", "trimmed", "bias"),
    [
        (3, 5, True, True),
        (128, 1, True, False),
        (129, 4, False, False),
        (5000, 10, True, True),
        (2048, 10, True, False),
    ],
)
def test_it_finds_what_the_head_finds(kept: int, width: int, trimmed: bool, bias: bool, compiled: bool) -> None:
    whole = head(kept, bias=bias, trimmed=trimmed)
    fused = FusedHead(whole, compiled=compiled)
    for rows in (1, 10):
        hidden = torch.randn(rows, 16, generator=torch.Generator().manual_seed(rows))
        wanted, found = whole.best(whole(hidden), width), fused.best(hidden, width)
        assert torch.equal(found.ids, wanted.ids)
        torch.testing.assert_close(found.log_probs, wanted.log_probs)
        assert torch.equal(fused.likeliest(hidden), whole.likeliest(whole(hidden)))
        assert fused.largest().isfinite()


def test_tiles_hide_nothing() -> None:
    """All of the best in one tile, each in a tile of its own, and the last tile short: 500 draws of 700 columns, the
    best 12 of each at any place."""
    logits = torch.randn(500, 700, generator=torch.Generator().manual_seed(0))
    logits[0, 640:652] += 20
    logits[1, 5::128] += 20
    values, columns = top_by_tiles(logits, 4)
    wanted = logits.topk(4, dim=-1)
    assert torch.equal(values, wanted.values) and torch.equal(columns, wanted.indices)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_it_remembers_what_was_no_number(bad: float) -> None:
    whole = head(300)
    fused = FusedHead(whole)
    good, wrong = torch.ones(2, 16), torch.ones(2, 16)
    wrong[1, 3] = bad
    fused.best(good, 3)
    fused.best(wrong, 3)
    fused.best(good, 3)
    assert not fused.largest().isfinite()
    fused.likeliest(good)
    assert fused.largest().isfinite()
    fused.likeliest(wrong)
    assert not fused.largest().isfinite()


def test_ids_that_are_ruled_out_are_no_error() -> None:
    whole = head(300)
    assert whole.bias is not None
    whole.bias[7] = -torch.inf
    fused = FusedHead(whole)
    fused.best(torch.ones(1, 16), 3)
    assert fused.largest().isfinite()
