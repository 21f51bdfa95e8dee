"""The sizes of published models, as data: what a config.json says of a Llama or a Qwen2.

Knows numbers and configuration fields; knows nothing of files or weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Dtype = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class ModelShape:
    """One causal language model's size: the target of a drafter, or an independent drafter.

    vocab: ids of the tokenizer. head_rows: rows of the embedding and of the head, `vocab_size` of the config; more
        than `vocab` where the head is padded. eos: the stop ids of generation_config.json.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    head_rows: int
    bos: int
    eos: tuple[int, ...]
    tie: bool = False
    head_dim: int = 128
    architecture: Literal["llama", "qwen2"] = "llama"
    rope_theta: float = 500_000.0
    rope_scaling: Mapping[str, Any] | None = None
    norm_eps: float = 1e-5
    max_positions: int = 131_072
    dtype: Dtype = "bfloat16"

    @property
    def query(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.kv_heads * self.head_dim

    def config(self) -> dict[str, Any]:
        """The fields of config.json that every model of this size shares."""
        return {
            "architectures": ["Qwen2ForCausalLM" if self.architecture == "qwen2" else "LlamaForCausalLM"],
            "model_type": self.architecture,
            "vocab_size": self.head_rows,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": dict(self.rope_scaling) if self.rope_scaling else None,
            "tie_word_embeddings": self.tie,
            "bos_token_id": self.bos,
            "eos_token_id": list(self.eos) if len(self.eos) > 1 else self.eos[0],
            "initializer_range": 0.02,
            "use_cache": True,
            "torch_dtype": self.dtype,
        }


def _llama3_rope(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


_LLAMA_3_IDS: Any = {"vocab": 128_256, "head_rows": 128_256, "bos": 128_000, "eos": (128_001, 128_008, 128_009)}

LLAMA_3_1_8B = ModelShape("llama-3.1-8b", 4096, 14_336, 32, 32, 8, **_LLAMA_3_IDS, rope_scaling=_llama3_rope(8.0))
LLAMA_3_2_1B = ModelShape(
    "llama-3.2-1b", 2048, 8192, 16, 32, 8, **_LLAMA_3_IDS, head_dim=64, tie=True, rope_scaling=_llama3_rope(32.0)
)
LLAMA_3_2_3B = ModelShape(
    "llama-3.2-3b", 3072, 8192, 28, 24, 8, **_LLAMA_3_IDS, tie=True, rope_scaling=_llama3_rope(32.0)
)
QWEN2_5_7B = ModelShape(
    "qwen2.5-7b",
    3584,
    18_944,
    28,
    28,
    4,
    vocab=151_665,
    head_rows=152_064,
    bos=151_643,
    eos=(151_645, 151_643),
    architecture="qwen2",
    rope_theta=1_000_000.0,
    norm_eps=1e-6,
    max_positions=32_768,
)
TINY = ModelShape(
    "tiny",
    64,
    128,
    2,
    4,
    2,
    vocab=512,
    head_rows=512,
    bos=1,
    eos=(2,),
    head_dim=16,
    rope_theta=10_000.0,
    max_positions=512,
)
