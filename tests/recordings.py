"""What tests of replaying share: a target's generation, recorded with its hidden states as `bench` would."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

import vocabtrim as vt
from vocabtrim.decoding.rounds import Round
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.decoding.target import Target
from vocabtrim.measure.recording import Recorded
from vocabtrim.measure.state_recorder import StateRecorder


def record(
    target: Target,
    prompt: Sequence[int],
    length: int,
    *,
    states: Sequence[int] = (),
    sampling: Sampling = Sampling(),  # noqa: B008  frozen
    stop_ids: Collection[int] = (),
    seed: int = 0,
    name: str = "0",
) -> Recorded:
    recorder = StateRecorder(states)
    chance = torch.Generator().manual_seed(seed)
    rounds: list[Round] = list(
        vt.decode(
            target, recorder, prompt, max_new_tokens=length, sampling=sampling, stop_ids=stop_ids, generator=chance
        )
    )
    return Recorded(
        name=name,
        prompt=tuple(prompt),
        output=tuple(token for one in rounds for token in one.tokens),
        ended=rounds[-1].ended,
        max_new_tokens=length,
        hidden=recorder.hidden if states else None,
    )
