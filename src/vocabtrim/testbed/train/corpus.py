"""All documents of the built-in models, in a fixed order, with their side of the split.

The recorded Llama outputs are not among them, nor is anything derived from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from . import from_prose, from_python, from_questions, from_tools
from .documents import Document, held_out

GSM8K, MBPP, GLAIVE, TOOL_ALPACA = "GSM8K", "MBPP", "Glaive function calling", "ToolAlpaca"
PYTHON, WIKITEXT, C4, SHAKESPEARE = "Python", "WikiText-2", "C4", "Shakespeare"
UNCARRIED = (C4,)  # learned from; who may pass on web pages is not clear

_REQUESTS = 12_000
_SEED = 0


def documents(data: Path) -> Iterator[tuple[Document, bool]]:
    """(document, whether it is held out). data: the folder of shared texts; GSM8K's test file is held out whole."""
    apis = from_tools.entries(data / "tools/public_apis.json")
    training = (
        (GSM8K, from_questions.math(data / "text/gsm8k_train.jsonl")),
        (MBPP, from_questions.code(data / "code/mbpp.jsonl")),
        (GLAIVE, from_tools.recorded(data / "tools/glaive_toolcall_en_demo.json")),
        (TOOL_ALPACA, from_tools.instructions(data / "tools/eval_real.json")),
        (TOOL_ALPACA, from_tools.instructions(data / "tools/eval_simulated.json")),
        (TOOL_ALPACA, from_tools.catalogue(apis)),
        (TOOL_ALPACA, from_tools.requests(apis, _REQUESTS, _SEED)),
        (PYTHON, from_python.conversations()),
        (PYTHON, from_python.source_texts()),
        (WIKITEXT, from_prose.articles(data / "text/wikitext2_valid.txt")),
        (WIKITEXT, from_prose.articles(data / "text/wikitext2_test.txt")),
        (C4, from_prose.web(data / "text/c4_demo.jsonl")),
        (SHAKESPEARE, from_prose.plays(data / "text/tinyshakespeare.txt")),
    )
    for source, part in training:
        for document in part:
            yield replace(document, source=source), held_out(document.key)
    for document in from_questions.math(data / "text/gsm8k_test.jsonl"):
        yield replace(document, source=GSM8K), True


def tokenizer_texts(data: Path) -> Iterator[str]:
    """What the tokenizer is trained on: every training document once, so that most ids are for rarer text."""
    for document, out in documents(data):
        if not out and not (document.key.startswith("request") or document.category in ("reading", "continue")):
            yield "\n".join(text for _, text in document.turns)
