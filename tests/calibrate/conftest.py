"""What the tests of counting share: one tiny tokenizer, trained once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tiny_tokenizer import train
from vocabtrim.calibrate.tokenizer import OpenTokenizer, open_tokenizer


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny tokenizer: byte-level BPE split by GPT-2's pattern, and 6 special tokens."""
    return train(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def opened(data: Path) -> Callable[[str], OpenTokenizer]:
    """Real tokenizers by name, each loaded once: that takes a second."""
    return cache(lambda name: open_tokenizer(data / "tokenizers" / name))
