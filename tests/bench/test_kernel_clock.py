"""Seconds in kernels by stage: the drafter's head, its body and the target, and nothing behind the context."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import vocabtrim as vt
from vocabtrim.decoding.lean.compiled import ready_kernels
from vocabtrim.decoding.lean.library import Kernels
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from kernel_clock import DRAFT_BODY, DRAFT_HEAD, TARGET, KernelClock


@pytest.mark.parametrize("kind", ["eagle", "medusa"])
def test_each_stage_is_seen_and_the_sum_is_within_the_round(tmp_path: Path, kind: str) -> None:
    if ready_kernels(1e13) is None:
        pytest.skip("no compiler here")
    folder = shapes.write_target(tmp_path / "target", TINY, seed=0)
    write = {"eagle": shapes.write_eagle, "medusa": shapes.write_medusa}[kind]
    target = vt.load_target(folder, dtype="float32")
    drafter = vt.load_drafter(write(tmp_path / kind, TINY, seed=1), target)
    run, propose = Kernels.run, drafter.propose
    with KernelClock(drafter) as clock:
        rounds = list(vt.decode(target, drafter, list(range(5, 15)), max_new_tokens=12, stop_ids=()))
        prompt = clock.seconds.copy()
    assert set(prompt) == {DRAFT_BODY, DRAFT_HEAD, TARGET} and min(prompt.values()) > 0
    assert prompt[DRAFT_BODY] + prompt[DRAFT_HEAD] < sum(done.draft_seconds for done in rounds)
    assert Kernels.run is run and drafter.propose == propose
