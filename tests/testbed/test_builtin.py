"""What `demo` runs on is whole: a target that generates, drafters that belong to it, a tokenizer that loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from vocabtrim.errors import InputError
from vocabtrim.testbed import builtin
from vocabtrim.testbed.builtin import BUILTIN


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builtin.write_builtin(tmp_path_factory.mktemp("builtin") / "demo")


def test_holds_a_target_every_kind_of_drafter_and_text(folder: Path) -> None:
    folders = {"target", "independent", "eagle", "eagle3", "medusa", "mtp"}
    assert {path.name for path in folder.iterdir()} == folders | {"text.txt", "chat.jsonl"}
    for name in folders:
        assert (folder / name / "config.json").exists()
    size = sum(path.stat().st_size for path in folder.rglob("*.*"))
    assert size < 110e6


@pytest.mark.parametrize("name", ["target", "independent", "mtp"])
def test_whole_models_generate(folder: Path, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / name)
    model = AutoModelForCausalLM.from_pretrained(folder / name)
    prompt = tokenizer("def main", return_tensors="pt").input_ids
    assert model.generate(prompt, max_new_tokens=4, min_new_tokens=4).shape == (1, prompt.shape[1] + 4)


def test_drafters_copy_what_they_share_with_the_target(folder: Path) -> None:
    target = load_file(folder / "target" / "model.safetensors")
    eagle = load_file(folder / "eagle" / "model.safetensors")
    mtp = load_file(folder / "mtp" / "model.safetensors")
    assert torch.equal(eagle["embed_tokens.weight"], target["model.embed_tokens.weight"])
    assert torch.equal(mtp["model.layers.2.shared_head.head.weight"], target["lm_head.weight"])
    assert not torch.equal(target["lm_head.weight"], target["model.embed_tokens.weight"])


def test_eagle3_scores_the_lowest_ids_and_the_stops(folder: Path) -> None:
    tensors = load_file(folder / "eagle3" / "model.safetensors")
    ids = (tensors["d2t"] + torch.arange(8192)).tolist()
    assert ids[:8190] == list(range(8190)) and set(ids[8190:]) == set(BUILTIN.eos)


def test_tokenizer_is_the_shape_and_loses_nothing() -> None:
    tokenizer = AutoTokenizer.from_pretrained(builtin.TOKENIZER)
    assert len(tokenizer) == BUILTIN.vocab < BUILTIN.head_rows
    ends = ["<|im_end|>", "<|endoftext|>"]
    assert tuple(tokenizer.convert_tokens_to_ids(ends)) == BUILTIN.eos and tokenizer.eos_token == ends[0]
    for text in [*builtin.topics().values(), "naïve ☃ 日本語\r\n\t  1234567 \x00 <|not special|>"]:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_chat_template_wraps_each_turn() -> None:
    tokenizer = AutoTokenizer.from_pretrained(builtin.TOKENIZER)
    turns = [{"role": "user", "content": "if?"}, {"role": "assistant", "content": "else."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert text == "<|im_start|>user\nif?<|im_end|>\n<|im_start|>assistant\nelse.<|im_end|>\n"
    asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(asked) and asked.endswith("<|im_start|>assistant\n")


def test_corpus_is_prose_and_a_few_hundred_chats(folder: Path) -> None:
    text = (folder / "text.txt").read_text(encoding="utf-8")
    assert len(text) > 250_000 and "\n\nIt selects exactly one of the suites by evaluating the expressions" in text
    records = [json.loads(line)["messages"] for line in (folder / "chat.jsonl").read_text("utf-8").splitlines()]
    assert len(records) == 400
    assert all([turn["role"] for turn in record] == ["user", "assistant"] for record in records)
    assert all(record[1]["content"] in text for record in records)


def test_says_so_where_python_carries_no_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(InputError, match="no language reference"):
        builtin.write_builtin(tmp_path / "demo")
    assert not list(tmp_path.iterdir())
