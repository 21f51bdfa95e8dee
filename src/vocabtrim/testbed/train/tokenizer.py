"""Trains the family's tokenizer: byte-level BPE over all training documents, Qwen2's pattern, a short chat template.

    python -m vocabtrim.testbed.train.tokenizer DATA OUT

The corpus is broader than what the target will write, as that of published tokenizers is. Single digits are tokens:
small models learn arithmetic better so. Knows tokenizers; knows nothing of models.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..make_tokenizer import CHAT_TEMPLATE, SPECIAL
from .corpus import tokenizer_texts
from .sizes import VOCAB

_RESERVED = 13  # special tokens that no text holds, as real tokenizers keep some for later
_LONGEST = 4096
# The pattern of Qwen2, which converters know by name.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train(data: Path, out: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json into `out`. data: the folder of shared texts."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    special = [*SPECIAL, *(f"<|reserved_{i}|>" for i in range(_RESERVED))]
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tokenizer_texts(data), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if tokenizer.get_vocab_size() != VOCAB:
        raise SystemExit(f"trained {tokenizer.get_vocab_size()} ids, expected {VOCAB}: more text is needed")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": _LONGEST,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]))
