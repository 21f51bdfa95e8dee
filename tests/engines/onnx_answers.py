"""Run by the python of an environment that holds ONNX Runtime GenAI: greedy answers with and without a drafter.

    onnx_answers.py TARGET_FOLDER DRAFTER QUESTIONS.json ANSWERS.json

As openvino_answers.py; instead of `accepted` all of the engine's statistics, summed over the prompts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxruntime_genai as og
from onnx import numpy_helper

COUNTED = ("rounds", "draft_tokens_proposed", "draft_tokens_accepted", "target_forward_passes", "draft_forward_passes")


def main(target: Path, drafter: Path, questions: Path, answers: Path) -> None:
    asked = json.loads(questions.read_text())
    converted = answers.with_name("target-onnx")
    if not converted.exists():
        convert(target, converted)
    plain, _ = answered(og.Model(str(converted)), asked)
    drafted, counted = answered(with_drafter(converted, drafter, asked["draft_length"]), asked)
    answers.write_text(json.dumps({"plain": plain, "drafted": drafted, "stats": counted} | probed(drafter, asked)))


def convert(folder: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory() as cache:
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
        subprocess.run([*builder, "-i", str(folder), "-o", str(out), "-c", cache], check=True, capture_output=True)


def with_drafter(target: Path, drafter: Path, draft_length: int) -> og.Model:
    """As the export's own command says."""
    told = json.loads((drafter / "draft.json").read_text())
    told["model"]["draft"]["filename"] = os.path.relpath(drafter / "model.onnx", target)
    told["speculative"]["max_draft_tokens"] = draft_length
    config = og.Config(str(target))
    config.overlay(json.dumps(told))
    return og.Model(config)


def answered(model: og.Model, asked: dict) -> tuple[list[list[int]], dict[str, int]]:
    answers, counted = [], Counter()
    for prompt in asked["prompts"]:
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(prompt) + asked["new_tokens"], do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        answers.append([int(token) for token in generator.get_sequence(0)[len(prompt) :]])
        stats = generator.get_speculative_stats()
        counted.update({name: int(stats.get(name, 0)) for name in COUNTED})
    return answers, dict(counted)


def probed(drafter: Path, asked: dict) -> dict:
    """The graph alone: its head as the onnx library reads it, and what ONNX Runtime computes behind the probe."""
    graph = onnx.load(drafter / "model.onnx").graph
    heads = [tensor for tensor in graph.initializer if tensor.name.startswith("lm_head")]
    [places] = [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == "vocabtrim.places"]
    session = onnxruntime.InferenceSession(drafter / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.array([asked["probe"]], np.int64)
    width = json.loads((drafter / "genai_config.json").read_text())["model"]["decoder"]["head_size"]
    feeds: dict[str, np.ndarray] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for wanted in session.get_inputs():
        if wanted.name == "position_ids":
            feeds[wanted.name] = np.arange(ids.shape[1])[None]
        elif wanted.name not in feeds:  # keys and values of no token yet
            feeds[wanted.name] = np.zeros([1, wanted.shape[1], 0, width], np.float32)
    [logits] = session.run(["logits"], feeds)
    return {
        "head": [list(tensor.dims) for tensor in heads],
        "ids": np.flatnonzero(places < places.max()).tolist(),
        "logits": logits[0, -1].tolist(),
    }


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
