"""Temperature, top-k and top-p against transformers' own logits processors, and by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from vocabtrim.decoding.chance import TorchChance
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.errors import InputError


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.1, 3.0),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.05, 1.0),
)
def test_as_in_transformers(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    logits = 3 * torch.randn(4, 32, generator=torch.Generator().manual_seed(seed))
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    found = Sampling(temperature, top_k, top_p).probs(logits)
    # transformers sums from the small end, so a mass that lands within rounding of top_p may fall on either side
    edge = _distance_to_edge(logits / temperature, top_k, top_p)
    if edge > 1e-5:
        assert torch.allclose(found, expected.softmax(dim=-1), atol=1e-6)


def _distance_to_edge(logits: torch.Tensor, top_k: int, top_p: float) -> float:
    if top_k and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    mass = logits.softmax(dim=-1).sort(descending=True).values.cumsum(dim=-1)
    return float((mass - top_p).abs().min())


def test_greedy_is_one_hot_at_the_lowest_of_equal_ids() -> None:
    probs = Sampling().probs(torch.tensor([[1.0, 4.0, 4.0, 0.0]]))
    assert probs.tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_the_most_probable_id_survives_any_top_p() -> None:
    assert Sampling(1.0, top_p=1e-6).probs(torch.tensor([0.0, 2.0, 1.0])).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "wrong", [{"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="out of range"):
        Sampling(**wrong)


def test_nan_logits_are_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        Sampling(1.0).probs(torch.tensor([0.0, float("nan")]))


def test_the_likeliest_of_all_rows_in_one_go_are_those_that_greedy_draws() -> None:
    """Ties and ids that are ruled out included; a row of no numbers is told when it is asked for, no earlier."""
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    logits[1, [7, 30]] = 9.0
    logits[2, 4] = -torch.inf
    logits[4, 11] = torch.nan
    drawn = Sampling().likeliest(logits)
    for row in (0, 1, 2, 3, 5):
        assert drawn(row) == Sampling().draw(logits[row], TorchChance())
    assert drawn(1) == 7
    with pytest.raises(InputError, match="NaN or infinity"):
        drawn(4)
