"""EAGLE-1 and EAGLE-2's drafter (arXiv 2401.15077, 2406.16858): Llama layers over the target's last hidden states.

Layer names and their order: SafeAILab/EAGLE, model/cnets1.py. The two differ in what is drafted, which is the plan's
affair, not the model's.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from ..kv_cache import KeyValueCache
from .feature_body import FeatureLayers, Out

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

    def fuse(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden

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
            # The cache by its place: versions of transformers call it otherwise.
            states = layer(states, mask, None, cache, position_embeddings=positions)
        return Out(states[0], states[0])
