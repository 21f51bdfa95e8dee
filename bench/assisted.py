"""Our loop against transformers' `generate(assistant_model=...)`: same target, same independent drafter, same tokens.

Physics: both read the drafter four times and the target once for each round, so with the same drafts accepted they
differ only in what stands around the forward passes. The drafter is the target's first layer under the target's head,
and the target's other layers are weak, so that drafts survive about as often as trained ones do. Draft length 4,
constant, no early stop by confidence on either side. The trimmed drafter, which transformers cannot take as it is, is
shown beside; its eighth of the ids holds all that the target emits here, since this is about time and not about
coverage. Sides take turns prompt by prompt; medians over prompts.

    python bench/assisted.py [--dtype float32] [--prompts 6] [--tokens 96]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import vocabtrim as vt
from decode import TARGET, VOCAB
from machine import certificate
from vocabtrim.testbed import shapes
from vocabtrim.vocabulary.kept import KeptVocabulary

OUT = Path(__file__).resolve().parent / "out" / "assisted"
DRAFT_LENGTH = 4
WEAK = 0.02  # what the weights of the target's upper layers are multiplied with, where they write to the residual
THEIRS, OURS = "transformers, assisted", "ours, full head"

Side = Callable[[list[int]], tuple[list[int], list[vt.Round]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=96)
    arguments = parser.parse_args()
    write_models()
    prompts = [np.random.default_rng(seed).integers(3, VOCAB, 64).tolist() for seed in range(arguments.prompts + 1)]
    sides = open_sides(arguments.dtype, prompts, arguments.tokens)
    shutil.rmtree(OUT)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    rounds: dict[str, list[vt.Round]] = {side: [] for side in sides}
    same = dict.fromkeys(sides, 0)
    for number, prompt in enumerate(prompts):
        expected: list[int] = []
        for side, run in sides.items():
            start = time.perf_counter()
            tokens, done = run(prompt)
            spent = time.perf_counter() - start
            expected = expected or tokens
            if number > 0:  # the first prompt warms up
                seconds[side].append(spent)
                rounds[side] += done
                same[side] += tokens == expected
    result = report(arguments.tokens, seconds, rounds, same)
    print(
        json.dumps({"bench": "assisted", "dtype": arguments.dtype} | result | certificate(0, ("torch", "transformers")))
    )


def open_sides(dtype: str, prompts: list[list[int]], tokens: int) -> dict[str, Side]:
    """name -> what decodes a prompt's ids. The drafter is cut to what the target says to these prompts, and more."""
    target, plan = vt.load_target(OUT / "target", dtype=dtype), vt.Chain(DRAFT_LENGTH)
    cut_drafter([token for prompt in prompts for token in ours(target, None, prompt, tokens)[0]])
    full, cut = (vt.load_drafter(OUT / name, target, plan=plan) for name in ("drafter", "cut"))
    assistant = AutoModelForCausalLM.from_pretrained(OUT / "drafter", dtype=target.lm.dtype)
    assistant.generation_config.update(
        num_assistant_tokens=DRAFT_LENGTH, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
    )
    return {
        "transformers, plain": lambda prompt: theirs(target.lm.model, None, prompt, tokens),
        "ours, plain": lambda prompt: ours(target, None, prompt, tokens),
        THEIRS: lambda prompt: theirs(target.lm.model, assistant, prompt, tokens),
        OURS: lambda prompt: ours(target, full, prompt, tokens),
        "ours, trimmed head": lambda prompt: ours(target, cut, prompt, tokens),
    }


def report(
    tokens: int, seconds: dict[str, list[float]], rounds: dict[str, list[vt.Round]], same: dict[str, int]
) -> dict[str, Any]:
    """Print the table; what of it goes into the JSON line."""
    prompts = len(seconds[OURS])
    rates = {side: tokens / statistics.median(times) for side, times in seconds.items()}
    efficiencies = {side: vt.summarise(done).block_efficiency for side, done in rounds.items() if done}
    ratio = statistics.median(other / own for other, own in zip(seconds[THEIRS], seconds[OURS], strict=True))
    for side, rate in rates.items():
        known = f"block efficiency {efficiencies[side]:.2f}" if side in efficiencies else ""
        print(f"{side:24} {rate:7.1f} tokens/s   same tokens {same[side]}/{prompts}   {known}")
    print(f"ours against transformers' assisted generation, full head: {ratio:.2f} times as fast (to be above 1)")
    return {
        "tokens_per_second": rates,
        "block_efficiency": efficiencies,
        "same_tokens": same,
        "prompts": prompts,
        "ratio_median": ratio,
    }


def write_models() -> None:
    """A target, and its first layer as drafter."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    shapes.write_target(OUT / "random", replace(TARGET, tie=False, dtype="float32"), seed=0)
    model: Any = AutoModelForCausalLM.from_pretrained(OUT / "random")
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.self_attn.o_proj.weight *= WEAK
            layer.mlp.down_proj.weight *= WEAK
    model.save_pretrained(OUT / "target")
    del model.model.layers[1:]
    model.config.num_hidden_layers = 1
    model.save_pretrained(OUT / "drafter")


def cut_drafter(emitted: list[int]) -> None:
    """The drafter cut to an eighth of the ids, all of `emitted` among them."""
    others = np.setdiff1d(np.arange(3, VOCAB), emitted)
    spare = np.random.default_rng(0).choice(others, VOCAB // 8 - len(set(emitted)), replace=False)
    kept = KeptVocabulary(np.unique(np.concatenate([spare, emitted])).astype(np.int64), VOCAB)
    vt.trim(OUT / "drafter", kept, target=OUT / "target", out=OUT / "cut")


def ours(target: Any, drafter: Any, prompt: list[int], tokens: int) -> tuple[list[int], list[vt.Round]]:
    rounds = list(vt.decode(target, drafter, prompt, max_new_tokens=tokens, stop_ids=()))
    return [token for done in rounds for token in done.tokens], rounds


def theirs(model: Any, assistant: Any, prompt: list[int], tokens: int) -> tuple[list[int], list[vt.Round]]:
    ids = torch.tensor([prompt])
    options = {} if assistant is None else {"assistant_model": assistant}
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        **options,
    )
    return out[0, len(prompt) :].tolist(), []  # it does not tell its rounds


if __name__ == "__main__":
    main()
