"""The converted stories260K is the model its author trained: it tells its stories, and its tokenizer is his."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from vocabtrim.errors import CheckpointError
from vocabtrim.testbed import stories260k

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her friends. "
    'One day, she saw a big red ball. She wanted to play with it, but it was too high. Her mom said, "Let\'s go home."'
)


@pytest.fixture(scope="module")
def source(data: Path) -> Path:
    return data / "models" / "stories260K"


@pytest.fixture(scope="module")
def stories(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stories260k.convert(source, tmp_path_factory.mktemp("stories") / "stories260K")


@pytest.fixture(scope="module")
def tokenizer(stories: Path) -> Any:
    return AutoTokenizer.from_pretrained(stories)


def log_likelihood(folder: Path, ids: Any) -> float:
    """Mean natural log-likelihood per token."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return -float(model(ids, labels=ids).loss.detach())


def test_tells_a_coherent_story(stories: Path, tokenizer: Any) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(stories, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    prompt = tokenizer("Once upon a time", return_tensors="pt").input_ids
    text = tokenizer.decode(model.generate(prompt, max_new_tokens=80, do_sample=False)[0], skip_special_tokens=True)
    assert text.startswith("Once upon a time, there was a little girl named Lily. She loved to play outside in the")


def test_rotates_as_it_was_trained(stories: Path, source: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Queries and keys left in llama2.c's row order load without a word. The likelihood of a plain story tells: -0.53
    nats per token as trained, -3.65 with neighbours rotated as halves."""
    ids = tokenizer(STORY, return_tensors="pt").input_ids
    weights = load_file(stories / "model.safetensors")
    shape, _ = stories260k.read_checkpoint(source / "checkpoint_legacy.bin")
    for name, rows in weights.items():
        if "q_proj" in name or "k_proj" in name:
            halves = rows.reshape(-1, 2, shape.head_dim // 2, shape.hidden)
            weights[name] = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((stories / "config.json").read_text())
    right, wrong = log_likelihood(stories, ids), log_likelihood(tmp_path, ids)
    assert right > -0.7
    assert wrong < right - 2


def merge_by_score(text: str, pieces: list[tuple[float, bytes]]) -> list[int]:
    """What llama2.c's own reader does: characters, else bytes; then the best-scored pair again and again."""
    ids = {piece: token for token, (_, piece) in enumerate(pieces)}
    tokens = []
    for character in " " + text:
        piece = character.encode()
        tokens += [ids[piece]] if piece in ids else [byte + 3 for byte in piece]
    while True:
        pairs = [pieces[left][1] + pieces[right][1] for left, right in pairwise(tokens)]
        scores = [pieces[ids[pair]][0] if pair in ids else -np.inf for pair in pairs]
        if not scores or max(scores) == -np.inf:
            return tokens
        at = int(np.argmax(scores))
        tokens[at : at + 2] = [ids[pairs[at]]]


def test_tokenizer_is_the_authors(data: Path, source: Path, tokenizer: Any) -> None:
    pieces = stories260k.read_pieces(source / "tokenizer.bin", 512)
    prose = (data / "text" / "tinyshakespeare.txt").read_text()
    pages = [json.loads(line)["text"] for line in (data / "text" / "c4_demo.jsonl").read_text().splitlines()[:5]]
    texts = [STORY, *prose.split("\n\n")[:60], *(page[:600] for page in pages), "naïve café ☃ 日本\ttab\n\n  spaces  "]
    for text in texts:
        expected = merge_by_score(text, pieces)
        assert tokenizer(text).input_ids == [stories260k.START, *expected], text
        assert tokenizer.decode(expected) == text


def test_stops_are_named(stories: Path, tokenizer: Any) -> None:
    config = json.loads((stories / "generation_config.json").read_text())
    assert config["eos_token_id"] == [1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (1, 2, 512)


@pytest.mark.parametrize("cut", [0, 20, 5000])
def test_refuses_a_cut_checkpoint(source: Path, tmp_path: Path, cut: int) -> None:
    (tmp_path / "checkpoint_legacy.bin").write_bytes((source / "checkpoint_legacy.bin").read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"no llama2\.c checkpoint"):
        stories260k.convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        stories260k.convert(tmp_path, tmp_path / "out")
