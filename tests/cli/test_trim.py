"""`vocabtrim trim` from the command line, on the built-in models: text in, a checked drafter out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from vocabtrim.testbed.builtin import BUILTIN, write_builtin
from vocabtrim.vocabulary.kept import KeptVocabulary


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_builtin(tmp_path_factory.mktemp("builtin") / "models")


def arguments(models: Path, drafter: str, out: Path) -> list[object]:
    calibrate = ["--calibrate", f"target-generated:{models / 'chat.jsonl'}", "--calibrate", models / "text.txt"]
    return ["trim", models / drafter, "--target", models / "target", *calibrate, "--out", out]


@pytest.mark.parametrize("drafter", ["independent", "eagle", "eagle3", "medusa", "mtp"])
def test_text_in_a_checked_drafter_out(drafter: str, models: Path, tmp_path: Path, vocabtrim: Any) -> None:
    run = vocabtrim(*arguments(models, drafter, tmp_path / "out"), "--json")
    assert run.code == 0, run.err
    told = run.json
    assert told["verdict"] == "trim" and told["out"] == str(tmp_path / "out") and told["check"]["ok"]
    kept = KeptVocabulary.load(tmp_path / "out" / "kept.safetensors")
    assert told["kept_size"] == kept.size and kept.size % 64 == 0
    assert told["head_bytes_after"] * told["choice"]["sizes"][-1]["kept_size"] == told["head_bytes_before"] * kept.size
    assert set(BUILTIN.eos) <= set(kept.ids.tolist())
    assert kept.ids.max() < BUILTIN.vocab  # rows that pad the head are never kept
    assert vocabtrim("check", tmp_path / "out", "--target", models / "target").code == 0


def test_the_kept_rows_are_the_targets_own(models: Path, tmp_path: Path, vocabtrim: Any) -> None:
    """Opened by the safetensors library: row i of the trimmed head is the target's row kept_ids[i]."""
    assert vocabtrim(*arguments(models, "eagle", tmp_path / "out"), "--keep", "700").code == 0
    with safe_open(tmp_path / "out" / "kept.safetensors", "pt") as file:
        ids = file.get_tensor("kept_ids")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        head = file.get_tensor("lm_head.weight")
    with safe_open(models / "target" / "model.safetensors", "pt") as file:
        assert torch.equal(head, file.get_tensor("lm_head.weight")[ids])
    assert ids.shape == (700,)


def test_a_dry_run_tells_the_plan_and_writes_nothing(models: Path, tmp_path: Path, vocabtrim: Any) -> None:
    run = vocabtrim(*arguments(models, "medusa", tmp_path / "out"), "--dry-run")
    assert run.code == 0 and "what is cut" in run.out and "0.1.weight" in run.out and "Nothing was written." in run.out
    assert list(tmp_path.iterdir()) == []
    told = vocabtrim(*arguments(models, "medusa", tmp_path / "out"), "--dry-run", "--json").json
    assert told["dry_run"] and told["out"] is None and told["head_bytes_after"] < told["head_bytes_before"]


def test_a_losing_trim_is_written_with_its_verdict_and_refused_under_strict(
    models: Path, tmp_path: Path, vocabtrim: Any
) -> None:
    """40 of 16,448 ids cover little: each draft step gets cheap, and next to nothing is accepted."""
    cheap = [*arguments(models, "independent", tmp_path / "out"), "--keep", "40", "--draft-length", "1"]
    refused = vocabtrim(*cheap, "--block-efficiency", "1.95", "--strict")
    assert refused.code == 1 and "nothing was written" in refused.err and not (tmp_path / "out").exists()
    run = vocabtrim(*cheap, "--block-efficiency", "1.95", "--json")
    assert run.code == 0 and run.json["verdict"] == "losing trim" and (tmp_path / "out").exists()


def test_counts_files_serve_as_calibration(models: Path, tmp_path: Path, vocabtrim: Any) -> None:
    """Counting apart and handing the file over gives the same ids as handing the text over."""
    counts = tmp_path / "counts.safetensors"
    assert vocabtrim("count", models / "chat.jsonl", "--tokenizer", models / "target", "--out", counts).code == 0
    common = ["trim", models / "eagle3", "--target", models / "target", "--keep", "900"]
    assert vocabtrim(*common, "--calibrate", counts, "--out", tmp_path / "a").code == 0
    assert vocabtrim(*common, "--calibrate", models / "chat.jsonl", "--out", tmp_path / "b").code == 0
    kept = [KeptVocabulary.load(tmp_path / out / "kept.safetensors").ids for out in "ab"]
    assert np.array_equal(*kept)


def test_ids_that_the_first_source_never_saw_come_from_the_second(models: Path, tmp_path: Path, vocabtrim: Any) -> None:
    told = vocabtrim(*arguments(models, "eagle", tmp_path / "out"), "--keep", "6000", "--json").json
    origins = told["choice"]["origins"]
    assert list(origins) == ["always-keep", "chat.jsonl", "text.txt", "merge order"]
    assert origins["text.txt"] > 0 and origins["merge order"] > 0 and sum(origins.values()) == 6000


def test_weights_and_a_workload_are_taken_as_choose_takes_them(models: Path, tmp_path: Path, vocabtrim: Any) -> None:
    """One command or two: the same ids. A weight of what is no source is refused before anything is counted."""
    counted = [tmp_path / f"{name}.safetensors" for name in ("chat", "text")]
    for source, out in zip(("chat.jsonl", "text.txt"), counted, strict=True):
        assert vocabtrim("count", models / source, "--tokenizer", models / "target", "--out", out).code == 0
    ways = [["--weight", "text.txt=2", "--weight", "chat.jsonl=1"], ["--workload", models / "text.txt"]]
    ways.append(["--other-work", "0"])
    found = []
    for number, way in enumerate(ways):
        cut = vocabtrim(*arguments(models, "eagle", tmp_path / str(number)), "--keep", "900", *way)
        assert cut.code == 0, cut.err
        kept = tmp_path / f"{number}.safetensors"
        shared = ["--drafter", models / "eagle", "--target", models / "target", "--keep", "900", "--out", kept]
        assert vocabtrim("choose", *counted, *shared, *way).code == 0
        files = (tmp_path / str(number) / "kept.safetensors", kept)
        once, steps = (KeptVocabulary.load(file).ids.tolist() for file in files)
        assert once == steps
        found.append(once)
    assert len({tuple(ids) for ids in found}) == 3
    refused = vocabtrim(*arguments(models, "eagle", tmp_path / "out"), "--weight", "web=1")
    assert refused.code == 2 and "chat.jsonl, text.txt, merge-order" in refused.err and "Counting" not in refused.err


def test_a_kept_vocabulary_chosen_before_takes_the_place_of_text(models: Path, tmp_path: Path, vocabtrim: Any) -> None:
    """Step by step gives the very weights of the one command."""
    assert vocabtrim(*arguments(models, "eagle", tmp_path / "once"), "--keep", "700").code == 0
    common = ["trim", models / "eagle", "--target", models / "target", "--out", tmp_path / "steps"]
    told = vocabtrim(*common, "--kept", tmp_path / "once" / "kept.safetensors", "--json").json
    assert told["kept_size"] == 700 and told["choice"] is None and told["check"]["ok"]
    once, steps = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "steps"))
    assert once == steps
    neither = vocabtrim(*common[:-1], tmp_path / "other")
    both = vocabtrim(*common[:-1], tmp_path / "other", "--kept", "x", "--calibrate", "y")
    assert neither.code == both.code == 2 and "--calibrate" in neither.err and "give one" in both.err
