"""llama.cpp without a drafter, from Python: what a model writes greedily, and how its tokenizer cuts text.

    llama_plain.py MODEL.gguf ASKED.json ANSWER.json

ASKED: `prompts` (ids), `new_tokens`, `texts`. ANSWER: `outputs` and `tokens`, ids for each.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import llama_cpp as engine

CONTEXT = 1024


def open_model(file: Path, **how: Any) -> engine.Llama:
    """With caches that round nothing, on one thread."""
    exact = {"type_k": engine.GGML_TYPE_F32, "type_v": engine.GGML_TYPE_F32, "n_threads": 1, "n_threads_batch": 1}
    return engine.Llama(str(file), n_ctx=CONTEXT, verbose=False, **exact, **how)


def answer(model: engine.Llama, prompt: list[int], new_tokens: int) -> list[int]:
    """The greedy answer, by the library's own loop; it drafts where the model was opened with a drafter."""
    model.reset()
    tokens: list[int] = []
    for token in model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
        tokens.append(int(token))
        if len(tokens) == new_tokens:
            break
    return tokens


def main(file: Path, asked: Path, out: Path) -> None:
    request, model = json.loads(asked.read_text()), open_model(file)
    outputs = [answer(model, prompt, request["new_tokens"]) for prompt in request["prompts"]]
    tokens = [model.tokenize(text.encode(), add_bos=False, special=True) for text in request["texts"]]
    out.write_text(json.dumps({"outputs": outputs, "tokens": tokens}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
