"""Run by the python of an environment that holds vLLM: one drafter, opened once, asked prompt after prompt.

    vllm_turns.py JOB.json

JOB: as vllm_answers.py's, without `prompts`, with `run` instead of `runs`, and `how`: arguments of LLM. Each line of
the input is a prompt, a JSON list of ids; each line of the output what became of it: `tokens`, `drafts`, `accepted`,
and `seconds` from the first token to the last by the engine's own clock. The first line is vLLM's version, when it
is ready.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import vllm_answers


def main(job: dict[str, Any]) -> None:
    from vllm import __version__

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engine prints is no answer
    llm, params = vllm_answers.opened(job, job["run"], **job["how"]), vllm_answers.greedy(job["new_tokens"])
    print(json.dumps(__version__), file=answers, flush=True)
    for line in sys.stdin:
        before = vllm_answers.counters(llm)
        [done] = llm.generate([{"prompt_token_ids": json.loads(line)}], params, use_tqdm=False)
        counted = {name: value - before.get(name, 0) for name, value in vllm_answers.counters(llm).items()}
        told = {
            "tokens": list(done.outputs[0].token_ids),
            "drafts": counted.get("vllm:spec_decode_num_drafts", 0),
            "accepted": counted.get("vllm:spec_decode_num_accepted_tokens", 0),
            "seconds": done.metrics.last_token_ts - done.metrics.first_token_ts,
        }
        print(json.dumps(told), file=answers, flush=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
