"""KeptVocabulary proves its invariants, in memory and from a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vocabtrim.errors import InputError
from vocabtrim.vocabulary.kept import KeptVocabulary


def kept_of(*ids: int, target_vocab: int = 10) -> KeptVocabulary:
    return KeptVocabulary(np.array(ids, np.int64), target_vocab)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((), "empty"),
        ((0, 10), "expected 0 to 9, found 10"),
        ((-1, 3), "expected 0 to 9, found -1"),
        ((3, 1), "unsorted at position 1: expected ascending unique ids, found 3 then 1"),
        ((1, 3, 3), "repeated at position 2: expected ascending unique ids, found 3 then 3"),
    ],
)
def test_ids_that_break_an_invariant_are_refused(ids: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kept_of(*ids)


def test_ids_of_another_form_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected int64 \(kept,\), found int32 \(2,\)"):
        KeptVocabulary(np.array([1, 2], np.int32), 10)


def test_every_id_needs_an_origin() -> None:
    with pytest.raises(InputError, match="expected 2 origins below 1, found 2, the largest 1"):
        KeptVocabulary(np.array([1, 2]), 10, origin=np.array([0, 1], np.uint8))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    kept = KeptVocabulary(
        ids=np.array([1, 4, 9]),
        target_vocab=10,
        tokenizer_hash="ab",
        origin=np.array([1, 0, 1], np.uint8),
        origin_names=("always-keep", "chat"),
        always_keep={4: "stop token"},
        provenance={"keep": 3},
    )
    kept.save(tmp_path / "kept.safetensors")
    loaded = KeptVocabulary.load(tmp_path / "kept.safetensors")
    assert loaded.ids.tolist() == [1, 4, 9] and loaded.ids.dtype == np.int64
    assert loaded.by_origin() == {"always-keep": 1, "chat": 2}
    assert (loaded.target_vocab, loaded.tokenizer_hash) == (10, "ab")
    assert (loaded.always_keep, loaded.provenance) == ({4: "stop token"}, {"keep": 3})
    assert loaded.hash == kept.hash


def test_every_other_element_of_an_array_is_saved_as_such(tmp_path: Path) -> None:
    """A view that steps over elements: safetensors by itself writes what lies between them."""
    KeptVocabulary(np.arange(9)[::2], 10, origin=np.zeros(9, np.uint8)[::2]).save(tmp_path / "kept.safetensors")
    assert KeptVocabulary.load(tmp_path / "kept.safetensors").ids.tolist() == [0, 2, 4, 6, 8]


def test_the_hash_is_of_the_ids_and_the_vocabulary_size() -> None:
    assert kept_of(1, 2).hash == kept_of(1, 2).hash
    assert len({kept_of(1, 2).hash, kept_of(1, 3).hash, kept_of(1, 2, target_vocab=11).hash}) == 3


def test_ids_changed_behind_its_back_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    kept_of(1, 4, 9).save(path)
    tensors = load_file(path)
    story = json.dumps({**_story(path)})
    save_file({**tensors, "kept_ids": np.array([1, 5, 9])}, path, metadata={"vocabtrim": story})
    with pytest.raises(InputError, match="changed after they were written"):
        KeptVocabulary.load(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        KeptVocabulary.load(tmp_path / "nothing.safetensors")
    save_file({"kept_ids": np.array([1])}, tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match="is no kept vocabulary"):
        KeptVocabulary.load(tmp_path / "bare.safetensors")


def _story(path: Path) -> dict[str, object]:
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    story: dict[str, object] = json.loads(header["__metadata__"]["vocabtrim"])
    return story
