"""vLLM's way in: the names of our drafters' classes, told to vLLM by the entry point `vllm.general_plugins`.

Every vLLM process calls `register` once it starts. The classes themselves (vllm_models.py) are imported when a
drafter's config.json names one of them.
"""

from __future__ import annotations

# Causal LMs of vLLM that ours are made of: each keeps its head in `lm_head` and scales logits in `logits_processor`.
INDEPENDENT = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
EAGLE = "EagleVocabtrimForCausalLM"  # vLLM puts "Eagle" before every name that does not begin with it
MEDUSA = "VocabtrimMedusaModel"

_MODELS = "vocabtrim.plugins.vllm_models"


def ours(architecture: str) -> str:
    """Our class for an independent drafter of that architecture."""
    return f"Vocabtrim{architecture}"


def register() -> None:
    """Tell vLLM of the classes, by name. May be called again."""
    from vllm import ModelRegistry

    for name in (*map(ours, INDEPENDENT), EAGLE, MEDUSA):
        ModelRegistry.register_model(name, f"{_MODELS}:{name}")
