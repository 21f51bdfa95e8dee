"""What the default mixture is worth, on recorded outputs of a real target, web text and function calls.

Llama 3's tokenizer; greedy answers of Llama-3.1-8B-Instruct to GSM8K and to CRUX-O; 300 pages of C4, encyclopedia
prose, 300 function-calling conversations. Half of each is calibration, half held out. All numbers stand in
docs/choose.md; bench/mixtures.py prints them for every task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from vocabtrim.calibrate.count import count
from vocabtrim.calibrate.counts import TokenCounts
from vocabtrim.calibrate.tokenizer import load_tokenizer
from vocabtrim.vocabulary.choose_size import combined
from vocabtrim.vocabulary.confidence import heldout_interval, missing_mass, tokens_to_halve
from vocabtrim.vocabulary.kept import Ids
from vocabtrim.vocabulary.mixture import with_weights
from vocabtrim.vocabulary.select import rank
from vocabtrim.vocabulary.workload import fit_to_workload

SIZES = (2048, 4096, 8192, 16_384, 32_768)
ANSWERS = {"prompt_field": "model_input", "completion_field": "output", "origin": "target-generated"}


@pytest.fixture(scope="module")
def counted(data: Path) -> Mapping[str, TokenCounts]:
    """Counts by name, half of the documents held out."""

    def counts(*paths: str, **options: str) -> TokenCounts:
        sources = [data / path for path in paths]
        return count(sources, tokenizer=data / "tokenizers" / "llama3_2", heldout=0.5, **options)

    return {
        "gsm": counts("recorded/zeroeval_gsm_llama3.1-8b.json", **ANSWERS),
        "crux": counts("recorded/zeroeval_crux_llama3.1-8b.json", **ANSWERS),
        "raw": counts("text/c4_demo.jsonl", "text/wikitext2_test.txt", "text/wikitext2_valid.txt"),
        "tools": counts("tools/glaive_toolcall_en_demo.json"),
    }


def ids_of(files: Sequence[TokenCounts], weights: Mapping[str, float] | None = None) -> Ids:
    mixture = combined(files)
    return rank(with_weights(mixture, weights) if weights else mixture, always_keep={}).ids


def alone(counts: TokenCounts) -> Ids:
    """A source's own list: the ids that it saw, the most frequent first."""
    return continued(counts)[: np.count_nonzero(counts.counts)]


def continued(counts: TokenCounts) -> Ids:
    """The same, ids it never saw behind it in merge order."""
    names = {source.name: float(max(source.counts.sum(), 1)) for source in counts.sources}
    return ids_of([counts], {**names, "merge-order": 0})


def coverages(ids: Ids, counts: TokenCounts) -> np.ndarray:
    return np.array([counts.heldout[ids[:size]].sum() / counts.heldout.sum() for size in SIZES])


@pytest.mark.parametrize(("primary", "work"), [("gsm", "crux"), ("crux", "gsm"), ("gsm", "tools"), ("crux", "tools")])
def test_the_mixture_beats_every_single_source_on_work_that_none_was_made_for(
    primary: str, work: str, counted: Mapping[str, TokenCounts]
) -> None:
    """Target-generated text of one task and raw text, read on another task: at every size 0.4 points above the best of
    the primary alone, the raw text alone and the lowest ids. Lists that go on in merge order are a mixture already:
    0.7 points above the best of them up to 8k, beyond never more than 0.15 below."""
    mixed = coverages(ids_of([counted[primary], counted["raw"]]), counted[work])
    lowest = coverages(np.arange(128_000), counted[work])
    singles = [coverages(alone(counted[name]), counted[work]) for name in (primary, "raw")]
    assert (mixed >= np.max([lowest, *singles], axis=0) + 0.004).all(), (mixed, singles)
    longer = [coverages(continued(counted[name]), counted[work]) for name in (primary, "raw")]
    best = np.max([lowest, *longer], axis=0)
    assert (mixed >= best - 0.0015).all(), mixed - best
    assert (mixed[:3] >= best[:3] + 0.007).all(), mixed - best


@pytest.mark.parametrize("primary", ["gsm", "crux", "tools"])
def test_on_its_own_task_the_mixture_gains_where_a_head_is_cut_and_pays_below(
    primary: str, counted: Mapping[str, TokenCounts]
) -> None:
    """The share that is left to other work costs up to 0.8 points at 2k; from 8k on the mixture is ahead."""
    mixed = coverages(ids_of([counted[primary], counted["raw"]]), counted[primary])
    own = coverages(continued(counted[primary]), counted[primary])
    assert (mixed[:2] >= own[:2] - 0.008).all() and (mixed[2:] >= own[2:] - 0.0005).all(), mixed - own


def test_weights_fitted_to_a_workload_beat_the_default_on_its_other_half(counted: Mapping[str, TokenCounts]) -> None:
    """Answers to CRUX-O as traffic, of which the lists know nothing but the other three sources."""
    mixture = combined([counted["gsm"], counted["raw"], counted["tools"]])
    _, fit = fit_to_workload(mixture, counted["crux"], SIZES, always_keep={})
    gains = [row.coverage - row.default_coverage for row in fit.rows]
    assert min(gains) > -0.001 and np.mean(gains) > 0.004, gains


@pytest.mark.parametrize("name", ["gsm", "crux", "raw", "tools"])
def test_good_turing_is_a_lower_bound_on_real_text(name: str, counted: Mapping[str, TokenCounts]) -> None:
    """Documents repeat their own ids, so that what was seen once is less than what is missing: by 1.3 to 8 times."""
    counts = counted[name]
    missing = counts.heldout[counts.counts == 0].sum() / counts.heldout.sum()
    assert 1.3 < missing / missing_mass(counts.counts) < 8


def test_more_text_lowers_what_is_missing_about_as_predicted(data: Path) -> None:
    """GSM8K's own answers: calibrated on a quarter, then on as many more tokens as should halve what is missing."""
    lines = (data / "text" / "gsm8k_train.jsonl").read_text().splitlines()
    tokenizer = load_tokenizer(data / "tokenizers" / "llama3_2")
    encodings = tokenizer.encode_batch([json.loads(line)["answer"] for line in lines], add_special_tokens=False)
    ids = np.concatenate([encoding.ids for encoding in encodings])
    quarter, heldout = ids.size // 4, ids[-ids.size // 5 :]

    counts = np.bincount(ids[:quarter], minlength=128_256)
    more = tokens_to_halve(counts)
    assert more is not None and quarter + more < ids.size - heldout.size
    after = np.bincount(ids[: quarter + more], minlength=128_256)
    before, now = (float(np.mean(seen[heldout] == 0)) for seen in (counts, after))
    assert 0.4 < now / before < 0.65


def test_the_interval_on_real_answers(counted: Mapping[str, TokenCounts]) -> None:
    """8k ids of GSM8K's answers: half of a point around their coverage, which lies inside."""
    counts = counted["gsm"]
    kept = np.zeros(counts.tokenizer.vocab_size, bool)
    kept[ids_of([counts])[:8192]] = True
    interval = heldout_interval(counts, kept)
    assert interval is not None and interval.blocks == 32
    assert interval.low < counts.heldout[kept].sum() / counts.heldout.sum() < interval.high
    assert 0.001 < interval.high - interval.low < 0.01
