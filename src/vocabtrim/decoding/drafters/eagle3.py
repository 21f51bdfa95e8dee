"""EAGLE-3's drafter (arXiv 2503.01840): one wide decoder layer over three fused hidden states of the target.

Tensor names: SafeAILab/EAGLE, model/cnets.py, and vllm-project/speculators. It has a head and a map of its own.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from ...errors import UnsupportedError
from ..kv_cache import KeyValueCache
from .feature_body import FeatureLayers, Out


def default_states(layers: int) -> tuple[int, ...]:
    """The hidden states that EAGLE-3 reads of a target with that many layers: early, middle and late layers' inputs.

    SafeAILab/EAGLE, model/modeling_llama_kv.py. Raises UnsupportedError for fewer than three layers.
    """
    if layers < 3:
        raise UnsupportedError(
            "EAGLE-3 reads hidden states of three layers",
            expected="a target of 3 layers or more",
            found=layers,
            remedy='name them as "eagle_aux_hidden_state_layer_ids" in the drafter\'s config.json',
        )
    return (2, layers // 2, layers - 3)


class _Midlayer(nn.Module):
    """Attention over the normed embedding and the normed feature side by side, then a gated feed-forward block."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config, layer_idx=0)
        for name in ("q_proj", "k_proj", "v_proj"):
            projection = getattr(self.self_attn, name)
            wide = nn.Linear(2 * config.hidden_size, projection.out_features, bias=projection.bias is not None)
            setattr(self.self_attn, name, wide)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hidden_norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)


class Eagle3Layers(FeatureLayers):
    """fc fuses the target's states; midlayer drafts; norm stands before the head.

    norm_before_residual: the residual branch carries the normed feature, as in some of vllm-project/speculators.
    """

    def __init__(self, config: LlamaConfig, fused: int, *, norm_before_residual: bool = False) -> None:
        super().__init__()
        self.config = config
        self.norm_before_residual = norm_before_residual
        self.fc = nn.Linear(fused, config.hidden_size, bias=False)
        self.midlayer = _Midlayer(config)
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def fuse(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.fc(hidden)  # type: ignore[no-any-return]

    def forward(
        self,
        embedded: torch.Tensor,
        features: torch.Tensor,
        positions: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
        cache: KeyValueCache,
    ) -> Out:
        block = self.midlayer
        normed = block.hidden_norm(features)
        wide = torch.cat([block.input_layernorm(embedded), normed], dim=-1)[None]
        attended, _ = block.self_attn(wide, positions, mask, past_key_values=cache)
        states = (normed if self.norm_before_residual else features) + attended[0]
        states = states + block.mlp(block.post_attention_layernorm(states))
        return Out(states, self.norm(states))
