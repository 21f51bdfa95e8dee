"""The engines by name; each module is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from ..errors import InputError
from .engine import Engine

ENGINES = {"sglang": "sglang", "llama-cpp": "llama_cpp"}  # name -> module


def engine_named(name: str) -> Engine:
    """Raises InputError for a name that is not in `ENGINES`."""
    if name not in ENGINES:
        raise InputError("no such engine", expected=", ".join(ENGINES), found=name, remedy="name one of them")
    found = import_module(f".{ENGINES[name]}", __package__).ENGINE
    assert isinstance(found, Engine)
    return found
