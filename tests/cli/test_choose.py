"""`vocabtrim choose` as a user runs it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import assert_bad_input
from tiny_tokenizer import train
from vocabtrim.calibrate.counts import SourceCounts, TokenCounts
from vocabtrim.calibrate.tokenizer import TokenizerFacts, tokenizer_facts
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary


def save_counts(path: Path, facts: TokenizerFacts, *, flat: bool = False, name: str = "chat") -> Path:
    """Counts that fall with the id, or are all the same."""
    tally = np.full(facts.vocab_size, 100, np.int64) if flat else 10_000 // (1 + np.arange(facts.vocab_size))
    TokenCounts(facts, (SourceCounts(name, "raw", tally, tally),), documents=1).save(path)
    return path


FACTS = TokenizerFacts("hash a", 1000, merge_ordered=900, always_keep={990: "stop token"})


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    return save_counts(tmp_path / "counts.safetensors", FACTS)


def test_the_help_shows_an_example(vocabtrim: Any) -> None:
    run = vocabtrim("choose", "--help")
    assert run.code == 0 and "Example: vocabtrim choose" in run.out


def test_a_number_of_ids(vocabtrim: Any, counts: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.safetensors"
    run = vocabtrim("choose", counts, "--keep", 100, "--out", out)
    assert run.code == 0, run.err
    kept = KeptVocabulary.load(out)
    assert kept.ids.tolist() == [*range(99), 990]
    assert "100 <" in run.out and "1,000 (full)" in run.out
    assert "990 (stop token)" in run.out
    assert "1 by always-keep, 99 by chat" in run.out
    assert "held-out tokens" in run.out and f"Wrote {out}" in run.out


def test_json_has_the_documented_keys(vocabtrim: Any, counts: Path, tmp_path: Path) -> None:
    run = vocabtrim("choose", counts, "--keep", "0.9", "--out", tmp_path / "kept.safetensors", "--json")
    assert run.json["picked"] % 64 == 0 and run.json["verdict"] == "not judged"
    row = next(row for row in run.json["sizes"] if row["kept_size"] == run.json["picked"])
    assert row["heldout_coverage"] >= 0.9
    assert {"coverage", "head_bytes", "predicted_block_efficiency", "mbsu"} <= set(row)
    assert run.json["out"] == str(tmp_path / "kept.safetensors")


def test_without_out_it_only_looks(vocabtrim: Any, counts: Path, tmp_path: Path) -> None:
    run = vocabtrim("choose", counts, "--keep", 100)
    assert run.code == 0 and "Nothing was written" in run.out
    assert [file.name for file in tmp_path.iterdir()] == ["counts.safetensors"]


def test_several_counts_and_their_coverage_by_source(vocabtrim: Any, counts: Path, tmp_path: Path) -> None:
    other = save_counts(tmp_path / "other.safetensors", FACTS, flat=True, name="web")
    run = vocabtrim("choose", counts, other, "--keep", 995, "--json")
    assert sum(run.json["origins"].values()) == 995 and 0 < run.json["origins"]["web"] < run.json["origins"]["chat"]
    assert set(run.json["sizes"][0]["coverage_by_source"]) == {"chat", "web"}
    shown = vocabtrim("choose", counts, other, "--keep", 100).out
    _, _, by_source = shown.partition("Held-out coverage by source and kept size")
    assert [line.split()[0] for line in by_source.splitlines() if line.startswith((" chat", " web"))] == ["chat", "web"]


def test_always_keep_options(vocabtrim: Any, counts: Path) -> None:
    told = vocabtrim("choose", counts, "--keep", 3, "--always-keep", 500, "--always-keep", 501, "--json").json
    assert told["always_keep"] == {"500": "asked for", "501": "asked for", "990": "stop token"}
    assert vocabtrim("choose", counts, "--keep", 3, "--no-always-keep", "--json").json["always_keep"] == {}
    assert_bad_input(vocabtrim("choose", counts, "--keep", 3, "--always-keep", 1000), "expected 0 to 999, found 1000")


def test_other_tokenizers_are_refused(vocabtrim: Any, counts: Path, tmp_path: Path) -> None:
    other = save_counts(tmp_path / "other.safetensors", TokenizerFacts("hash b", 1000, 0))
    assert_bad_input(vocabtrim("choose", counts, other, "--keep", 3), "hash a", "hash b")


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (("--keep", "all"), ('"auto"', "'all'")),
        (("--keep", "2000"), ("at most 1000", "found 2000")),
        (("--keep", "auto"), ("--drafter and --target",)),
        (("--keep", "10", "--drafter", "somewhere"), ("pass --target with --drafter",)),
        (("--keep", "10", "--drafter", "nowhere", "--target", "nowhere"), ("no checkpoint at nowhere",)),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: tuple[str, ...], facts: tuple[str, ...], vocabtrim: Any, counts: Path
) -> None:
    assert_bad_input(vocabtrim("choose", counts, *arguments), *facts)


def test_counts_that_are_none_are_refused(vocabtrim: Any, tmp_path: Path) -> None:
    assert_bad_input(vocabtrim("choose", tmp_path / "no.safetensors", "--keep", 3), "do not exist")


# With a drafter: the built-in tiny shapes, a real tokenizer


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, Path, Path]:
    """A tiny target with Mistral's 32,000 ids, an EAGLE drafter for it, and counts that fall with the id."""
    folder = tmp_path_factory.mktemp("pair")
    tokenizer = data / "tokenizers" / "mistral-v0.1"
    shape = dataclasses.replace(TINY, vocab=32_000, head_rows=32_000, bos=1, eos=(2,))
    target = shapes.write_target(folder / "target", shape, seed=0, tokenizer=tokenizer)
    drafter = shapes.write_eagle(folder / "eagle", shape, seed=1)
    return target, drafter, save_counts(folder / "counts.safetensors", tokenizer_facts(tokenizer))


def test_auto_with_a_drafter(vocabtrim: Any, pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    target, drafter, counts = pair
    out = tmp_path / "kept.safetensors"
    arguments = ("choose", counts, "--drafter", drafter, "--target", target, "--out", out)
    told = vocabtrim(*arguments, "--json").json
    assert told["verdict"] == "trim" and KeptVocabulary.load(out).size == told["picked"]
    assert told["sizes"][-1]["kept_size"] == 32_000 and told["assumed"] is True
    run = vocabtrim(*arguments, "--strict", "--block-efficiency", "3.1", "--draft-length", "5")
    assert run.code == 0 and "3.10 (as measured) with 5 drafted tokens" in run.out
    assert "Verdict: trim." in run.out and "MBSU" in run.out
    assert "assumed; --block-efficiency sets it" in vocabtrim(*arguments).out


def test_do_not_trim_writes_nothing(vocabtrim: Any, pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Every id is as frequent as any other: whatever the head saves, the lost ids cost more."""
    target, drafter, _ = pair
    counts = save_counts(tmp_path / "flat.safetensors", tokenizer_facts(target), flat=True)
    out = tmp_path / "kept.safetensors"
    arguments = ("choose", counts, "--drafter", drafter, "--target", target, "--block-efficiency", "4.9", "--out", out)
    run = vocabtrim(*arguments)
    assert run.code == 0 and "Verdict: do not trim" in run.out and "Nothing was written" in run.out and not out.exists()
    told = vocabtrim(*arguments, "--json").json
    assert (told["picked"], told["verdict"], told["out"]) == (None, "do not trim", None)
    strict = vocabtrim(*arguments, "--strict")
    assert strict.code == 1 and strict.out == "" and "full head's predicted MBSU" in strict.err


def test_a_losing_number_is_written_unless_strict(
    vocabtrim: Any, pair: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    target, drafter, _ = pair
    counts, out = save_counts(tmp_path / "flat.safetensors", tokenizer_facts(target), flat=True), tmp_path / "kept"
    arguments = ("choose", counts, "--drafter", drafter, "--target", target, "--keep", 64, "--out", out)
    arguments = (*arguments, "--block-efficiency", "4.9")
    strict = vocabtrim(*arguments, "--strict")
    assert strict.code == 1 and not out.exists() and len(strict.err.strip().splitlines()) == 1
    run = vocabtrim(*arguments)
    assert run.code == 0 and "Verdict: losing trim." in run.out and KeptVocabulary.load(out).size == 64


def test_the_targets_tokenizer_must_be_the_counts(vocabtrim: Any, pair: tuple[Path, Path, Path], counts: Path) -> None:
    target, drafter, _ = pair
    run = vocabtrim("choose", counts, "--drafter", drafter, "--target", target)
    assert_bad_input(run, "the target's tokenizer is not the one of the counts", "hash a")


def test_weights_and_other_work(vocabtrim: Any, counts: Path, tmp_path: Path) -> None:
    other = save_counts(tmp_path / "other.safetensors", FACTS, flat=True, name="web")
    told = vocabtrim("choose", counts, other, "--keep", 100, "--weight", "web=3", "--weight", "chat=1", "--json").json
    assert told["weighed"] == "as given" and told["weights"]["web"] == pytest.approx(3 * told["weights"]["chat"])
    told = vocabtrim("choose", counts, other, "--keep", 100, "--other-work", 0, "--json").json
    assert told["weighed"].startswith("fitted to the primary") and sum(told["weights"].values()) == pytest.approx(1)
    assert "Weights, fitted to the primary" in vocabtrim("choose", counts, other, "--keep", 100).out
    both = vocabtrim("choose", counts, other, "--keep", 100, "--weight", "web=1", "--other-work", 0.1)
    assert_bad_input(both, "leave no room for", "--weight merge-order=W")


@pytest.mark.parametrize("weight", ["chat", "chat=x", "=1", "chat=-1", "chat=nan"])
def test_what_is_no_weight_is_refused(vocabtrim: Any, counts: Path, weight: str) -> None:
    assert_bad_input(vocabtrim("choose", counts, "--keep", 100, "--weight", weight), "weight")


def test_a_workload_as_text_and_as_counts(vocabtrim: Any, tmp_path: Path) -> None:
    """Text needs a tokenizer; the same traffic counted before gives the same weights."""
    tokenizer, traffic = train(tmp_path), tmp_path / "traffic.jsonl"
    lines = [f"the ferry number {n} leaves the harbour" for n in range(60)]
    traffic.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{name} the harbour is {n} miles off" for n in range(99)))
        out = tmp_path / f"{name}.safetensors"
        assert vocabtrim("count", tmp_path / f"{name}.txt", "--tokenizer", tokenizer, "--out", out).code == 0
    choose = ("choose", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--keep", 64, "--workload")
    assert_bad_input(vocabtrim(*choose, traffic), "--target or --tokenizer")
    fitted = vocabtrim(*choose, traffic, "--tokenizer", tokenizer, "--json").json
    assert fitted["weighed"] == "fitted to the workload"
    (row,) = fitted["workload"]["rows"]
    assert row["kept_size"] == 64 and 0 < row["coverage"] <= 1
    counted = tmp_path / "traffic.safetensors"
    vocabtrim("count", traffic, "--tokenizer", tokenizer, "--heldout", 0.5, "--out", counted)
    assert vocabtrim(*choose, counted, "--json").json["weights"] == fitted["weights"]
    assert "no weight was fitted on" in vocabtrim(*choose, counted).out


def test_cross_shows_each_list_on_each_work(vocabtrim: Any, tmp_path: Path) -> None:
    """Split by a field, 40 ids: a list made for numbers loses words."""
    tokenizer, path = train(tmp_path), tmp_path / "a.jsonl"
    texts = [("words", "the ferry leaves the small harbour"), ("numbers", "31415 92653 58979")]
    path.write_text("".join(json.dumps({"text": f"{t} {n}", "kind": k}) + "\n" for n in range(99) for k, t in texts))
    out = tmp_path / "c.safetensors"
    count = ("count", path, "--tokenizer", tokenizer, "--split-by", "kind", "--heldout", 0.3, "--out", out)
    assert vocabtrim(*count).code == 0
    told = vocabtrim("cross", out, "--keep", 40, "--json").json
    assert told["workloads"] == ["numbers", "words"]
    assert [row["name"] for row in told["rows"]] == ["numbers", "words", "all, mixed", "lowest ids"]
    assert "numbers" in told["failing"]["words"] and "words" not in told["failing"]["words"]
    shown = vocabtrim("cross", out, "--keep", 40).out
    assert "words fails with: numbers" in shown and " *" in shown
    assert_bad_input(vocabtrim("cross", out, "--keep", 10**6), "no list has that size")
