"""Llama models over packed rows: a document sees itself alone, as it will when it is generated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .loss import CHUNK, head_loss, whole_chunks
from .mixture import Batch
from .sizes import END, END_OF_TEXT, VOCAB, Size

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

# Tokens that the target would not write teach it too, but the head is 40 % of the work: a third of them, weighing as
# much as if all were taken at 0.3 beside 1 for an answer's.
_PROMPT_WEIGHT, _PROMPT_SHARE = 0.9, 3


def config(size: Size) -> LlamaConfig:
    """A tied Llama of this size over the family's tokenizer."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        head_dim=size.head_dim,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        rms_norm_eps=size.norm_eps,
        bos_token_id=END_OF_TEXT,
        eos_token_id=[END, END_OF_TEXT],
        pad_token_id=END_OF_TEXT,
    )


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
    lot = torch.arange(ids.numel()).reshape(ids.shape) + ids  # as good as chance, and the same each time
    drawn = torch.roll(answer, -1, 1) | (lot % _PROMPT_SHARE == 0)
    weight = weight * (inside & drawn)
    return torch.roll(ids, -1, 1).reshape(-1), (weight / weight.sum()).reshape(-1)


def language_loss(core: Any, head: Tensor, batch: Batch, *, answers_only: bool = False) -> Tensor:
    """Mean cross-entropy of the next token."""
    hidden = hidden_of(core, batch).last_hidden_state.flatten(0, 1)
    wanted, weight = targets_of(batch, 0.0 if answers_only else _PROMPT_WEIGHT)
    chosen, weight = whole_chunks(weight, CHUNK)
    return head_loss(hidden.index_select(0, chosen), head, wanted[chosen], weight, compiled=True).sum()
