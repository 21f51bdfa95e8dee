"""Llama models over packed rows: a document sees itself alone, as it will when it is generated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .loss import head_loss
from .mixture import Batch

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

_PROMPT_WEIGHT = 0.3  # of a token that the target would not write, beside 1 of one that it would


def build(config: LlamaConfig, seed: int) -> LlamaForCausalLM:
    """A model with random weights, float32."""
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def mask_of(batch: Batch) -> Tensor:
    """bool (rows, 1, seq, seq): what each token may look at, its own document up to itself."""
    document = torch.from_numpy(batch.document)
    seq = document.shape[1]
    causal = torch.ones(seq, seq, dtype=torch.bool).tril()
    return ((document[:, :, None] == document[:, None, :]) & causal)[:, None]


def hidden_of(core: Any, batch: Batch, **options: Any) -> Any:
    """The output of a Llama without head on packed rows, in bfloat16 arithmetic."""
    with torch.autocast("cpu", torch.bfloat16):
        return core(
            input_ids=torch.from_numpy(batch.ids),
            attention_mask=mask_of(batch),
            position_ids=torch.from_numpy(batch.position),
            use_cache=False,
            **options,
        )


def targets_of(batch: Batch, prompt_weight: float = _PROMPT_WEIGHT) -> tuple[Tensor, Tensor]:
    """(next token, weight) of each place, int64 and float32 (rows * seq,); weights sum to 1, 0 at a document's end."""
    ids, document = torch.from_numpy(batch.ids), torch.from_numpy(batch.document)
    answer = torch.from_numpy(batch.answer)
    weight = torch.where(torch.roll(answer, -1, 1), 1.0, prompt_weight)
    inside = (document >= 0) & (torch.roll(document, -1, 1) == document)
    inside[:, -1] = False
    weight = weight * inside
    return torch.roll(ids, -1, 1).reshape(-1), (weight / weight.sum()).reshape(-1)


def language_loss(core: Any, head: Tensor, batch: Batch, *, answers_only: bool = False) -> Tensor:
    """Mean cross-entropy of the next token."""
    hidden = hidden_of(core, batch).last_hidden_state
    wanted, weight = targets_of(batch, 0.0 if answers_only else _PROMPT_WEIGHT)
    return head_loss(hidden.reshape(-1, hidden.shape[-1]), head, wanted, weight, compiled=True).sum()
