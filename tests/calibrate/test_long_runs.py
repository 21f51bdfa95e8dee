"""Text that tiktoken's pattern cannot get through: a run of a million spaces overflows it with a ValueError."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tiny_tokenizer import write_jsonl
from vocabtrim.calibrate.count import count
from vocabtrim.calibrate.encoder import FAST, Encoder
from vocabtrim.calibrate.tokenizer import OpenTokenizer, open_tokenizer

RUN = "x" + " " * 1_000_000 + "y"


def plain_counts(opened: OpenTokenizer, texts: list[str]) -> list[int]:
    encodings = opened.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    ids = np.concatenate([np.array(encoding.ids, np.int64) for encoding in encodings])
    return np.bincount(ids, minlength=opened.facts.vocab_size).tolist()


def test_only_the_text_that_overflows_goes_through_tokenizers(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_tokenizer(tiny)
    encoder = Encoder(opened)
    slow: list[str] = []
    plain = encoder._count_plain
    monkeypatch.setattr(encoder, "_count_plain", lambda texts: slow.extend(texts) or plain(texts))
    texts = ["one", "and two", RUN, "three", "<|end|>"]
    assert encoder.count(texts).tolist() == plain_counts(opened, texts)
    assert slow == [RUN] and encoder.way == FAST


def test_a_sample_that_overflows_is_checked_without_it(tiny: Path) -> None:
    encoder = Encoder(open_tokenizer(tiny))
    encoder.check(["one", RUN, "two"])
    assert encoder.way == FAST


@pytest.mark.parametrize("before", [0, 200])
def test_a_count_survives_a_run_of_spaces_in_the_sample_and_behind_it(tiny: Path, tmp_path: Path, before: int) -> None:
    texts = ["plain words, a thousand characters. " * 28] * before + [RUN]
    counts = count([write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])], tokenizer=tiny, heldout=0)
    assert counts.counts.tolist() == plain_counts(open_tokenizer(tiny), texts)
