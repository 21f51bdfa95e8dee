"""What an export may start from, and what is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tiny_tokenizer
from drafters import DRAFTERS, target
from trimmed_drafters import EAGLE3, trimmed
from vocabtrim.checkpoint.trim import trim
from vocabtrim.errors import CheckpointError, MismatchError, UnsupportedError
from vocabtrim.exports.source import open_source
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary


@pytest.mark.parametrize("name", DRAFTERS)
def test_every_kind_opens_with_its_kept_ids(name: str, tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, name)
    source = open_source(drafter, owner)
    kept = KeptVocabulary.load(drafter / "kept.safetensors")
    assert np.array_equal(source.kept.ids, kept.ids) and source.kept.hash == kept.hash
    assert np.array_equal(source.rows, np.arange(kept.size)) and source.width == TINY.head_rows


def test_a_head_in_frequency_order_is_understood(tmp_path: Path) -> None:
    """Model-Optimizer's order: rows tells which row of the head scores each kept id."""
    ids = np.random.default_rng(0).permutation(np.append(shapes.draw_ids(TINY, 60, 1), TINY.eos[0]))
    ids = np.array(list(dict.fromkeys(ids.tolist())), np.int64)
    drafter = shapes.write_eagle3(tmp_path / "drafter", TINY, seed=4, draft_vocab=ids.size, kept_ids=ids)
    from safetensors.torch import load_file, save_file

    weights = load_file(drafter / "model.safetensors")
    del weights["t2d"]  # a mask knows no order but its own
    save_file(weights, drafter / "model.safetensors")
    source = open_source(drafter)
    assert (np.diff(ids) < 0).any() and np.array_equal(ids[source.rows], source.kept.ids)


def test_a_head_cut_to_every_id_there_is_counts_as_trimmed(tmp_path: Path) -> None:
    """What a trimmed drafter is compared with: the same files, nothing left out."""
    drafter = shapes.write_eagle3(tmp_path / "drafter", TINY, seed=4, draft_vocab=TINY.vocab, maps=False)
    every = KeptVocabulary(np.arange(TINY.vocab), TINY.vocab)
    source = open_source(trim(drafter, every, out=tmp_path / "out").out)
    assert source.kept.size == TINY.vocab and np.array_equal(source.rows, np.arange(TINY.vocab))


def test_an_untrimmed_drafter_is_refused(tmp_path: Path) -> None:
    drafter = shapes.write_eagle3(tmp_path / "drafter", TINY, seed=4, draft_vocab=TINY.vocab, maps=False)
    with pytest.raises(UnsupportedError, match=r"is not trimmed: .* found 512 rows; trim it first"):
        open_source(drafter)
    with pytest.raises(UnsupportedError, match="is not trimmed"):
        open_source(shapes.write_eagle(tmp_path / "eagle", TINY, seed=3), target(tmp_path / "target"))


@pytest.mark.parametrize("kind", ["gemma4_assistant", "gemma4_unified_assistant"])
def test_centroid_heads_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    drafter, _ = trimmed(tmp_path, "independent")
    config = json.loads((drafter / "config.json").read_text()) | {"model_type": kind}
    (drafter / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=f"{kind} drafter: its head picks among learned centroids"):
        open_source(drafter)


@pytest.mark.parametrize("beside", ["the drafter", "the kept file"])
def test_a_target_with_another_tokenizer_is_refused(beside: str, tmp_path: Path) -> None:
    """Whether the drafter carries a tokenizer of its own or only the hash in its kept file."""
    drafter, owner = trimmed(tmp_path, EAGLE3)
    mine = tiny_tokenizer.train(tmp_path / "mine", vocab_size=400)
    theirs = tiny_tokenizer.train(tmp_path / "theirs", vocab_size=390)
    (owner / "tokenizer.json").write_bytes((theirs / "tokenizer.json").read_bytes())
    if beside == "the drafter":
        (drafter / "tokenizer.json").write_bytes((mine / "tokenizer.json").read_bytes())
    else:
        kept = KeptVocabulary.load(drafter / "kept.safetensors")
        (drafter / "kept.safetensors").unlink()
        KeptVocabulary(kept.ids, kept.target_vocab, "0" * 64).save(drafter / "kept.safetensors")
    with pytest.raises(MismatchError, match="tokenizer"):
        open_source(drafter, owner)


def test_a_drafter_that_fails_its_check_is_refused(tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, EAGLE3)
    config = json.loads((drafter / "config.json").read_text()) | {"draft_vocab_size": 99}
    (drafter / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="draft_vocab_size 99, but the head has"):
        open_source(drafter, owner)
