"""TokenCounts: the file, its invariants, and merging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from vocabtrim.calibrate.counts import SourceCounts, TokenCounts, merge
from vocabtrim.calibrate.tokenizer import TokenizerFacts
from vocabtrim.errors import InputError, MismatchError, OutputError

FACTS = TokenizerFacts(hash="f" * 64, vocab_size=4, merge_ordered=3, always_keep={3: "stop token"})


def source(name: str = "a.txt", counts: Any = (1, 0, 2, 0), heldout: Any = (0, 0, 1, 0), **kwargs: Any) -> SourceCounts:
    kwargs = {"origin": "raw", "details": {"argument": name, "documents": 2}, **kwargs}
    return SourceCounts(name, counts=np.array(counts, np.int64), heldout=np.array(heldout, np.int64), **kwargs)


def counts_of(*sources: SourceCounts, tokenizer: TokenizerFacts = FACTS) -> TokenCounts:
    return TokenCounts(tokenizer, sources, documents=2 * len(sources), skipped={"empty": 1})


def rewrite(path: Path, change: Any) -> None:
    """Change the tensors and the story of a counts file behind its back."""
    tensors = load_file(path)
    with safe_open(path, framework="np") as file:
        story = json.loads(file.metadata()["vocabtrim"])
    change(tensors, story)
    save_file(tensors, path, metadata={"vocabtrim": json.dumps(story)})


def test_the_file_as_other_programs_see_it(tmp_path: Path) -> None:
    path = tmp_path / "counts.safetensors"
    counts_of(source("a.txt"), source("dir/b", (0, 5, 0, 0), (0, 0, 0, 7), origin="target-generated")).save(path)
    tensors = load_file(path)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "counts": [1, 5, 2, 0],
        "heldout": [0, 0, 1, 7],
        "counts/a.txt": [1, 0, 2, 0],
        "heldout/a.txt": [0, 0, 1, 0],
        "counts/dir/b": [0, 5, 0, 0],
        "heldout/dir/b": [0, 0, 0, 7],
    }
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.int64)}
    with safe_open(path, framework="np") as file:
        story = json.loads(file.metadata()["vocabtrim"])
    assert story["tokenizer"]["hash"] == "f" * 64
    assert [(s["name"], s["origin"]) for s in story["sources"]] == [("a.txt", "raw"), ("dir/b", "target-generated")]


def test_round_trip(tmp_path: Path) -> None:
    written = counts_of(source(), source("b"))
    written.save(tmp_path / "c")
    read = TokenCounts.load(tmp_path / "c")
    assert read.tokenizer == FACTS and read.hash == written.hash
    assert (read.tokens, read.distinct, read.documents, dict(read.skipped)) == (8, 2, 4, {"empty": 1})
    assert [s.name for s in read.sources] == ["a.txt", "b"]
    assert read.counts.tolist() == [2, 0, 4, 0] and read.heldout.tolist() == [0, 0, 2, 0]
    assert not read.sources[0].counts.flags.writeable


def test_hash_covers_held_out_counts_and_names() -> None:
    hashes = {
        counts_of(source()).hash,
        counts_of(source(heldout=(0, 1, 0, 0))).hash,
        counts_of(source("b")).hash,
        counts_of(source("b"), source("a.txt")).hash,
    }
    assert len(hashes) == 4
    assert counts_of(source("b"), source("c")).hash == counts_of(source("c"), source("b")).hash


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (counts_of, "no source"),
        (lambda: counts_of(source(), source()), "two sources are named a.txt"),
        (lambda: counts_of(source(counts=(1, 2, 3), heldout=(0, 0, 0))), "expected 4 ids, found 3"),
        (lambda: source(heldout=(0, 0)), r"expected int64 \(4,\), found int64 \(2,\)"),
        (lambda: source(counts=(1, -2, 0, 0)), "negative at id 1"),
        (lambda: source(origin="web"), "expected raw or target-generated or drafter-generated, found 'web'"),
        (lambda: SourceCounts("x", "raw", np.zeros(4), np.zeros(4, np.int64)), "found float64"),
    ],
)
def test_broken_invariants_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def set_count(tensors: dict, story: dict) -> None:
    tensors["counts/a.txt"][1] += 1


def set_both(tensors: dict, story: dict) -> None:
    tensors["counts/a.txt"][1] += 1
    tensors["counts"][1] += 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_count, "not the sum of their sources"),
        (set_both, "were changed after they were written"),
        (lambda tensors, story: tensors.pop("heldout/a.txt"), "holds no token counts"),
        (lambda tensors, story: tensors.pop("counts"), "holds no token counts"),
        (lambda tensors, story: story.pop("tokenizer"), "holds no token counts"),
        (lambda tensors, story: story["sources"][0].update(origin="?"), "unknown origin"),
        (lambda tensors, story: story["tokenizer"].update(vocab_size=5), "expected 5 ids, found 4"),
    ],
)
def test_tampered_files_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "c"
    counts_of(source()).save(path)
    rewrite(path, change)
    with pytest.raises(InputError, match=message):
        TokenCounts.load(path)


def test_missing_truncated_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with pytest.raises(InputError, match="do not exist"):
        TokenCounts.load(path)
    counts_of(source()).save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="holds no token counts"):
        TokenCounts.load(path)
    save_file({"counts": np.zeros(4)}, path)
    with pytest.raises(InputError, match="holds no token counts"):
        TokenCounts.load(path)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        counts_of(source()).save(tmp_path / "file" / "c")


def test_merge_adds_sources_side_by_side() -> None:
    merged = merge([counts_of(source("a")), counts_of(source("b", (0, 9, 0, 0)))])
    assert [s.name for s in merged.sources] == ["a", "b"]
    assert merged.counts.tolist() == [1, 9, 2, 0]
    assert (merged.documents, dict(merged.skipped)) == (4, {"empty": 2})


def test_merge_weights_scale_both_parts_and_never_lose_a_seen_id() -> None:
    merged = merge([counts_of(source("a", (100, 1, 0, 7), (10, 0, 1, 0))), counts_of(source("b"))], [0.25, 3])
    first, second = merged.sources
    # 25, 0.25 -> 1 because it was seen, 0, 1.75 -> 2; held out 2.5 -> 2 (halves go to even), 0, 0.25 -> 1.
    assert first.counts.tolist() == [25, 1, 0, 2] and first.heldout.tolist() == [2, 0, 1, 0]
    assert second.counts.tolist() == [3, 0, 6, 0]
    assert first.details["weight"] == 0.25


def test_weights_multiply_over_two_merges() -> None:
    once = merge([counts_of(source("a", (100, 0, 0, 0)))], [0.5])
    assert merge([once], [0.5]).sources[0].details["weight"] == 0.25


def test_weight_zero_keeps_the_name_and_nothing_else() -> None:
    merged = merge([counts_of(source("a")), counts_of(source("b"))], [0, 1])
    assert merged.sources[0].tokens == 0 and merged.counts.tolist() == [1, 0, 2, 0]


def test_parts_of_one_source_are_added() -> None:
    merged = merge([counts_of(source("a")), counts_of(source("a")), counts_of(source("a"))])
    (only,) = merged.sources
    assert only.counts.tolist() == [3, 0, 6, 0]
    assert len(only.details["parts"]) == 3 and only.details["documents"] == 6


def test_sources_that_only_share_a_name_stay_apart() -> None:
    other_file = source("a", details={"argument": "elsewhere/a"})
    other_writer = source("a", origin="target-generated")
    merged = merge([counts_of(source("a")), counts_of(other_file), counts_of(other_writer)])
    assert [s.name for s in merged.sources] == ["a", "a (2)", "a (3)"]


def test_a_different_tokenizer_is_refused_with_both_hashes() -> None:
    other = TokenizerFacts("e" * 64, 4, 3, {})
    with pytest.raises(MismatchError, match=f"{'f' * 64}.*{'e' * 64}"):
        merge([counts_of(source()), counts_of(source(), tokenizer=other)])


def test_always_keep_ids_of_all_are_kept() -> None:
    """The same tokenizer, once with a generation config beside it and once without."""
    other = TokenizerFacts(FACTS.hash, 4, 3, {2: "chat template"})
    merged = merge([counts_of(source("a")), counts_of(source("b"), tokenizer=other)])
    assert dict(merged.tokenizer.always_keep) == {3: "stop token", 2: "chat template"}


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, -1], [1, float("nan")], [float("inf"), 1]])
def test_bad_weights(weights: list[float]) -> None:
    with pytest.raises(InputError, match="weight"):
        merge([counts_of(source("a")), counts_of(source("b"))], weights)


def test_nothing_to_merge() -> None:
    with pytest.raises(InputError, match="at least one counts file"):
        merge([])


@pytest.mark.parametrize("weight", [-1, 1e30, 1_000_001, float("nan"), float("inf")])
def test_a_weight_out_of_range_names_the_range(weight: float) -> None:
    with pytest.raises(InputError, match="expected 0 to 1,000,000, found"):
        merge([counts_of(source())], [weight])


def test_weights_that_would_overflow_are_refused() -> None:
    """Weights multiply when a merged file is merged again: no silent wrap into negative counts."""
    huge = merge([counts_of(source())], [1e6])
    with pytest.raises(InputError, match=r"too large.*only the ratio"):
        merge([merge([huge], [1e6])], [1e6])
