"""What the tests of counting share: one tiny tokenizer, trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_tokenizer import train


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny tokenizer: byte-level BPE split by GPT-2's pattern, and 6 special tokens."""
    return train(tmp_path_factory.mktemp("tiny"))
