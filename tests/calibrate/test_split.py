"""Splitting a collection by language or by a field, and the held-out part in blocks."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vocabtrim.calibrate.blocks import BLOCKS, BlockTally, added_up, summed
from vocabtrim.calibrate.count import count
from vocabtrim.calibrate.counts import TokenCounts, merge
from vocabtrim.errors import InputError

ENGLISH = "The ferry leaves the island at noon, and whoever misses it must wait for another day in the small harbour."
FRENCH = "Le bateau quitte l'île à midi, et celui qui le manque doit attendre un jour de plus dans le petit port."
GERMAN = "Die Fähre verlässt die Insel am Mittag, und wer sie verpasst, muss noch einen Tag im kleinen Hafen warten."


def write(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    records = [{"text": f"{text} {n}", "kind": kind} for n in range(40) for text, kind in ((ENGLISH, "a"), (FRENCH, 7))]
    return write(tmp_path / "letters.jsonl", [*records, {"text": "no kind here"}])


def test_a_field_makes_a_source_of_each_value(tiny: Path, letters: Path) -> None:
    whole = count([letters], tokenizer=tiny)
    split = count([letters], tokenizer=tiny, split_by="kind")
    assert [source.name for source in split.sources] == ["7", "a", "other"]
    assert [source.details["documents"] for source in split.sources] == [40, 40, 1]
    assert np.array_equal(split.counts, whole.counts) and np.array_equal(split.heldout, whole.heldout)
    assert split.documents == whole.documents == 81


def test_with_several_sources_their_names_stand_before_the_values(tiny: Path, letters: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", [{"text": ENGLISH, "kind": "a"}, {"text": GERMAN, "kind": "a"}])
    split = count([letters, other], tokenizer=tiny, split_by="kind", heldout=0)
    assert [source.name for source in split.sources] == [
        "letters.jsonl: 7",
        "letters.jsonl: a",
        "letters.jsonl: other",
        "other.jsonl: a",
    ]


def test_what_was_skipped_is_told_once(tiny: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x", "kind": "a"}, {"text": "y", "kind": "b"}, {"kind": "c"}])
    assert sum(count([path], tokenizer=tiny, split_by="kind", heldout=0).skipped.values()) == 1


def test_a_field_that_no_record_has_and_one_with_too_many_values_are_refused(tiny: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": f"text {n}", "id": n} for n in range(101)])
    with pytest.raises(InputError, match="no record has the field kind"):
        count([path], tokenizer=tiny, split_by="kind")
    with pytest.raises(InputError, match="at most 100 different values"):
        count([path], tokenizer=tiny, split_by="id")


def test_languages_are_told_apart_and_what_is_short_is_other(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("lingua", reason="pip install 'vocabtrim[language]'")
    texts = [ENGLISH, FRENCH, GERMAN, "12 + 30 = 42", "Bonjour"]
    path = write(tmp_path / "a.jsonl", [{"text": f"{text} {n}"} for n in range(5) for text in texts])
    split = count([path], tokenizer=tiny, split_by="language", heldout=0)
    documents = {source.name: source.details["documents"] for source in split.sources}
    assert documents == {"english": 5, "french": 5, "german": 5, "other": 10}


def test_languages_that_next_to_no_document_is_in_are_guesses(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("lingua", reason="pip install 'vocabtrim[language]'")
    texts = [*[f"{ENGLISH} {n}" for n in range(450)], FRENCH, *[f"{GERMAN} {n}" for n in range(10)]]
    path = write(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    split = count([path], tokenizer=tiny, split_by="language", heldout=0)
    documents = {source.name: source.details["documents"] for source in split.sources}
    assert documents == {"english": 450, "german": 10, "other": 1}
    assert np.array_equal(split.counts, count([path], tokenizer=tiny, heldout=0).counts)


def test_a_field_of_lists_or_one_inside_another_is_no_kind(tiny: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x", "meta": {"kind": "a"}, "kinds": ["a"]}] * 3)
    for field in ("meta", "kinds", "meta.kind"):
        with pytest.raises(InputError, match=f"no record has the field {field}, expected a field of the record itself"):
            count([path], tokenizer=tiny, split_by=field)


def test_held_out_blocks_add_up_and_a_document_is_in_one(tiny: Path, letters: Path, tmp_path: Path) -> None:
    counts = count([letters], tokenizer=tiny, heldout=0.5)
    (source,) = counts.sources
    assert source.blocks is not None
    assert np.array_equal(summed(source.blocks, source.heldout.size), source.heldout)
    assert 8 < np.unique(source.blocks[0] // source.heldout.size).size <= BLOCKS
    counts.save(tmp_path / "counts.safetensors")
    loaded = TokenCounts.load(tmp_path / "counts.safetensors")
    assert loaded.hash == counts.hash and loaded.sources[0].blocks is not None
    assert np.array_equal(loaded.sources[0].blocks, source.blocks)


@pytest.mark.parametrize("places", [50, 10**6], ids=["dense", "sparse"])
def test_blocks_added_up_as_a_dictionary_would(places: int) -> None:
    """Whether few places are filled or most; nothing is lost on a journey between processes."""
    generator = np.random.default_rng(0)
    parts = []
    for _ in range(5):
        where = np.unique(generator.integers(0, places, 40))
        parts.append(np.stack([where, generator.integers(1, 9, where.size)]))
    expected: Counter[int] = Counter()
    for where, often in parts:
        expected.update(dict(zip(where.tolist(), often.tolist(), strict=True)))
    found = added_up(parts)
    assert (np.diff(found[0]) > 0).all() and dict(zip(*found.tolist(), strict=True)) == expected
    tally = BlockTally(places)
    for part in parts:
        tally.add(0, np.bincount(part[0], part[1], places).astype(np.int64))
    sent = pickle.loads(pickle.dumps(tally))
    sent.merge(tally)
    assert np.array_equal(sent.blocks(), [found[0], 2 * found[1]])


def test_parts_merge_with_their_blocks_and_a_weight_drops_them(tiny: Path, letters: Path) -> None:
    counts = count([letters], tokenizer=tiny, heldout=0.5)
    (twice,) = merge([counts, counts]).sources
    assert twice.blocks is not None and np.array_equal(twice.blocks[1], 2 * counts.sources[0].blocks[1])
    (weighted,) = merge([counts], [0.5]).sources
    assert weighted.blocks is None


def test_blocks_that_do_not_add_up_are_refused(tiny: Path, letters: Path) -> None:
    from dataclasses import replace

    (source,) = count([letters], tokenizer=tiny, heldout=0.5).sources
    assert source.blocks is not None
    beyond = np.add(source.blocks, [[BLOCKS * 10**6], [0]])
    for wrong in (source.blocks[:, 1:], source.blocks[:1], -source.blocks, beyond):
        with pytest.raises(InputError, match="do not add up"):
            replace(source, blocks=wrong)
