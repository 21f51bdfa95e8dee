"""A causal LM whose head has rows for some ids alone. Its logits are as wide as the vocabulary: -inf at all other ids.

Written beside the weights by `vocabtrim export --engine transformers`, with the drafter's own class in the place of
LlamaForCausalLM. AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True) loads both. Runs nothing on
import and needs transformers and torch alone.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM


class TrimmedHead(nn.Linear):
    """(..., hidden) -> (..., kept). kept_ids: (kept,) int64, the id that each row scores."""

    kept_ids: torch.Tensor

    def __init__(self, hidden_size: int, kept: int, vocab: int, bias: bool) -> None:
        super().__init__(hidden_size, kept, bias=bias)
        self.vocab = vocab
        self.register_buffer("kept_ids", torch.full((kept,), -1))

    def widened(self, logits: torch.Tensor) -> torch.Tensor:
        """(..., kept) -> (..., vocab)."""
        row = logits.new_full((*logits.shape[:-1], self.vocab), -torch.inf)
        return row.index_copy_(-1, self.kept_ids, logits)


class TrimmedForCausalLM(LlamaForCausalLM):  # type: ignore[misc]  # of a library without types
    """The drafter's own model under a trimmed head."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        hidden_size = self.get_output_embeddings().in_features
        self.set_output_embeddings(
            TrimmedHead(hidden_size, config.draft_vocab_size, config.vocab_size, config.draft_head_bias)
        )

    @functools.wraps(LlamaForCausalLM.forward)  # `generate` asks for its arguments
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Widened behind whatever the model does with logits: a cap by tanh would make -inf an ordinary number."""
        output = super().forward(*args, **kwargs)
        output.logits = self.get_output_embeddings().widened(output.logits)
        return output
