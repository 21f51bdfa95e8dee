"""Run by the python of an environment that holds OpenVINO GenAI: greedy answers with and without a drafter.

    openvino_answers.py TARGET_FOLDER DRAFTER QUESTIONS.json ANSWERS.json

TARGET_FOLDER: as transformers loads it; it is converted beside ANSWERS. DRAFTER: our export. QUESTIONS: `prompts`,
lists of ids, `new_tokens`, `draft_length`, and `probe`, ids. ANSWERS: `plain` and `drafted`, lists of ids; of the
engine's own metrics `accepted` and, prompt by prompt, target `passes`; and for independent drafters what the graph
computes behind the probe: `logits`, and how many ids it says are `kept`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
import torch
from optimum.exporters.openvino.convert import export_from_model, export_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


def main(target: Path, drafter: Path, questions: Path, answers: Path) -> None:
    asked = json.loads(questions.read_text())
    converted = answers.with_name("target-openvino")
    if not converted.exists():
        convert(target, converted)
    plain, *_ = answered(openvino_genai.LLMPipeline(converted, "CPU", **EXACT), asked, None)
    draft = openvino_genai.draft_model(drafter, "CPU", **EXACT)
    pipe = openvino_genai.LLMPipeline(converted, "CPU", draft_model=draft, **EXACT)
    drafted, accepted, passes = answered(pipe, asked, asked["draft_length"])
    told = {"plain": plain, "drafted": drafted, "accepted": accepted, "passes": passes}
    answers.write_text(json.dumps(told | probed(drafter, asked["probe"])))


def convert(folder: Path, out: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    export_from_model(model, out, task="text-generation-with-past", stateful=True)
    export_tokenizer(AutoTokenizer.from_pretrained(folder), out, task="text-generation-with-past")


def answered(
    pipe: openvino_genai.LLMPipeline, asked: dict, draft_length: int | None
) -> tuple[list[list[int]], int, list[int]]:
    answers, accepted, passes = [], 0, []
    for prompt in asked["prompts"]:
        config = openvino_genai.GenerationConfig(max_new_tokens=asked["new_tokens"], ignore_eos=True)
        if draft_length is not None:
            config.num_assistant_tokens = draft_length
        ids = openvino.Tensor(np.array([prompt], np.int64))
        mask = openvino.Tensor(np.ones((1, len(prompt)), np.int64))
        done = pipe.generate(openvino_genai.TokenizedInputs(ids, mask), config)
        answers.append(list(done.tokens[0]))
        if draft_length is not None:
            metrics = done.extended_perf_metrics
            accepted += metrics.get_num_accepted_tokens()
            passes.append(len(metrics.main_model_metrics.raw_metrics.m_durations))
    return answers, accepted, passes


def probed(drafter: Path, ids: list[int]) -> dict:
    """The graph alone, run by OpenVINO itself."""
    graph = openvino.Core().read_model(drafter / "openvino_model.xml")
    names = [name for output in graph.outputs for name in output.get_names()]
    if "kept_logits" not in names:
        return {"first_output": names[0]}
    request = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    places = np.arange(len(ids))[None]
    request.infer(
        {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "position_ids": places.astype(np.int64),
            "beam_idx": np.zeros(1, np.int32),
        }
    )
    kept = request.get_tensor("kept_logits").shape[-1]
    return {"first_output": names[0], "kept": kept, "logits": request.get_tensor("logits").data[0, -1].tolist()}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
