"""Drafting from every root at once equals drafting from one root, token by token, as a decoder does it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vocabtrim.testbed.train.drafter import narrowed
from vocabtrim.testbed.train.eagle import Eagle
from vocabtrim.testbed.train.eagle3 import Eagle3
from vocabtrim.testbed.train.medusa import Medusa
from vocabtrim.testbed.train.sizes import Size

SIZE = Size(hidden=16, intermediate=24, layers=1, heads=4, kv_heads=2, head_dim=4)
SEQ, STEPS = 9, 4


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def causal(seq: int) -> Tensor:
    return torch.ones(1, 1, seq, seq, dtype=torch.bool).tril()


def positions(seq: int) -> Tensor:
    return torch.arange(seq)[None]


@pytest.fixture(params=["eagle", "eagle3"])
def drafter(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, int]:
    """A drafter and the width of what it gets from the target."""
    torch.manual_seed(3)
    module, width = (Eagle(SIZE), 16) if request.param == "eagle" else (Eagle3(SIZE, vocab=30), 48)
    return learned(module), width


def learned(module: torch.nn.Module) -> torch.nn.Module:
    """Blocks begin without an output; here they have one."""
    for name, parameter in module.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("root", [0, 3, SEQ - STEPS - 1])
def test_every_root_at_once_equals_one_root_alone(drafter: tuple[torch.nn.Module, int], root: int) -> None:
    module, width = drafter
    given, embedded = drawn(1, SEQ, width), drawn(1, SEQ, 16)
    together = module(given, embedded, positions(SEQ), causal(SEQ), STEPS)
    for step in range(STEPS):
        alone = _one_by_one(module, given[:, : root + 1], embedded[:, 1 : root + 2 + step], step)
        torch.testing.assert_close(together[step][:, root], alone, rtol=1e-4, atol=1e-5)


def _one_by_one(module: torch.nn.Module, given: Tensor, following: Tensor, steps: int) -> Tensor:
    """The hidden state that `steps` tokens drafted behind the last of `given` lead to, without any cache.

    Drafted steps enter the row as further places whose input is the drafter's own last hidden state.
    """
    eagle3 = isinstance(module, Eagle3)
    hidden = module.fc(given) if eagle3 else given  # type: ignore[operator]
    for step in range(steps + 1):
        seq = hidden.shape[1]
        tokens, mask, places = following[:, :seq], causal(seq), positions(seq)
        if eagle3:
            out = module.midlayer(tokens, hidden, places, mask, [])  # type: ignore[operator]
        else:
            both = torch.cat([tokens, hidden], -1)
            out = module.layers[0](module.fc(both), places, mask, [])  # type: ignore[index, operator]
        last = out[:, -1]
        if step < steps:
            hidden = torch.cat([hidden, last[:, None]], 1)
    return module.norm(last) if eagle3 else last  # type: ignore[operator, no-any-return]


def test_a_document_sees_itself_alone() -> None:
    """Two documents in one row, masked apart, give what each gives in a row of its own."""
    torch.manual_seed(4)
    module = learned(Eagle(SIZE))
    given, embedded = drawn(1, SEQ, 16), drawn(1, SEQ, 16)
    document = torch.tensor([[0] * 4 + [1] * 5])
    mask = (document[:, :, None] == document[:, None, :])[:, None] & causal(SEQ)
    position = torch.cat([torch.arange(4), torch.arange(5)])[None]
    together = module(given, embedded, position, mask, 2)
    alone = module(given[:, 4:], embedded[:, 4:], positions(5), causal(5), 2)
    for step in range(2):  # the last roots look for tokens behind the row's end, which roll in from its front
        torch.testing.assert_close(together[step][:, 4 : 8 - step], alone[step][:, : 4 - step], rtol=1e-4, atol=1e-5)


def test_a_fresh_eagle_is_mostly_the_embedding_and_a_fresh_eagle3_the_last_tap() -> None:
    features, embedded = drawn(1, SEQ, 16), drawn(2, SEQ, 16)[:1]
    torch.manual_seed(5)
    (first,) = Eagle(SIZE)(features, embedded.roll(1, 1), positions(SEQ), causal(SEQ), 1)
    torch.testing.assert_close(first, embedded + 0.3 * features, atol=0.5, rtol=0)
    taps = torch.cat([drawn(3, SEQ, 32)[:1], features], -1)
    torch.testing.assert_close(Eagle3(SIZE, vocab=30).fc(taps), features, atol=0.5, rtol=0)


def test_fresh_medusa_heads_pass_the_feature_on() -> None:
    """Blocks start at zero: every head begins as the target's own."""
    features = drawn(1, SEQ, 16)
    for step in Medusa(SIZE, heads=3)(features):
        torch.testing.assert_close(step, features)


def test_a_narrowed_embedding_tells_apart_what_the_wide_one_does() -> None:
    """Rows that differ in two directions of sixteen keep their distances, up to one factor, in two columns."""
    flat = drawn(30, 2) @ torch.linalg.qr(drawn(16, 2))[0].T
    narrow = narrowed(flat + 3.0, 2)
    torch.testing.assert_close(narrow.square().mean().sqrt(), torch.tensor(0.02))
    wide_distances, distances = torch.pdist(flat), torch.pdist(narrow)
    torch.testing.assert_close(
        distances / distances.mean(), wide_distances / wide_distances.mean(), rtol=1e-3, atol=1e-4
    )
