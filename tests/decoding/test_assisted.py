"""A check from outside: the trimmed independent drafter inside transformers' own assisted generation.

There the assistant must have the target's vocabulary, so a small module writes its kept logits into a full row of -inf.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

import small_models
import vocabtrim as vt
from generation import decoded, emitted, generated, noisy_copy
from vocabtrim.decoding.head import Head
from vocabtrim.decoding.target import Target
from vocabtrim.testbed import stories260k

VOCAB, LENGTH = 512, 24


class WideHead(nn.Module):
    """A trimmed head whose row is as wide as the target's: -inf for every id that it does not have."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head, self.calls = head, 0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        kept = self.head(hidden)
        return kept.new_full((*kept.shape[:-1], VOCAB), -torch.inf).index_copy_(-1, self.head.kept_ids, kept)


@pytest.fixture(scope="module")
def target(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Target:
    folder = stories260k.convert(data / "models" / "stories260K", tmp_path_factory.mktemp("stories") / "stories260K")
    return vt.load_target(folder, dtype="float32")


@pytest.fixture(scope="module")
def copy(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noisy_copy(target.folder, tmp_path_factory.mktemp("copy") / "copy", scale=0.05)


@pytest.fixture(scope="module")
def prompts(target: Target, data: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(target.folder)
    story = "Once upon a time, there was a big dog who liked to run in the park with a girl named"
    pages = [json.loads(line)["text"] for line in (data / "text" / "c4_demo.jsonl").read_text().splitlines()[:6]]
    return [
        tokenizer(text).input_ids for text in [story, story[:16], story[:40], "Tom", *(page[:60] for page in pages)]
    ]


@pytest.fixture(scope="module")
def expected(target: Target, prompts: list[list[int]]) -> list[list[int]]:
    return generated(target, prompts, LENGTH)


@pytest.mark.parametrize("kept", [500, 300, 40, 1])
def test_assisted_generation_says_the_same(
    target: Target, copy: Path, prompts: list[list[int]], expected: list[list[int]], kept: int, tmp_path: Path
) -> None:
    """Ours, theirs with our trimmed drafter, and theirs without: the same ids; theirs accepts drafts too."""
    folder = small_models.trim(copy, target.folder, most_said(expected, kept), VOCAB, tmp_path / "cut")
    ours: Any = vt.load_drafter(folder, target, plan=vt.Chain(4))
    theirs: Any = vt.load_drafter(folder, target)
    assistant = theirs.body.lm.model
    wide = WideHead(theirs.body.head)
    assistant.set_output_embeddings(wide)
    assistant.generation_config.num_assistant_tokens = 4
    assistant.generation_config.assistant_confidence_threshold = 0.0
    passes = Passes(target)
    for prompt, without in zip(prompts, expected, strict=True):
        with passes:
            [with_drafter] = generated(target, [prompt], LENGTH, assistant_model=assistant)
        assert emitted(decoded(target, ours, prompt, LENGTH)) == with_drafter == without
    assert wide.calls >= len(prompts)
    if kept >= 300:
        assert passes.count < 0.8 * len(prompts) * LENGTH, "hardly a draft was accepted"


def most_said(outputs: Sequence[Sequence[int]], kept: int) -> list[int]:
    said = torch.bincount(torch.tensor(outputs).flatten(), minlength=VOCAB)
    return [int(token) for token in said.argsort(descending=True, stable=True)[:kept]]


class Passes:
    """Counts a target's passes while it is entered."""

    def __init__(self, target: Target) -> None:
        self.model, self.count = target.lm.model, 0

    def __enter__(self) -> None:
        self.hook = self.model.register_forward_hook(self._one)

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def _one(self, *_: Any) -> None:
        self.count += 1
