"""What tests of decoding share: prompts, our output and that of transformers, noisy copies of a model.

A model made by `lively` says many different things; plain random weights fall into repeating one id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

import vocabtrim as vt
from small_models import noisy
from vocabtrim.decoding.drafters.protocol import Drafter
from vocabtrim.decoding.rounds import Round
from vocabtrim.decoding.target import Target


def random_prompts(count: int, vocab: int, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random ids, the lengths taken in turn."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(vocab, (lengths[number % len(lengths)],), generator=generator).tolist() for number in range(count)
    ]


def decoded(target: Target, drafter: Drafter | None, prompt: Sequence[int], length: int, **how: Any) -> list[Round]:
    """Our rounds; no stop ids where none are passed."""
    return list(vt.decode(target, drafter, prompt, max_new_tokens=length, **({"stop_ids": ()} | how)))


def emitted(rounds: Iterable[Round]) -> list[int]:
    return [token for one in rounds for token in one.tokens]


def generated(target: Target, prompts: Sequence[Sequence[int]], length: int, **how: Any) -> list[list[int]]:
    """Greedy output of transformers' own `generate`, of just `length` tokens; prompts of one length go together.

    An id beyond the vocabulary as stop id: where none is given, it takes the model's own.
    """
    config = GenerationConfig(max_new_tokens=length, do_sample=False, eos_token_id=target.lm.vocab, pad_token_id=0)
    alike: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        alike[len(prompt)].append(number)
    outputs: list[list[int]] = [[] for _ in prompts]
    for size, numbers in alike.items():
        ids = torch.tensor([prompts[number] for number in numbers])
        rows = target.lm.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, **how)
        assert rows.shape == (len(numbers), size + length)
        for number, row in zip(numbers, rows[:, size:].tolist(), strict=True):
            outputs[number] = row
    return outputs


def noisy_copy(folder: Path, out: Path, scale: float, seed: int = 0) -> Path:
    """The model of a folder with noise on its weights, as a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    noisy(model, scale, seed)
    model.save_pretrained(out)
    return out


def lively(folder: Path, out: Path) -> Path:
    """The same model with far larger weights, so that what it says depends on everything before."""
    return noisy_copy(folder, out, scale=4.0, seed=7)
