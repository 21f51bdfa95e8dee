"""The bench of heads: every side finds the same ids, and the verdict takes the worst of what counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
import head


@pytest.mark.parametrize("rows", head.ROWS)
def test_every_side_finds_the_same_ids(rows: int) -> None:
    weight = head.random_weight(500, 64, torch.float32, "cpu")
    runs = head.sides(weight, torch.randn(rows, 64), head._multiply_and_sum)
    assert set(runs) == {head.PLAIN, head.COMPILED, head.LAID_OUT, head.OURS}
    expected = runs[head.PLAIN]()
    assert expected.shape == (rows, head.WIDTH)
    for side, run in runs.items():
        assert torch.equal(run(), expected), side


def test_no_two_rows_of_a_random_weight_are_alike() -> None:
    """More numbers than one block holds: a width that divided the block would repeat its rows, and tie their scores."""
    weight = head.random_weight(10_000, 1024, torch.bfloat16, "cpu")
    assert len(torch.unique(weight[:, :8].float(), dim=0)) == 10_000


def test_the_verdict_is_the_worst_of_one_row_and_of_chains() -> None:
    def of(share: float, rows: int) -> dict[str, object]:
        return {"rows": rows, "share_of_bandwidth": {head.OURS: share}}

    def step(plan: str, *apart: float) -> dict[str, object]:
        return {"plan": plan, "kept": {str(number): {"apart": one} for number, one in enumerate(apart)}}

    steps = [step("chain of 4", 0.0, -0.2), step("chain of 4", 0.1), step("60-node tree", 3.0)]
    told = head.judged([of(0.9, 1), of(0.8, 1), of(0.1, 10)], steps)
    assert (told["least_share_of_one_row"], told["farthest_apart"]) == (0.8, -0.2)
    assert head.judged([], []) == {"wanted": {"share_of_bandwidth": 0.85, "apart": 0.1}}
