"""Multi-token-prediction layers inside the checkpoint they draft for: DeepSeek-V3, Qwen3-Next and MiMo.

These drafters have no folder of their own: a block beside the target's layers, a head that is the target's (MiMo,
Qwen3-Next) or a copy of it (DeepSeek). Knows tensor names, shapes and configurations; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .sizes import ModelShape
from .tensors import attention, causal_lm, copied, gated_mlp, layer, linear, norm
from .weights import Tensor

_EXPERTS, _ACTIVE = 4, 2


def deepseek(shape: ModelShape) -> tuple[list[Tensor], dict[str, Any]]:
    """DeepSeek-V3: the block is layer number `num_hidden_layers`, with copies of the embedding and the head."""
    depth = f"model.layers.{shape.layers}"
    tensors = [
        *_with_layers(shape, lambda i: _deepseek_layer(shape, f"model.layers.{i}", dense=i == 0)),
        *copied(shape, f"{depth}.embed_tokens", "model.embed_tokens"),
        norm(shape, f"{depth}.enorm"),
        norm(shape, f"{depth}.hnorm"),
        *linear(shape, f"{depth}.eh_proj", shape.hidden, 2 * shape.hidden),
        *_deepseek_layer(shape, depth, dense=False),
        norm(shape, f"{depth}.shared_head.norm"),
        *copied(shape, f"{depth}.shared_head.head", "model.embed_tokens" if shape.tie else "lm_head"),
    ]
    config = shape.config() | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "num_nextn_predict_layers": 1,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "moe_intermediate_size": shape.intermediate // 4,
        "n_routed_experts": _EXPERTS,
        "n_shared_experts": 1,
        "num_experts_per_tok": _ACTIVE,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "q_lora_rank": shape.hidden // 2,
        "kv_lora_rank": shape.hidden // 4,
        "qk_nope_head_dim": shape.head_dim,
        "qk_rope_head_dim": shape.head_dim // 2,
        "v_head_dim": shape.head_dim,
        "num_key_value_heads": shape.heads,  # latent attention has no grouped keys
    }
    del config["head_dim"]
    return tensors, config


def qwen3_next(shape: ModelShape) -> tuple[list[Tensor], dict[str, Any]]:
    """Qwen3-Next: top-level `mtp.*`; the head is `lm_head`. The published config does not mention the block at all."""
    tensors = [
        *_with_layers(shape, lambda i: _qwen3_next_layer(shape, f"model.layers.{i}")),
        *linear(shape, "mtp.fc", shape.hidden, 2 * shape.hidden),
        norm(shape, "mtp.pre_fc_norm_embedding"),
        norm(shape, "mtp.pre_fc_norm_hidden"),
        *_qwen3_next_layer(shape, "mtp.layers.0"),
        norm(shape, "mtp.norm"),
    ]
    config = shape.config() | {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "full_attention_interval": 1,  # published: 4, with linear attention between
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": shape.head_dim,
        "linear_num_key_heads": shape.kv_heads,
        "linear_num_value_heads": shape.heads,
        "linear_value_head_dim": shape.head_dim,
        "partial_rotary_factor": 0.25,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "num_experts": _EXPERTS,
        "num_experts_per_tok": _ACTIVE,
        "norm_topk_prob": True,
        "moe_intermediate_size": shape.intermediate // 4,
        "shared_expert_intermediate_size": shape.intermediate // 4,
    }
    return tensors, config


def mimo(shape: ModelShape) -> tuple[list[Tensor], dict[str, Any]]:
    """MiMo: a Qwen2 with `model.mtp_layers.0.*`; the head is `lm_head`."""
    shape, depth = replace(shape, architecture="qwen2"), "model.mtp_layers.0"
    tensors = [
        *causal_lm(shape),
        norm(shape, f"{depth}.token_layernorm"),
        norm(shape, f"{depth}.hidden_layernorm"),
        *linear(shape, f"{depth}.input_proj", shape.hidden, 2 * shape.hidden),
        *layer(shape, depth),
        norm(shape, f"{depth}.final_layernorm"),
    ]
    config = shape.config() | {
        "architectures": ["MiMoForCausalLM"],
        "model_type": "mimo",
        "attention_bias": True,
        "num_nextn_predict_layers": 1,
    }
    return tensors, config


FAMILIES = {"deepseek": deepseek, "qwen3-next": qwen3_next, "mimo": mimo}


def _with_layers(shape: ModelShape, one: Callable[[int], list[Tensor]]) -> list[Tensor]:
    """A causal LM whose decoder layers are made by `one`."""
    rest = causal_lm(replace(shape, layers=0))
    return rest[:1] + [tensor for i in range(shape.layers) for tensor in one(i)] + rest[1:]


def _deepseek_layer(shape: ModelShape, prefix: str, *, dense: bool) -> list[Tensor]:
    return [
        norm(shape, f"{prefix}.input_layernorm"),
        *_latent_attention(shape, f"{prefix}.self_attn"),
        norm(shape, f"{prefix}.post_attention_layernorm"),
        *(gated_mlp(shape, f"{prefix}.mlp") if dense else _deepseek_experts(shape, f"{prefix}.mlp")),
    ]


def _latent_attention(shape: ModelShape, prefix: str) -> list[Tensor]:
    query_rank, key_value_rank, rope = shape.hidden // 2, shape.hidden // 4, shape.head_dim // 2
    return [
        *linear(shape, f"{prefix}.q_a_proj", query_rank, shape.hidden),
        norm(shape, f"{prefix}.q_a_layernorm", query_rank),
        *linear(shape, f"{prefix}.q_b_proj", shape.heads * (shape.head_dim + rope), query_rank),
        *linear(shape, f"{prefix}.kv_a_proj_with_mqa", key_value_rank + rope, shape.hidden),
        norm(shape, f"{prefix}.kv_a_layernorm", key_value_rank),
        *linear(shape, f"{prefix}.kv_b_proj", 2 * shape.query, key_value_rank),
        *linear(shape, f"{prefix}.o_proj", shape.hidden, shape.query),
    ]


def _deepseek_experts(shape: ModelShape, prefix: str) -> list[Tensor]:
    return [
        *linear(shape, f"{prefix}.gate", _EXPERTS, shape.hidden),
        Tensor(f"{prefix}.gate.e_score_correction_bias", (_EXPERTS,), "float32"),
        *_experts(shape, prefix),
        *gated_mlp(shape, f"{prefix}.shared_experts", shape.intermediate // 4),
    ]


def _qwen3_next_layer(shape: ModelShape, prefix: str) -> list[Tensor]:
    """A full-attention layer: the query projection is twice as wide (its gate), queries and keys are normed."""
    query, *rest = attention(shape, f"{prefix}.self_attn")
    return [
        norm(shape, f"{prefix}.input_layernorm"),
        replace(query, shape=(2 * shape.query, shape.hidden)),
        *rest,
        norm(shape, f"{prefix}.self_attn.q_norm", shape.head_dim),
        norm(shape, f"{prefix}.self_attn.k_norm", shape.head_dim),
        norm(shape, f"{prefix}.post_attention_layernorm"),
        *linear(shape, f"{prefix}.mlp.gate", _EXPERTS, shape.hidden),
        *_experts(shape, f"{prefix}.mlp"),
        *gated_mlp(shape, f"{prefix}.mlp.shared_expert", shape.intermediate // 4),
        *linear(shape, f"{prefix}.mlp.shared_expert_gate", 1, shape.hidden),
    ]


def _experts(shape: ModelShape, prefix: str) -> list[Tensor]:
    width = shape.intermediate // 4
    return [tensor for e in range(_EXPERTS) for tensor in gated_mlp(shape, f"{prefix}.experts.{e}", width)]
