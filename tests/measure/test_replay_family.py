"""Replay beside live decoding on the built-in trained models: every kind, full and cut, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import small_models
import vocabtrim as vt
from recordings import record
from vocabtrim.decoding.text import TargetText
from vocabtrim.measure.recording import Recorded
from vocabtrim.measure.redraft import redraft
from vocabtrim.measure.replay_rounds import replay_rounds
from vocabtrim.testbed.demo import DRAFTERS, chosen_prompts
from vocabtrim.testbed.family import member

PROMPTS, LENGTH, KEPT = 7, 64, 1024
WAYS = [vt.Sampling(), vt.Sampling(temperature=0.8)]
PLANS = {
    **{f"{name}, chain": (name, vt.Chain(4)) for name in DRAFTERS if name != "medusa"},
    **{f"{name}, tree": (name, vt.DynamicTree()) for name in DRAFTERS if name != "medusa"},
    "medusa": ("medusa", None),
}


def recordings(target: vt.Target, states: tuple[int, ...]) -> Iterator[tuple[Recorded, vt.Sampling]]:
    words = TargetText(member("target"))
    for number, prompt in enumerate(chosen_prompts(PROMPTS)):
        sampling, ids = WAYS[number % 2], words.conversation(prompt.messages)
        yield record(target, ids, LENGTH, states=states, sampling=sampling, stop_ids=target.stop_ids), sampling


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANS)
def test_replay_has_the_rounds_of_live_decoding(tmp_path: Path, name: str) -> None:
    """Of the full head and of the 1,024 lowest ids, half of the prompts greedy and half at a temperature."""
    drafter, plan = PLANS[name]
    kept = np.arange(KEPT)
    target = vt.load_target(member("target"), dtype="float32")
    cut = small_models.trim(member(drafter), member("target"), kept.tolist(), 16_384, tmp_path / "cut")
    live = [vt.load_drafter(folder, target, plan=plan) for folder in (member(drafter), cut)]
    drafting = redraft(vt.load_drafter(member(drafter), target, plan=plan), [None, kept])
    accepted = 0
    for recorded, sampling in recordings(target, live[0].states):
        for one, rounds in zip(live, replay_rounds(recorded, drafting, 2), strict=True):
            chance = torch.Generator().manual_seed(0)
            expected = list(
                vt.decode(target, one, recorded.prompt, max_new_tokens=LENGTH, sampling=sampling, generator=chance)
            )
            assert tuple(token for part in expected for token in part.tokens) == recorded.output
            numbers = [(part.emitted, part.accepted, part.drafted, part.depth) for part in expected]
            assert [(part.emitted, part.accepted, part.drafted, part.depth) for part in rounds] == numbers
            accepted += sum(part.accepted for part in rounds)
    assert accepted > 0
