"""EAGLE-1 and EAGLE-2's drafter (arXiv 2401.15077, 2406.16858): Llama layers over the target's last hidden states.

Layer names and their order: SafeAILab/EAGLE, model/cnets1.py. The two differ in what is drafted, which is the plan's
affair, not the model's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from ..kv_cache import KeyValueCache, cache_argument
from ..lean.library import Kernels
from ..lean.stack import LeanStack, Parts
from .feature_body import FeatureLayers, Out

CACHE = cache_argument(LlamaDecoderLayer.forward) or ""

# What EAGLE-1/2 calls a feature: the hidden state that the target's head reads.
STATES = (-1,)


class EagleLayers(FeatureLayers):
    """fc over embedding and feature, then decoder layers. The first layer has no input norm, and there is no last norm.

    The modules carry the published tensor names.
    """

    def __init__(self, config: LlamaConfig, *, input_norm: bool = False) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.layers = nn.ModuleList(LlamaDecoderLayer(config, number) for number in range(config.num_hidden_layers))
        if not input_norm:
            self.layers[0].input_layernorm = nn.Identity()

    def fuse(self, hidden: torch.Tensor, kernels: Kernels | None = None) -> torch.Tensor:
        return hidden

    def lean(self, rotary: Any, embedding: torch.Tensor, cache: KeyValueCache) -> LeanStack:
        return LeanStack(Parts(self.config, list(self.layers), rotary, embedding, fuse=self.fc), cache)

    def forward(
        self,
        embedded: torch.Tensor,
        features: torch.Tensor,
        positions: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
        cache: KeyValueCache,
    ) -> Out:
        states = self.fc(torch.cat([embedded, features], dim=-1))[None]
        for layer in self.layers:
            states = layer(states, attention_mask=mask, position_embeddings=positions, **{CACHE: cache})
        return Out(states[0], states[0])
