"""Trains the family's tokenizer: byte-level BPE over all training documents, Qwen2's pattern, a short chat template.

    python -m vocabtrim.testbed.train.tokenizer DATA OUT

The corpus is broader than what the target will write, as that of published tokenizers is. Single digits are tokens:
small models learn arithmetic better so. Knows tokenizers; knows nothing of models.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from .corpus import tokenizer_texts
from .sizes import VOCAB

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_RESERVED = 13  # special tokens that no text holds, as real tokenizers keep some for later
_LONGEST = 4096
# The pattern of Qwen2, which converters know by name.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train(texts: Iterable[str], pattern: str, out: Path, *, vocab: int, longest: int) -> None:
    """Train a byte-level BPE of `vocab` ids with the chat template; write it and its config into `out`.

    pattern: what no token crosses. longest: tokens that the models are made for. Raises SystemExit where the texts do
    not yield that many ids.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    special = [*SPECIAL, *(f"<|reserved_{i}|>" for i in range(_RESERVED))]
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if tokenizer.get_vocab_size() != vocab:
        raise SystemExit(f"trained {tokenizer.get_vocab_size()} ids, expected {vocab}: more text is needed")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": longest,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    train(tokenizer_texts(Path(sys.argv[1])), _PATTERN, Path(sys.argv[2]), vocab=VOCAB, longest=_LONGEST)
