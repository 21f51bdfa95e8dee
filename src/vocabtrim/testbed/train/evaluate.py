"""How well the target writes: completions of held-out prompts, and numbers about them.

    python -m vocabtrim.testbed.train.evaluate RUN [PROMPTS PER CATEGORY]

Reads RUN/target-exported and RUN/heldout_prompts.jsonl; writes RUN/heldout_completions.jsonl with every answer beside
its reference. Prints, per category: how many answers end by themselves, tokens, distinct tokens, answers that equal
the reference, for math the right results, for functions the answers that are JSON with the reference's function name.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch

from .completions import generate
from .documents import Document
from .shards import Encoder
from .sizes import END, END_OF_TEXT

_BATCH = 64
_ROOM = 384  # tokens of a prompt at most


def chosen(file: Path, each: int) -> dict[str, list[Document]]:
    """The first `each` held-out conversations of every category; of math those of GSM8K's test set, which come last."""
    found: dict[str, list[Document]] = defaultdict(list)
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        turns = tuple((role, text) for role, text in record["turns"])
        found[record["category"]].append(Document(record["category"], "", turns))
    return {name: documents[-each:] if name == "math" else documents[:each] for name, documents in found.items()}


def answers(run: Path, each: int) -> list[dict[str, Any]]:
    """One record per prompt: category, prompt and answer as ids and as text, reference."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(run / "target-exported", dtype=torch.bfloat16)
    encoder = Encoder(run / "tokenizer")
    records = []
    for category, documents in chosen(run / "heldout_prompts.jsonl", each).items():
        encoded = ((document, encoder.prompt(document)) for document in documents)
        fitting = [(document, prompt) for document, prompt in encoded if len(prompt) <= _ROOM]
        for start in range(0, len(fitting), _BATCH):
            batch = fitting[start : start + _BATCH]
            written = generate(model, [prompt for _, prompt in batch])
            for (document, prompt), ids in zip(batch, written, strict=True):
                records.append(
                    {
                        "category": category,
                        "prompt": prompt,
                        "answer": ids,
                        "question": document.turns[-2][1],
                        "text": encoder.tokenizer.decode(ids, skip_special_tokens=True),
                        "reference": document.turns[-1][1],
                    }
                )
    return records


def figures(records: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per category, see the module."""
    parts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        parts[record["category"]].append(record)
    return {category: _figures(category, part) for category, part in parts.items()}


def _figures(category: str, part: list[dict[str, Any]]) -> dict[str, float]:
    used = Counter(token for record in part for token in record["answer"])
    right = {"math": _same_result, "functions": _same_function}.get(category, _same)
    return {
        "prompts": len(part),
        "ended": sum(record["answer"][-1] in (END, END_OF_TEXT) for record in part) / len(part),
        "tokens": used.total(),
        "distinct": len(used),
        "right": sum(right(record["text"], record["reference"]) for record in part) / len(part),
    }


def _same(text: str, reference: str) -> bool:
    return text.strip() == reference.strip()


def _same_result(text: str, reference: str) -> bool:
    pattern = r"The answer is (\S+)\."
    found, wanted = re.findall(pattern, text), re.findall(pattern, reference)
    return bool(found) and found[-1] == wanted[-1]


def _same_function(text: str, reference: str) -> bool:
    try:
        return bool(json.loads(text)["name"] == json.loads(reference)["name"])
    except (ValueError, KeyError, TypeError):  # an answer in words
        return _same(text, reference)


def main(run: Path, each: int) -> None:
    """Generate, write, print."""
    torch.set_num_threads(2)
    records = answers(run, each)
    (run / "heldout_completions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for category, values in figures(records).items():
        print(category, json.dumps({name: round(value, 3) for name, value in values.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 64)
