"""Run by bench/graphs.py in the environment of ONNX Runtime GenAI: one JSON line of seconds, side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime_genai as og


def main(place: Path) -> None:
    asked = json.loads((place / "asked.json").read_text())
    target = place / "target-onnx"
    build(place / "target", target)
    build(place / "drafter", place / "drafter-onnx", "--extra_options", "prune_lm_head=true")
    decoder = json.loads((place / "drafter-onnx" / "genai_config.json").read_text())["model"]["decoder"]
    (place / "drafter-onnx" / "draft.json").write_text(json.dumps({"model": {"draft": decoder}}))
    models = {"plain": og.Model(str(target))}
    models |= {side: drafting(target, place / folder, asked["length"]) for side, folder in SIDES.items()}
    seconds, accepted, same = {side: [] for side in models}, dict.fromkeys(models, 0), True
    for prompt in asked["prompts"]:
        said = []
        for side, model in models.items():
            params = og.GeneratorParams(model)
            length = len(prompt) + asked["tokens"]
            params.set_search_options(max_length=length, min_length=length, do_sample=False)
            start = time.perf_counter()
            generator = og.Generator(model, params)
            generator.append_tokens(prompt)
            while not generator.is_done():
                generator.generate_next_token()
            seconds[side].append(time.perf_counter() - start)
            said.append([int(token) for token in generator.get_sequence(0)])
            accepted[side] += int(generator.get_speculative_stats().get("draft_tokens_accepted", 0))
        same &= all(answer == said[0] for answer in said)
    print(json.dumps({"seconds": seconds, "accepted": accepted, "same": same}))


SIDES = {"full": "drafter-onnx", "trimmed": "trimmed"}


def build(folder: Path, out: Path, *options: str) -> None:
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu", "-i", str(folder)]
    subprocess.run([*builder, "-o", str(out), "-c", str(out), *options], check=True, capture_output=True)


def drafting(target: Path, drafter: Path, length: int) -> og.Model:
    told = json.loads((drafter / "draft.json").read_text())
    told["model"]["draft"]["filename"] = os.path.relpath(drafter / "model.onnx", target)
    told["speculative"] = {"max_draft_tokens": length}
    config = og.Config(str(target))
    config.overlay(json.dumps(told))
    return og.Model(config)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
