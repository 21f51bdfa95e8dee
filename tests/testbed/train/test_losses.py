"""Losses whose gradients are made by hand equal what autograd makes of the plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vocabtrim.testbed.train.distil import aligned, distil_loss, valid
from vocabtrim.testbed.train.loss import head_loss
from vocabtrim.testbed.train.mixture import Batch

VOCAB, HIDDEN, PLACES = 50, 8, 700  # more places than one chunk holds


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_head_loss_is_weighted_cross_entropy() -> None:
    hidden, head = drawn(PLACES, HIDDEN).requires_grad_(), drawn(VOCAB, HIDDEN).requires_grad_()
    wanted = torch.randint(VOCAB, (PLACES,), generator=torch.Generator().manual_seed(1))
    weight = drawn(PLACES).abs()
    losses = head_loss(hidden, head, wanted, weight)
    losses.sum().mul(2).backward()
    made = hidden.grad, head.grad
    hidden.grad = head.grad = None
    plain = nn.functional.cross_entropy(hidden @ head.T, wanted, reduction="none") * weight
    plain.sum().mul(2).backward()
    torch.testing.assert_close(losses, plain)
    torch.testing.assert_close(made, (hidden.grad, head.grad), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("learned", [True, False])
def test_distil_loss_is_cross_entropy_under_the_target(learned: bool) -> None:
    steps = 3
    drafted = drawn(PLACES, steps, HIDDEN).requires_grad_()
    features, teacher_head = drawn(PLACES, 5), drawn(VOCAB, 5)
    head = drawn(VOCAB, HIDDEN).requires_grad_(learned)
    weight = drawn(PLACES, steps).clamp(min=0)
    weight[::3] = 0
    loss = distil_loss(drafted, features, head, teacher_head, weight)
    loss.backward()  # type: ignore[no-untyped-call]
    made, made_head = drafted.grad, head.grad
    drafted.grad = head.grad = None
    target_probs = torch.softmax(features @ teacher_head.T, -1)
    plain = -((drafted @ head.T).log_softmax(-1) * target_probs[:, None]).sum(-1) * weight
    plain.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, plain.sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made, drafted.grad, rtol=1e-4, atol=1e-4)
    if learned:
        torch.testing.assert_close(made_head, head.grad, rtol=1e-4, atol=1e-3)
    else:
        assert made_head is None


def test_a_step_is_judged_where_its_token_follows() -> None:
    """Step k of root i drafts token i + k + 2, which follows place i + k + 1."""
    roots = torch.arange(10.0).reshape(1, 10, 1)
    places = aligned([roots + 1, roots + 2])
    assert places[0, 4, 0, 0] == 4  # root 3, step 0 stands for place 4
    assert places[0, 4, 1, 0] == 4  # root 2, step 1


def test_only_answers_of_the_root_s_own_document_count() -> None:
    document = np.array([[0, 0, 0, 0, 1, 1, 1, -1]])
    answer = np.array([[0, 0, 1, 1, 0, 1, 1, 0]], np.bool_)
    ids = np.zeros((1, 8), np.int64)
    counted = valid(Batch(ids, answer, document, ids), 2)[0]
    # Place 1 is followed by an answer token and has a root before it; place 4, the second document's first, has none.
    assert counted[:, 0].tolist() == [False, True, True, False, False, True, False, False]
    assert counted[:, 1].tolist() == [False, False, True, False, False, False, False, False]
