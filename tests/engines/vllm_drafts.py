"""Run by the python of an environment that holds vLLM: a greedy answer, and every draft that was proposed for it.

    vllm_drafts.py METHOD TARGET_FOLDER DRAFTER_FOLDER INPUT.safetensors OUTPUT.safetensors

METHOD: eagle or eagle3. INPUT: `prompt`. OUTPUT: `tokens` (emitted,) and `drafts` (proposals, 3), in order; `accepted`,
the engine's own counter.
"""

from __future__ import annotations

import os
import sys

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # so that the proposer can be watched
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch
from safetensors.torch import load_file, save_file
from vllm import LLM, SamplingParams
from vllm.v1.spec_decode.eagle import EagleProposer

LENGTH, NEW_TOKENS = 3, 40


def main(method: str, target: str, drafter: str, asked: str, answer: str) -> None:
    drafts: list[torch.Tensor] = []
    llm = LLM(
        model=target,
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=1,
        disable_log_stats=False,
        speculative_config={"method": method, "model": drafter, "num_speculative_tokens": LENGTH},
    )
    propose = EagleProposer.propose

    def watched(self: EagleProposer, *args: object, **how: object) -> torch.Tensor:
        proposed = propose(self, *args, **how)
        drafts.append(proposed.reshape(-1).clone())
        return proposed

    EagleProposer.propose = watched
    params = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
    prompt = {"prompt_token_ids": load_file(asked)["prompt"].tolist()}
    done = llm.generate([prompt], params, use_tqdm=False)[0].outputs[0]
    counted = {metric.name: metric for metric in llm.get_metrics()}
    accepted = counted["vllm:spec_decode_num_accepted_tokens"].value
    emitted = {"tokens": torch.tensor(list(done.token_ids)), "accepted": torch.tensor(accepted)}
    save_file(emitted | {"drafts": torch.stack(drafts)}, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
