"""Tiny byte-level BPE tokenizers with a chat template, trained in the test run: no shared material needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.\n",
    "She sells sea shells by the sea shore; the shells she sells are sea shells.\n\n",
    "def add(left, right):\n    return left + right\n\n\ndef sub(left, right):\n    return left - right\n",
    "It's 1234 or 56,789.00 — naïve café, Ünïcödé, 中文 和 日本語!\r\n\tTabs and  spaces   here.\n",
] * 20

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>\n{{ message.content | trim }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

SPECIAL = ["<|start|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|unused|>"]


def train(folder: Path, *, pattern: str | None = None, normalizer: Any = None, vocab_size: int = 600) -> Path:
    """Train the tiny tokenizer into `folder`, splitting by GPT-2's pattern or the given one."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = getattr(normalizers, normalizer)()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), behavior="isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, byte_level]) if split else byte_level
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(SPECIAL)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|start|>",
        "eos_token": "<|end|>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def edit(folder: Path, out: Path, change: Any) -> Path:
    """A copy of a tokenizer folder whose tokenizer.json went through `change`, a function on the parsed object."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    said = json.loads((out / "tokenizer.json").read_bytes())
    change(said)
    (out / "tokenizer.json").write_text(json.dumps(said))
    return out


def write_jsonl(path: Path, records: list[Any]) -> Path:
    """One record per line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
