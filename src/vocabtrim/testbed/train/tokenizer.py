"""Trains the family's tokenizer: byte-level BPE over all training documents, Qwen2's pattern, a short chat template.

    python -m vocabtrim.testbed.train.tokenizer DATA OUT

The corpus is broader than what the target will write, as that of published tokenizers is. Single digits are tokens:
small models learn arithmetic better so. Knows tokenizers; knows nothing of models.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..make_tokenizer import train
from .corpus import tokenizer_texts
from .sizes import VOCAB

_LONGEST = 4096
# The pattern of Qwen2, which converters know by name.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


if __name__ == "__main__":
    train(tokenizer_texts(Path(sys.argv[1])), _PATTERN, Path(sys.argv[2]), vocab=VOCAB, longest=_LONGEST)
