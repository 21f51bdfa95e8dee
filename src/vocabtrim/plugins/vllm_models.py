"""Drafters for vLLM whose head scores the kept ids only, while their input embedding knows every id of the target.

To vLLM each has the target's vocabulary: config.json says the full `vocab_size`, drafted ids are the target's, scores
of ids that were cut are minus infinity. `draft_vocab_size` says how many rows the head has, the tensor `d2t` which ids
they stand for (id = row + d2t[row]). Written against vLLM 0.32.0; imported by vLLM alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.llama_eagle import EagleLlamaForCausalLM
from vllm.model_executor.models.medusa import Medusa
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    get_draft_quant_config,
    maybe_prefix,
    process_eagle_weight,
)

Weights = Iterable[tuple[str, torch.Tensor]]


class KeptHead(nn.Module):
    """Stands before a causal LM of vLLM and puts a head of kept rows in the place of its own."""

    kept_ids: torch.Tensor  # (kept,) the target id of each row
    model: Any
    logits_processor: Any

    def cut_head(self, config: Any, quant_config: Any) -> None:
        kept = config.draft_vocab_size
        self.target_vocab = config.vocab_size
        self.lm_head = ParallelLMHead(
            kept,
            config.hidden_size,
            bias=getattr(config, "lm_head_bias", False),
            quant_config=quant_config,
            prefix="lm_head",  # as the config's quantization names it; vLLM puts "draft_model." before its own
        )
        self.logits_processor.vocab_size = self.logits_processor.org_vocab_size = kept
        self.kept_ids = nn.Parameter(torch.full((kept,), -1, dtype=torch.long), requires_grad=False)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """(rows, target_vocab), minus infinity for ids without a row; None where another process gathers them."""
        scores: torch.Tensor | None = self.logits_processor(self.lm_head, hidden_states, self.lm_head.bias)
        if scores is None:
            return None
        wide = scores.new_full((*scores.shape[:-1], self.target_vocab), float("-inf"))
        return wide.index_copy_(-1, self.kept_ids, scores)

    def get_top_tokens(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(rows,), the best id of each, without the wide row: vLLM asks so under `use_local_argmax_reduction`."""
        best: torch.Tensor = self.logits_processor.get_top_tokens(self.lm_head, hidden_states, self.lm_head.bias)
        return self.kept_ids[best]


def with_kept_ids(weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    """The checkpoint's tensors, its map as ids. Without a map every draft would be id -1, so that is an error."""
    has_map = False
    for name, tensor in weights:
        if name == "d2t":
            has_map = True
            yield "kept_ids", tensor + torch.arange(len(tensor), device=tensor.device)
        else:
            yield name, tensor
    if not has_map:
        raise ValueError("the drafter's folder holds no d2t: export it again with `vocabtrim export`")


class Independent(KeptHead):
    """A small causal LM that drafts by itself."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.cut_head(vllm_config.model_config.hf_config, vllm_config.quant_config)

    def load_weights(self, weights: Weights) -> set[str]:
        loaded: set[str] = super().load_weights(with_kept_ids(weights))  # type: ignore[misc]
        return loaded


class VocabtrimLlamaForCausalLM(Independent, LlamaForCausalLM):
    pass


class VocabtrimMistralForCausalLM(Independent, MistralForCausalLM):
    pass


class VocabtrimQwen2ForCausalLM(Independent, Qwen2ForCausalLM):
    pass


class VocabtrimQwen3ForCausalLM(Independent, Qwen3ForCausalLM):
    pass


class EagleVocabtrimForCausalLM(KeptHead, EagleLlamaForCausalLM):
    """EAGLE-1 and -2 with a head of their own, and with the bias of `fc`, which vLLM's class drops without a word."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        config = vllm_config.speculative_config.draft_model_config.hf_config
        quant_config = get_draft_quant_config(vllm_config)
        if config.fc_bias:
            self.model.fc = ReplicatedLinear(
                2 * config.hidden_size,
                config.hidden_size,
                bias=True,
                params_dtype=vllm_config.model_config.dtype,
                quant_config=quant_config,
                prefix=maybe_prefix(prefix, "model.fc"),
                return_bias=False,
            )
        self.cut_head(config, quant_config)

    def load_weights(self, weights: Weights) -> None:
        def placed(name: str) -> str:
            process_eagle_weight(self, name)  # so that the target's head is not put in the place of ours
            return name if name.startswith(("lm_head.", "kept_ids")) else f"model.{name}"

        AutoWeightsLoader(self).load_weights((placed(name), tensor) for name, tensor in with_kept_ids(weights))


class VocabtrimMedusaModel(Medusa):
    """Medusa with its heads cut to one kept vocabulary; vLLM's class can cut a head only where all heads share it."""

    token_map: torch.Tensor | None  # (kept,) the target id of each row; None where every id is kept

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        config = vllm_config.speculative_config.draft_model_config.hf_config
        config.original_lm_head = True  # one narrow head is made instead of full ones, and dropped
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        del self.lm_head
        self.lm_heads = nn.ModuleList(
            ParallelLMHead(
                config.truncated_vocab_size, config.hidden_size, prefix=maybe_prefix(prefix, f"lm_heads.{head}")
            )
            for head in range(config.num_heads)
        )

    def load_weights(self, weights: Weights) -> set[str]:
        loaded: set[str] = super().load_weights(weights)
        if missing := [name for name, _ in self.named_parameters() if name not in loaded and name != "token_map"]:
            raise ValueError(f"the drafter's folder lacks {missing[0]}: export it again with `vocabtrim export`")
        if self.token_map is not None:  # vLLM leaves it where it was read
            device = next(self.parameters()).device
            self.token_map = nn.Parameter(self.token_map.to(device), requires_grad=False)
        return loaded | {"token_map"}  # which vLLM's class does not count among them, and its loader asks for
