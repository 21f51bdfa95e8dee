"""Tokens as text: nothing invisible, nothing that moves its neighbours, whatever the tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_tokenizer
from vocabtrim.calibrate.tokenizer import open_tokenizer
from vocabtrim.report.token_text import readable, spelled


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b" the", "␣the"),
        (b"a\n\t\r", r"a\n\t\r"),
        (b"\xe2\x80", r"\xe2\x80"),  # the beginning of many a quotation mark
        ("“é漢".encode(), "“é漢"),
        (b"\xa9x\xc3", r"\xa9x\xc3"),
        (b"\\n", r"\\n"),  # a backslash and an n are not a line break
        ("\u200b\u202e\u00ad".encode(), r"\u200b\u202e\u00ad".replace(r"\u00ad", r"\u00ad")),
        ("\u0301".encode(), "◌\u0301"),
        ("\U000e0041".encode(), r"\U000e0041"),
        (b"\x00\x1b[31m", r"\x00\x1b[31m"),
        (b"", ""),
    ],
)
def test_spelled(content: bytes, shown: str) -> None:
    assert spelled(content) == shown


def test_byte_level(tmp_path: Path) -> None:
    opened = open_tokenizer(tiny_tokenizer.train(tmp_path / "t"))
    ids = {token: opened.tokenizer.token_to_id(token) for token in ("Ġthe", "Ċ", "Ã", "<|end|>")}
    shown = [readable(opened, token) for token in ids.values()]
    assert shown == ["␣the", r"\n", r"\xc3", "<|end|>"]
    assert readable(opened, 99_999) == "id 99999"


def test_sentencepiece_s_pieces(data: Path) -> None:
    opened = open_tokenizer(data / "tokenizers" / "mistral-v0.1")
    assert readable(opened, opened.tokenizer.token_to_id("▁the")) == "␣the"
    assert readable(opened, opened.tokenizer.token_to_id("<0xE2>")) == r"\xe2"


def test_every_token_of_a_real_tokenizer_can_be_printed(data: Path) -> None:
    opened = open_tokenizer(data / "tokenizers" / "llama3_2")
    shown = [readable(opened, token) for token in range(0, opened.facts.vocab_size, 7)]
    assert all(text and text.isprintable() and " " not in text for text in shown)
