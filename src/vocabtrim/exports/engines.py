"""The engines by name; each module is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from ..errors import InputError
from .engine import Engine

# name -> module
ENGINES = {
    "vllm": "vllm",
    "vllm-plugin": "vllm_plugin",
    "sglang": "sglang",
    "llama-cpp": "llama_cpp",
    "tensorrt-llm": "tensorrt_llm",
    "speculators": "speculators",
    "specforge": "specforge",
    "model-optimizer": "model_optimizer",
    "transformers": "transformers",
    "openvino": "openvino",
    "onnx-genai": "onnx_genai",
}


def engine_named(name: str) -> Engine:
    """Raises InputError for a name that is not in `ENGINES`."""
    if name not in ENGINES:
        raise InputError("no such engine", expected=", ".join(ENGINES), found=name, remedy="name one of them")
    found = import_module(f".{ENGINES[name]}", __package__).ENGINE
    assert isinstance(found, Engine)
    return found


def engines_named(names: Iterable[str]) -> dict[str, Engine]:
    """Several, in their order; "vllm,sglang" and "vllm sglang" count as two. Raises InputError as above."""
    apart = [name for words in names for name in words.replace(",", " ").split()]
    if not apart or len(set(apart)) < len(apart):
        raise InputError(
            "an engine is named twice" if apart else "no engine is named",
            expected=", ".join(ENGINES),
            found=", ".join(apart) or "nothing",
            remedy="name each once" if apart else "name one of them",
        )
    return {name: engine_named(name) for name in apart}
