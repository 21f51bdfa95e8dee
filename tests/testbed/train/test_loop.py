"""A run that was cut off comes to the same weights as one that was not, and a decay ends it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vocabtrim.testbed.train.loop import Run, Settings
from vocabtrim.testbed.train.mixture import Batch, Mixture
from vocabtrim.testbed.train.schedule import Schedule
from vocabtrim.testbed.train.shards import Shard

SETTINGS = Settings(matrix_rate=1e-2, vector_rate=1e-2, decay=0.1, warmup=3, evaluate_every=100, log_every=2)


class Toy(nn.Module):
    """One matrix for Muon, one vector for AdamW."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(4, 4)

    def loss(self, batch: Batch) -> Tensor:
        given = torch.from_numpy(batch.ids[:, :4] % 7).float()
        return (self.inner(given) - given.flip(1)).square().mean()


def run(folder: Path) -> tuple[Run, Toy]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 300, 50)
    ids = rng.integers(0, 99, lengths.sum()).astype(np.uint16)
    shard = Shard(ids, np.ones(ids.size, np.bool_), np.cumsum([0, *lengths]))
    module = Toy()
    return Run(folder, module, Mixture({"only": shard}, {"only": 1.0}, rows=2, seed=0), SETTINGS), module


def weights(folder: Path) -> Tensor:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["module"]["inner.weight"]


def ask_for_decay(folder: Path, steps: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "decay").write_text(str(steps))


@pytest.mark.parametrize("cut_at", [1, 4])
def test_a_cut_run_comes_to_the_same_weights(tmp_path: Path, cut_at: int) -> None:
    ask_for_decay(tmp_path / "whole", 8)
    whole, module = run(tmp_path / "whole")
    whole.train(module.loss, dict)

    ask_for_decay(tmp_path / "cut", 8)
    first, module = run(tmp_path / "cut")

    def loss(batch: Batch) -> Tensor:
        if first.step == cut_at:
            first._stop()
        return module.loss(batch)

    first.train(loss, dict)
    assert first.step == cut_at + 1
    second, module = run(tmp_path / "cut")
    second.train(module.loss, dict)
    assert torch.equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_the_log_tells_loss_and_end(tmp_path: Path) -> None:
    ask_for_decay(tmp_path, 8)
    learner, module = run(tmp_path)
    learner.train(module.loss, lambda: {"only": 1.5})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]
    assert lines[-1]["done"] and lines[-1]["heldout"] == {"only": 1.5}
    assert (tmp_path / "before_decay.pt").exists() and (tmp_path / "pid").exists()


def test_rates_warm_up_stay_and_fall() -> None:
    schedule = Schedule(warmup=4)
    assert [schedule.scale(step) for step in (0, 1, 3, 1000)] == [0.25, 0.5, 1, 1]
    assert not schedule.over(10**9)
    schedule.decay_from, schedule.decay_steps = 1000, 10
    assert [round(schedule.scale(step), 9) for step in (1000, 1005, 1010, 2000)] == [1, 0.5, 0, 0]
    assert not schedule.over(1009) and schedule.over(1010)
