"""From a target's logits to the distribution that tokens are drawn from: temperature, top-k, top-p.

Applied once to the target's logits, for drafted, residual and bonus tokens alike; that is what makes speculative
decoding emit the plain loop's distribution. Knows logits and probabilities; knows nothing of drafts or models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

import torch

from ..errors import InputError
from .chance import Chance


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 is greedy: the lowest id among those with the highest logit, for certain.

    top_k: how many of the most probable ids may be drawn; 0 for all. Ids that tie with the last of them stay.
    top_p: the mass that the fewest most probable ids reach together, and only they may be drawn; 1 for all.
    Both cut after the temperature, top_k first, as in transformers (generation/logits_process.py).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.temperature == float("inf"):
            raise InputError(
                "temperature is out of range", expected="0 or more", found=self.temperature, remedy="use 0"
            )
        if self.top_k < 0:
            raise InputError("top_k is out of range", expected="0 or more", found=self.top_k, remedy="0 keeps all ids")
        if not 0 < self.top_p <= 1:
            raise InputError(
                "top_p is out of range", expected="above 0 and up to 1", found=self.top_p, remedy="1 keeps all ids"
            )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def draw(self, target_logits: torch.Tensor, chance: Chance) -> int:
        """(target_vocab,) logits -> a token. Raises InputError for logits that hold NaN."""
        if not self.greedy:
            return chance.draw(self.probs(target_logits))
        logits = widened(target_logits)
        token = int(logits.argmax())
        if not isfinite(logits[token]):  # NaN counts as the largest
            _prove_numbers(logits)
        return token

    def likeliest(self, target_logits: torch.Tensor) -> Callable[[int], int]:
        """(row, target_vocab) logits -> row -> the token that greedy `draw` gives there, for all rows in one go: each
        number that a GPU is asked for by itself costs a wait. Raises as `draw`, where such a row is asked for."""
        largest, tokens = target_logits.max(dim=-1)
        drawn, numbers = torch.stack([tokens, largest.isfinite().long()]).tolist()

        def token(row: int) -> int:
            if not numbers[row]:
                _prove_numbers(target_logits[row])
            return int(drawn[row])

        return token

    def probs(self, target_logits: torch.Tensor) -> torch.Tensor:
        """(..., target_vocab) logits -> (..., target_vocab) probabilities, float32 or wider; one-hot when greedy.

        Raises InputError for logits that hold NaN.
        """
        _prove_numbers(target_logits)
        logits = widened(target_logits)
        if self.greedy:
            return torch.zeros_like(logits).scatter_(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
        smallest = torch.finfo(logits.dtype).tiny  # below it a temperature would count as 0, and divide by it
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / max(self.temperature, smallest)
        if self.top_k and self.top_k < logits.shape[-1]:
            last_kept = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < last_kept, -torch.inf)
        probs = logits.softmax(dim=-1)
        return _nucleus(probs, self.top_p) if self.top_p < 1 else probs


def widened(logits: torch.Tensor) -> torch.Tensor:
    """The same numbers in float32, or wider where they are: torch finds the largest of bfloat16 half as fast."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _prove_numbers(target_logits: torch.Tensor) -> None:
    """Single ids may be ruled out by -inf; the largest logit of a row says whether anything else is wrong."""
    largest = target_logits if target_logits.dim() == 0 else target_logits.amax(dim=-1)
    wrong = largest[~torch.isfinite(largest)]
    if wrong.numel():
        raise InputError(
            "the target's logits hold NaN or infinity",
            expected="finite numbers",
            found=f"{wrong.flatten()[0]} as the largest",
            remedy="check the checkpoint, or decode in float32 instead of half",
        )


def _nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """The fewest most probable ids whose mass reaches top_p, renormalised; the most probable id always stays."""
    ordered, ids = probs.sort(dim=-1, descending=True, stable=True)
    mass_before = ordered.cumsum(dim=-1) - ordered
    beyond = mass_before >= top_p
    beyond[..., 0] = False  # a top_p that float32 takes for 0
    kept = ordered.masked_fill(beyond, 0.0)
    kept = kept / kept.sum(dim=-1, keepdim=True)
    return torch.zeros_like(probs).scatter_(-1, ids, kept)
