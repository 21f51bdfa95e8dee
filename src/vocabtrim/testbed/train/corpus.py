"""All documents of the built-in models, in a fixed order, with their side of the split.

The recorded Llama outputs are not among them, nor is anything derived from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from . import from_prose, from_python, from_questions, from_tools
from .documents import Document, held_out

_REQUESTS = 12_000
_SEED = 0


def documents(data: Path) -> Iterator[tuple[Document, bool]]:
    """(document, whether it is held out). data: the folder of shared texts; GSM8K's test file is held out whole."""
    apis = from_tools.entries(data / "tools/public_apis.json")
    articles = [data / f"text/wikitext2_{part}.txt" for part in ("valid", "test")]
    training = chain(
        from_questions.math(data / "text/gsm8k_train.jsonl"),
        from_questions.code(data / "code/mbpp.jsonl"),
        from_tools.recorded(data / "tools/glaive_toolcall_en_demo.json"),
        from_tools.instructions(data / "tools/eval_real.json"),
        from_tools.instructions(data / "tools/eval_simulated.json"),
        from_tools.catalogue(apis),
        from_tools.requests(apis, _REQUESTS, _SEED),
        from_python.conversations(),
        from_python.source_texts(),
        from_prose.prose(articles, data / "text/c4_demo.jsonl"),
        from_prose.plays(data / "text/tinyshakespeare.txt"),
    )
    for document in training:
        yield document, held_out(document.key)
    for document in from_questions.math(data / "text/gsm8k_test.jsonl"):
        yield document, True


def tokenizer_texts(data: Path) -> Iterator[str]:
    """What the tokenizer is trained on: every training document once, so that most ids are for rarer text."""
    for document, out in documents(data):
        if not out and not (document.key.startswith("request") or document.category in ("reading", "continue")):
            yield "\n".join(text for _, text in document.turns)
