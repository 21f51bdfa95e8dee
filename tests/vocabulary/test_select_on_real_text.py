"""What ranking by back-off counts and merge order is worth, on recorded outputs of a real target and web text.

Llama 3's tokenizer; greedy answers of Llama-3.1-8B-Instruct to GSM8K and to CRUX-O; 300 pages of C4. Numbers measured
when this was written stand in docs/choose.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vocabtrim.calibrate.tokenizer import load_tokenizer, tokenizer_facts
from vocabtrim.vocabulary.kept import Ids
from vocabtrim.vocabulary.select import rank

Counts = npt.NDArray[np.int64]
SIZES = (4096, 8192, 16_384, 32_768)


@pytest.fixture(scope="module")
def counted(data: Path) -> Mapping[str, Counts]:
    """Counts by name; of GSM8K every fifth answer is held out."""
    folder = data / "tokenizers" / "llama3_2"
    tokenizer, vocab = load_tokenizer(folder), tokenizer_facts(folder).vocab_size

    def count(texts: list[str]) -> Counts:
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        return np.bincount(np.concatenate(ids), minlength=vocab)

    def recorded(name: str) -> list[str]:
        records = json.loads((data / "recorded" / f"zeroeval_{name}_llama3.1-8b.json").read_text())
        return [record["output"][0] for record in records]

    pages = [json.loads(line)["text"] for line in (data / "text" / "c4_demo.jsonl").read_text().splitlines()]
    answers = recorded("gsm")
    held_out = [text for number, text in enumerate(answers) if number % 5 == 0]
    rest = [text for number, text in enumerate(answers) if number % 5]
    return {"gsm": count(rest), "gsm held out": count(held_out), "crux": count(recorded("crux")), "web": count(pages)}


def coverages(ids: Ids, counts: Counts) -> list[float]:
    return [float(counts[ids[:size]].sum() / counts.sum()) for size in SIZES]


def test_the_tokenizer_has_the_prior(data: Path) -> None:
    assert tokenizer_facts(data / "tokenizers" / "llama3_2").merge_ordered == 128_000


@pytest.mark.parametrize(("primary", "read_on"), [("gsm", "gsm held out"), ("crux", "gsm held out")])
def test_back_off_and_merge_order_beat_padding_and_stopping(
    primary: str, read_on: str, counted: Mapping[str, Counts]
) -> None:
    """Held-out answers of the same task, and of another: never worse than padding with the lowest ids, better at 8k."""
    alone = rank([(primary, counted[primary])], always_keep={})
    padded = rank([(primary, counted[primary])], always_keep={}, merge_ordered=128_000)
    ranked = rank([(primary, counted[primary]), ("web", counted["web"])], always_keep={}, merge_ordered=128_000)
    covered, by_padding, by_stopping = (coverages(r.ids, counted[read_on]) for r in (ranked, padded, alone))
    assert all(mine >= other for mine, other in zip(covered, by_padding, strict=True)), (covered, by_padding)
    assert all(mine >= other for mine, other in zip(by_padding, by_stopping, strict=True))
    assert covered[1] > by_padding[1] + 0.003 and covered[1] > by_stopping[1] + 0.003


def test_a_small_calibration_set_leaves_a_share_of_held_out_text_unseen(counted: Mapping[str, Counts]) -> None:
    """The trap that the prior is for: 1,055 answers hold 5,257 of the 128,256 ids, and miss 3.7 % of the next 264."""
    unseen = counted["gsm"] == 0
    assert np.count_nonzero(~unseen) == 5257
    held_out = counted["gsm held out"]
    assert held_out[unseen].sum() / held_out.sum() == pytest.approx(0.037, abs=0.001)
