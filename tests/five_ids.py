"""A target of five ids with drafters of every kind, and the exact distribution of what it emits.

So small that every continuation can be listed. Weights are twelve times as wide as models are initialised with, so that
distributions are far from uniform and depend on every token before; drafters are seeded apart, so none is its target.
All is computed in float64, but for norms and rotations, which transformers computes in float32 whatever it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM

import small_models
from outcomes import outcomes
from remembered import remember_all
from vocabtrim.decoding.drafters.medusa import MedusaDrafter
from vocabtrim.decoding.drafters.protocol import Drafter
from vocabtrim.decoding.drafters.stepping import SteppingDrafter
from vocabtrim.decoding.rounds import rounds
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.decoding.stopping import Stop
from vocabtrim.decoding.target import Target
from vocabtrim.testbed import weights

VOCAB = 5
PROMPT = (1, 4, 3)
SPREAD = 0.25  # standard deviation of the weights

Tokens = tuple[int, ...]
Distribution = dict[Tokens, float]


class FiveIds:
    """Opens what it is asked for, once; passes are remembered."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shape = folder, replace(small_models.shape(VOCAB), layers=3)
        self.target_folder = self._written("target", lambda out: small_models.write_target(out, self.shape))
        self._plain = AutoModelForCausalLM.from_pretrained(self.target_folder, dtype=torch.float64).eval()
        self._logits: dict[Tokens, torch.Tensor] = {}
        self._opened: dict[tuple[str, Tokens | None], tuple[Target, Drafter]] = {}

    def opened(self, kind: str, kept: Tokens | None) -> tuple[Target, Drafter]:
        """Target and drafter; kept: the ids it is trimmed to, None for the full drafter."""
        if (kind, kept) not in self._opened:
            folder = self._written(kind, lambda out: small_models.write_drafter(out, kind, self.shape))
            if kept is not None:
                full = folder
                folder = self._written(
                    f"{kind} {kept}", lambda out: small_models.trim(full, self.target_folder, kept, VOCAB, out)
                )
            self._opened[kind, kept] = small_models.open_both(self.target_folder, folder, dtype="float64")
            remember_all(*self._opened[kind, kept])
        return self._opened[kind, kept]

    def _written(self, name: str, write: Callable[[Path], Path]) -> Path:
        out = self.folder / name
        if not out.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(weights, "_SPREAD", SPREAD)
                write(out)
        return out

    def joint(self, sampling: Sampling, length: int, prompt: Sequence[int] = PROMPT) -> Distribution:
        """Every continuation of a prompt that has a probability, with it: the product of the target's conditionals.

        From plain passes over whole sequences: no cache, no mask and no loop of ours.
        """
        found: Distribution = {(): 1.0}
        for _ in range(length):
            found = {
                (*before, token): probability * conditional
                for before, probability in found.items()
                for token, conditional in enumerate(sampling.probs(self._behind((*prompt, *before))).tolist())
                if conditional > 0
            }
        return found

    @torch.no_grad()
    def _behind(self, context: Tokens) -> torch.Tensor:
        """(VOCAB,) the target's logits behind a context."""
        if context not in self._logits:
            self._logits[context] = self._plain(torch.tensor([context]), use_cache=False).logits[0, -1]
        return self._logits[context]


def five_ids(folder: Path) -> Iterator[FiveIds]:
    """To be yielded from by a fixture: models of this size are slower, not faster, in several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield FiveIds(folder)
    torch.set_num_threads(threads)


def draft_with(drafter: Drafter, plan: Any) -> Drafter:
    """The drafter, drafting by that plan from now on; for Medusa, whose plan is a static tree, by those places."""
    if isinstance(drafter, MedusaDrafter):
        drafter.tree = plan
    elif isinstance(drafter, SteppingDrafter):
        drafter.plan = plan
    return drafter


class Walk(NamedTuple):
    """Every outcome of decoding. emitted: each continuation with its probability. accepted: numbers of tokens that
    rounds accepted. outcomes: how many were walked, of which several may emit the same."""

    emitted: Distribution
    accepted: set[int]
    outcomes: int


def walk(target: Target, drafter: Drafter, sampling: Sampling, length: int, prompt: Tokens = PROMPT) -> Walk:
    """Decode `length` tokens under every chance there is."""
    accepted: list[int] = []
    walked = 0

    def decoded(chance: Any) -> Tokens:
        nonlocal walked
        walked += 1
        done = list(rounds(target, drafter, prompt, sampling=sampling, stop=Stop(length), chance=chance))
        accepted.extend(one.accepted for one in done)
        return tuple(chain.from_iterable(one.tokens for one in done))

    emitted: Any = outcomes(decoded)
    return Walk(emitted, set(accepted), walked)


def distance(found: Distribution, expected: Distribution) -> float:
    """The largest difference of a probability."""
    return max(abs(found.get(tokens, 0.0) - expected.get(tokens, 0.0)) for tokens in {**found, **expected})
