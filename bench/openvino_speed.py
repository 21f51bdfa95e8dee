"""Run by bench/graphs.py in the environment of OpenVINO GenAI: one JSON line of seconds, side by side."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
import torch
from optimum.exporters.openvino.convert import export_from_model, export_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


def main(place: Path) -> None:
    asked = json.loads((place / "asked.json").read_text())
    for name in ("target", "drafter"):
        model = AutoModelForCausalLM.from_pretrained(place / name, dtype=torch.float32).eval()
        export_from_model(model, place / f"{name}-openvino", task="text-generation-with-past", stateful=True)
        export_tokenizer(AutoTokenizer.from_pretrained(place / name), place / f"{name}-openvino")
    pipes = {"plain": openvino_genai.LLMPipeline(place / "target-openvino", "CPU", **EXACT)}
    for side, folder in {"full": "drafter-openvino", "trimmed": "trimmed"}.items():
        draft = openvino_genai.draft_model(place / folder, "CPU", **EXACT)
        pipes[side] = openvino_genai.LLMPipeline(place / "target-openvino", "CPU", draft_model=draft, **EXACT)
    seconds, accepted, same = {side: [] for side in pipes}, dict.fromkeys(pipes, 0), True
    for prompt in asked["prompts"]:
        said = []
        for side, pipe in pipes.items():
            config = openvino_genai.GenerationConfig(max_new_tokens=asked["tokens"], ignore_eos=True)
            if side != "plain":
                config.num_assistant_tokens = asked["length"]
            ids = openvino.Tensor(np.array([prompt], np.int64))
            start = time.perf_counter()
            done = pipe.generate(
                openvino_genai.TokenizedInputs(ids, openvino.Tensor(np.ones((1, len(prompt)), np.int64))), config
            )
            seconds[side].append(time.perf_counter() - start)
            said.append(list(done.tokens[0]))
            if side != "plain":
                accepted[side] += done.extended_perf_metrics.get_num_accepted_tokens()
        same &= all(answer == said[0] for answer in said)
    print(json.dumps({"seconds": seconds, "accepted": accepted, "same": same}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
