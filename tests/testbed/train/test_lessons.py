"""Lessons: the same rows in every run, gone on with where they were cut off; and what stands for a whole vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vocabtrim.testbed.train.distil import sampled_ids
from vocabtrim.testbed.train.drafter import CURRICULUM, SETTINGS, depth_at
from vocabtrim.testbed.train.lessons import ROWS, Lessons
from vocabtrim.testbed.train.sizes import VOCAB

_HELD, _SEQ = 20, 6


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Twenty rows; row n holds n alone."""
    ids = torch.arange(_HELD, dtype=torch.int16)[:, None].expand(-1, _SEQ).contiguous()
    answer = torch.zeros(_HELD, _SEQ, dtype=torch.bool)
    answer[:, -1] = True
    features = ids[:, :, None].to(torch.bfloat16).expand(-1, -1, 4).contiguous()
    rows = {"ids": ids, "answer": answer, "document": ids.clone(), "position": ids.clone(), "features": features}
    save_file(rows | {"taps": features.repeat(1, 1, 3)}, tmp_path / "lessons.safetensors")
    return tmp_path / "lessons.safetensors"


def lessons(file: Path) -> Lessons:
    return Lessons(file, torch.arange(float(VOCAB))[:, None])


def test_every_row_once_an_epoch_with_its_own_features(file: Path) -> None:
    source = lessons(file)
    seen = []
    for _ in range(2 * _HELD // ROWS):
        lesson = source.next()
        rows = lesson.ids[:, 0].tolist()
        assert lesson.features[:, 0, 0].tolist() == lesson.taps[:, 0, 5].tolist() == rows
        assert lesson.embedded[:, 0, 0].tolist() == rows and lesson.answer.sum() == ROWS
        seen += rows
    assert sorted(seen[:_HELD]) == sorted(seen[_HELD:]) == list(range(_HELD))
    assert seen[:_HELD] != seen[_HELD:]
    assert source.epochs() == {"rows": 2.0} and source.answers[:_HELD].tolist() == [1] * _HELD


def test_going_on_gives_the_rows_that_would_have_come(file: Path) -> None:
    whole, first, second = lessons(file), lessons(file), lessons(file)
    expected = [whole.next().ids[:, 0].tolist() for _ in range(6)]
    found = [first.next().ids[:, 0].tolist() for _ in range(3)]
    second.resume(first.state())
    assert found + [second.next().ids[:, 0].tolist() for _ in range(3)] == expected


def test_sampled_ids_hold_what_is_seen_and_stand_for_the_rest() -> None:
    seen, common = torch.tensor([[7, 9], [7, 400]]), torch.tensor([0, 1, 9])
    ids, offset = sampled_ids(seen, common, 64, 500)
    assert ids.unique().numel() == 64 and set(ids[:5].tolist()) == {0, 1, 7, 9, 400}
    assert (offset[:5] == 0).all() and torch.exp(offset).sum().item() == pytest.approx(500)
    again, _ = sampled_ids(seen, common, 64, 500)
    other, _ = sampled_ids(seen + 1, common, 64, 500)
    assert torch.equal(ids, again) and not torch.equal(ids, other)


def test_the_sampled_sum_is_right_on_average() -> None:
    """exp(logit + offset) summed over the ids estimates the sum over all without bias.

    300 draws; the standard error is measured from them, and 4 of them are exceeded with probability 6e-5.
    """
    logits = torch.randn(2000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sums = []
    for number in range(300):
        ids, offset = sampled_ids(torch.tensor([number]), torch.arange(50), 256, 2000)
        sums.append(torch.exp(logits[ids] + offset).sum().item())
    found = torch.tensor(sums, dtype=torch.float64)
    error = found.std() / 300**0.5
    assert abs(found.mean() - torch.exp(logits).sum()) < 4 * error
    assert error < 0.01 * found.mean()


def test_the_curriculum_goes_deep_at_the_end() -> None:
    (shallow, steps), (deep, more) = CURRICULUM["eagle"]
    assert depth_at("eagle", 0) == depth_at("eagle", steps - 1) == shallow < depth_at("eagle", steps) == deep
    assert SETTINGS["eagle"].steps == steps + more
