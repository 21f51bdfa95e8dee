"""A target in this process, with or without a drafter, that answers one prompt after the other.

Knows models and their loop; knows nothing of files of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ..checkpoint.read import open_checkpoint
from ..checkpoint.stored import fingerprint
from ..decoding.load import drafter_kind, load_drafter, load_target
from ..decoding.rounds import decode
from ..decoding.stopping import Reason
from ..decoding.text import TargetText
from ..hub import local_folder
from ..measure.methods import Settings
from .answers import TARGET, Prompt, Written
from .proposals import ListeningDrafter

_ENDED = {Reason.STOP_ID: "stop", Reason.LENGTH: "length"}  # as servers say it


class LocalTarget:
    """folder, drafter: as `load_target` and `load_drafter` take them, and what they raise."""

    def __init__(self, folder: Path, drafter: str | Path | None, words: TargetText, settings: Settings) -> None:
        self._words, self._settings = words, settings
        plan = None if drafter is None else settings.plan(drafter_kind(drafter, folder))
        self._target = load_target(folder, dtype=settings.dtype, device=settings.device, lean=settings.lean)
        self._target.lm.wait()  # so that a run that goes on writes what it would have written
        self._drafter = None if drafter is None else ListeningDrafter(load_drafter(drafter, self._target, plan=plan))

    def answer(self, prompt: Prompt, seed: int) -> Written:
        """An answer and what was proposed for it. Raises InputError for a prompt that cannot be read."""
        words = self._words
        return self.answer_ids(
            words.prompt(prompt, chat=False) if isinstance(prompt, str) else words.conversation(prompt), seed
        )

    def answer_ids(self, ids: Sequence[int], seed: int) -> Written:
        """The same behind the ids of a prompt."""
        began = perf_counter()
        rounds = list(
            decode(
                self._target,
                self._drafter,
                ids,
                max_new_tokens=self._settings.max_new_tokens,
                sampling=self._settings.sampling,
                generator=torch.Generator(self._target.lm.device).manual_seed(seed),
            )
        )
        tokens = tuple(token for round in rounds for token in round.tokens)
        ended = rounds[-1].ended
        assert ended is not None
        return Written(
            text=self._words.decode(tokens),
            token_ids=tokens,
            ids_from=TARGET,
            ended=_ENDED[ended],
            seconds=perf_counter() - began,
            proposed=None if self._drafter is None else self._drafter.heard,
        )


def local_identity(folder: Path, drafter: str | Path | None, settings: Settings) -> dict[str, Any]:
    """What the answers depend on, and the proposals: told from headers, without weights."""
    told: dict[str, Any] = {"model": fingerprint(open_checkpoint(folder).tensors.values()), "dtype": settings.dtype}
    if drafter is not None:
        told["drafter"] = fingerprint(open_checkpoint(local_folder(drafter)).tensors.values())
        told |= {"draft_length": settings.draft_length, "nodes": settings.nodes, "branching": settings.branching}
    return told
