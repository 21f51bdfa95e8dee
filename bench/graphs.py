"""OpenVINO GenAI and ONNX Runtime GenAI at 128,256 ids: no drafter, a full one, the same one trimmed and exported.

Physics: each drafted token reads the drafter's head, here 263 MB in float32 of 128,256 rows and 33 MB of 16,000, beside
16 MB of one layer; what the trim cannot save is the row of full width that the graph ends in (0.5 MB) and the engine
searches. The drafter is the target's first layer under the target's head, and the target's other layers are weak, so
that drafts survive; its kept ids hold all that the target emits here, since this is about time and not about coverage.
Sides take turns, prompt by prompt; medians over prompts, the first left out.

    VOCABTRIM_OPENVINO_PYTHON=... python bench/graphs.py openvino
    VOCABTRIM_ONNX_PYTHON=... python bench/graphs.py onnx-genai
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import vocabtrim as vt
from machine import certificate, floor_line
from tokenizer_of import write_tokenizer
from vocabtrim.checkpoint.costs import drafter_cost
from vocabtrim.exports.export import export
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

OUT = Path(__file__).resolve().parent / "out" / "graphs"
VOCAB, KEPT, LENGTH, WEAK = 128_256, 16_000, 4, 0.02
SHAPE = replace(TINY, hidden=512, intermediate=1536, layers=4, heads=8, kv_heads=4, head_dim=64, vocab=VOCAB)
SHAPE = replace(SHAPE, head_rows=VOCAB, dtype="float32", max_positions=1024)
PYTHONS = {"openvino": "VOCABTRIM_OPENVINO_PYTHON", "onnx-genai": "VOCABTRIM_ONNX_PYTHON"}
SCRIPTS = {"openvino": "openvino_speed.py", "onnx-genai": "onnx_speed.py"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=PYTHONS)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    prompts = [np.random.default_rng(seed).integers(3, VOCAB, 64).tolist() for seed in range(arguments.prompts + 1)]
    place = OUT / arguments.engine
    shutil.rmtree(place, ignore_errors=True)
    write_models(place, prompts, arguments.tokens)
    export(place / "cut", arguments.engine, out=place / "trimmed", target=place / "target")
    asked = {"prompts": prompts, "tokens": arguments.tokens, "length": LENGTH}
    (place / "asked.json").write_text(json.dumps(asked))
    python = os.environ[PYTHONS[arguments.engine]]
    command = [python, str(Path(__file__).with_name(SCRIPTS[arguments.engine])), str(place)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    report(arguments.engine, arguments.tokens, told | {"floors": floors(place, arguments.tokens, told)})
    shutil.rmtree(place)


def report(engine: str, tokens: int, told: dict[str, Any]) -> None:
    sides = ("plain", "full", "trimmed")
    rates = {side: statistics.median(tokens / seconds for seconds in told["seconds"][side][1:]) for side in sides}
    pairs = zip(told["seconds"]["full"][1:], told["seconds"]["trimmed"][1:], strict=True)
    gain = statistics.median(full / trimmed for full, trimmed in pairs)
    for side in sides:
        print(f"{side:8} {rates[side]:7.1f} tokens/s   accepted {told['accepted'].get(side, 0)}")
    print(f"trimmed over full: {gain:.2f} times; output as without a drafter: {told['same']}")
    result = {"bench": "graphs", "engine": engine, "tokens_per_second": rates, "trimmed_over_full": gain}
    print(json.dumps(result | told | certificate(0, ("torch", "transformers"))))


def floors(place: Path, tokens: int, told: dict[str, Any]) -> dict[str, Any]:
    """All answers of each side beside the least time for the weights of their target passes and draft steps."""
    found = {}
    for side, folder in {"plain": "drafter", "full": "drafter", "trimmed": "cut"}.items():
        cost = drafter_cost(place / folder, place / "target")
        rounds = tokens * len(told["seconds"][side]) - told["accepted"].get(side, 0)
        steps = 0 if side == "plain" else LENGTH * rounds
        size = rounds * cost.target_pass_bytes + steps * cost.draft_step_bytes(cost.full_head_rows)
        of = f"weights of {rounds} target passes and {steps} draft steps"
        line, found[side] = floor_line(side, size, sum(told["seconds"][side]), of)
        print(line)
    return found


def write_models(place: Path, prompts: list[list[int]], tokens: int) -> None:
    """A target, its first layer as drafter, and that cut to KEPT ids."""
    place.mkdir(parents=True)
    shapes.write_target(place / "random", SHAPE, seed=0)
    model: Any = AutoModelForCausalLM.from_pretrained(place / "random")
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.self_attn.o_proj.weight *= WEAK
            layer.mlp.down_proj.weight *= WEAK
    model.save_pretrained(place / "target")
    emitted = [token for prompt in prompts for token in greedy(model, prompt, tokens)]
    del model.model.layers[1:]
    model.config.num_hidden_layers = 1
    model.save_pretrained(place / "drafter")
    shutil.rmtree(place / "random")
    for name in ("target", "drafter"):
        write_tokenizer(place / name, VOCAB)
    others = np.setdiff1d(np.arange(VOCAB), [*emitted, 1, 2])
    spare = np.random.default_rng(0).choice(others, KEPT - len({*emitted, 1, 2}), replace=False)
    kept = KeptVocabulary(np.unique(np.concatenate([spare, emitted, [1, 2]])).astype(np.int64), VOCAB)
    vt.trim(place / "drafter", kept, target=place / "target", out=place / "cut")


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    how = {"attention_mask": torch.ones_like(ids), "eos_token_id": None, "pad_token_id": 0}
    found: list[int] = model.generate(ids, max_new_tokens=tokens, do_sample=False, **how)[0, len(prompt) :].tolist()
    return found


if __name__ == "__main__":
    main()
