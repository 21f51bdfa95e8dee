"""EAGLE-3's drafter (arXiv 2503.01840): one wide decoder layer over three fused hidden states of the target.

Tensor names and computation: SafeAILab/EAGLE, model/cnets.py; the variants: vllm-project/speculators, models/eagle3,
and vllm-project/vllm, model_executor/models/llama_eagle3.py. It has a head and a map of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from ..kv_cache import KeyValueCache, cache_argument
from ..lean.library import Kernels
from ..lean.stack import LeanStack, Parts
from .feature_body import FeatureLayers, Out
from .variants import Eagle3Norms

CACHE = cache_argument(LlamaAttention.forward) or ""


class _Midlayer(nn.Module):
    """Attention over the normed embedding and the normed feature side by side, then a gated feed-forward block."""

    def __init__(self, config: LlamaConfig, *, head_norms: bool) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config, layer_idx=0)
        for name in ("q_proj", "k_proj", "v_proj"):
            projection = getattr(self.self_attn, name)
            wide = nn.Linear(2 * config.hidden_size, projection.out_features, bias=projection.bias is not None)
            setattr(self.self_attn, name, wide)
        if head_norms:
            _norm_heads(self.self_attn, config)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hidden_norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)


def _norm_heads(attention: LlamaAttention, config: LlamaConfig) -> None:
    """Make it Qwen3's: every head's query and key is normed before it is turned to its position."""

    def norm_output(norm: nn.Module, projection: nn.Module) -> None:
        width = attention.head_dim
        projection.register_forward_hook(lambda _, __, out: norm(out.unflatten(-1, (-1, width))).flatten(-2))

    attention.q_norm = LlamaRMSNorm(attention.head_dim, config.rms_norm_eps)
    attention.k_norm = LlamaRMSNorm(attention.head_dim, config.rms_norm_eps)
    norm_output(attention.q_norm, attention.q_proj)
    norm_output(attention.k_norm, attention.k_proj)


class Eagle3Layers(FeatureLayers):
    """fc fuses the target's states; midlayer drafts; norm stands before the head.

    fused: columns of fc, `states` hidden states of the target side by side. head_norms: attention is Qwen3's.
    """

    def __init__(
        self, config: LlamaConfig, fused: int, states: int, norms: Eagle3Norms, *, head_norms: bool = False
    ) -> None:
        super().__init__()
        self.config, self.norms = config, norms
        if norms.before_fc:
            self.input_norm = LlamaRMSNorm(fused, config.rms_norm_eps)
        if norms.each_state:
            self.fc_norm = nn.ModuleList(LlamaRMSNorm(fused // states, config.rms_norm_eps) for _ in range(states))
        self.fc = nn.Linear(fused, config.hidden_size, bias=False)
        self.midlayer = _Midlayer(config, head_norms=head_norms)
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def fuse(self, hidden: torch.Tensor, kernels: Kernels | None = None) -> torch.Tensor:
        if self.norms.before_fc:
            hidden = self.input_norm(hidden)
        if self.norms.each_state:
            parts = hidden.chunk(len(self.fc_norm), dim=-1)
            hidden = torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)], dim=-1)
        if kernels is not None:
            return kernels.project(self.fc, hidden)
        return self.fc(hidden)  # type: ignore[no-any-return]

    def lean(self, rotary: Any, embedding: torch.Tensor, cache: KeyValueCache) -> LeanStack:
        residual = self.norms.before_residual
        parts = Parts(self.config, [self.midlayer], rotary, embedding, self.norm, normed_residual=residual)
        return LeanStack(parts, cache)

    @property
    def feature_is_normed(self) -> bool:
        return self.norms.output

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
        attended, _ = block.self_attn(wide, positions, mask, **{CACHE: cache})
        states = (normed if self.norms.before_residual else features) + attended[0]
        states = states + block.mlp(block.post_attention_layernorm(states))
        head_input = self.norm(states)
        return Out(head_input if self.norms.output else states, head_input)
