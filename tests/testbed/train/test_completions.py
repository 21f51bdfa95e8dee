"""The target's answers end at their stop token, batches of unlike prompts answer as each alone, a torn file goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vocabtrim.testbed.train import llama
from vocabtrim.testbed.train.completions import generate, records
from vocabtrim.testbed.train.sizes import END, Size


@pytest.fixture(scope="module")
def model() -> object:
    return llama.build(llama.config(Size(32, 48, 2, 4, 2, 8)), seed=1).eval()


def test_prompts_of_unlike_length_are_answered_as_alone(model: object) -> None:
    prompts = [[5, 6, 7], [8] * 9, [1, 2]]
    together = generate(model, prompts, longest=12)
    assert together == [generate(model, [prompt], longest=12)[0] for prompt in prompts]


def test_an_answer_ends_with_its_stop_token(model: object, monkeypatch: pytest.MonkeyPatch) -> None:
    width = 2

    def made(ids: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.cat([ids, torch.tensor([[3, END, 4], [5, 6, 7]])], 1)

    monkeypatch.setattr(model, "generate", made)
    assert generate(model, [[1] * width, [1]], longest=3) == [[3, END], [5, 6, 7]]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "completions.jsonl"
    assert list(records(file)) == []
    lines = [json.dumps({"number": number}) for number in range(3)]
    file.write_text(lines[0] + "\n" + lines[1][:5] + lines[2] + "\n" + lines[2] + "\n")
    assert [record["number"] for record in records(file)] == [0, 2]
