"""The head: kept rows only, ids after top-k, and rows that change between two rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import small_models as small
import vocabtrim as vt
from vocabtrim.decoding.chance import TorchChance
from vocabtrim.decoding.head import Head
from vocabtrim.errors import CheckpointError

WEIGHT = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
KEPT = torch.tensor([1, 4, 5, 11])


def test_a_trimmed_head_scores_what_the_full_head_scores_for_its_ids() -> None:
    hidden = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    full, cut = Head(WEIGHT), Head(WEIGHT[KEPT], kept_ids=KEPT)
    assert torch.equal(cut(hidden), full(hidden)[:, KEPT])
    best = cut.best(cut(hidden), 2)
    ranked = full(hidden)[:, KEPT].sort(descending=True).indices[:, :2]
    assert torch.equal(best.ids, KEPT[ranked])
    expected = full(hidden)[:, KEPT].log_softmax(dim=-1).gather(1, ranked)
    torch.testing.assert_close(best.log_probs, expected)


def test_no_tensor_is_as_wide_as_the_targets_vocabulary(tmp_path: Path) -> None:
    """Every result of every operation while a trimmed drafter of each kind drafts, commits and drafts again, greedy and
    sampled: no side of any is 509, a prime that nothing else is."""
    vocab, kept = 509, [2, 7, 9, 100, 300]
    target = small.write_target(tmp_path / "target", small.shape(vocab))
    for number, kind in enumerate(small.KINDS):
        drafter = small.write_drafter(tmp_path / f"{number}", kind, small.shape(vocab))
        cut = small.trim(drafter, target, kept, vocab, tmp_path / f"{number}-cut")
        for plan in [None] if kind == "Medusa" else [None, vt.Chain(3, vt.Sampling(temperature=1.0))]:
            opened, drafts = small.open_both(target, cut, plan=plan)
            prompt = [3, 5, 8]
            hidden = opened.begin(prompt, 100, drafts.states)
            with _Widths() as widths:
                drafts.begin(prompt, 20, hidden)
                draft = drafts.propose(4, TorchChance())
                drafts.commit(draft, [], [7], None if hidden is None else hidden[-1:])
                drafts.propose(4, TorchChance())
            assert len(kept) in widths.seen
            assert vocab not in widths.seen, kind


class _Widths(torch.utils._python_dispatch.TorchDispatchMode):
    """Sizes of all axes of every result."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, torch.Tensor) and part.dim():
                self.seen.update(part.shape)
        return result


def test_rows_can_change_between_rounds(tmp_path: Path) -> None:
    """The output stays the plain loop's while the head is cut to other ids after every round."""
    vocab = 16
    folder = small.write_target(tmp_path / "target", small.shape(vocab))
    target, drafter = small.open_both(folder, folder)
    prompt = [3, 5, 8]
    plain = [token for done in vt.decode(target, None, prompt, max_new_tokens=40, stop_ids=()) for token in done.tokens]
    whole = target.lm.model.lm_head.weight
    found: list[int] = []
    accepted = []
    for number, done in enumerate(vt.decode(target, drafter, prompt, max_new_tokens=40, stop_ids=())):
        found += done.tokens
        accepted.append(done.accepted)
        ids = torch.arange(number % 3, vocab, 1 + number % 4)
        drafter.body.head.replace(whole[ids], kept_ids=ids)
    assert found == plain
    assert max(accepted) > 0
    assert min(accepted) < 4


def test_rows_and_ids_of_different_number_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"expected 12 of each, found \[4, 12\]"):
        Head(WEIGHT, kept_ids=KEPT)


def test_nan_is_refused() -> None:
    head = Head(WEIGHT)
    with pytest.raises(CheckpointError, match="drafter's logits hold NaN"):
        head.best(torch.tensor([[1.0, float("nan"), 2.0]]), 2)
