"""`vocabtrim convert` as a user runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import hostile
from conftest import assert_bad_input
from tiny_tokenizer import train
from vocabtrim.calibrate.tokenizer import tokenizer_facts
from vocabtrim.vocabulary.kept import KeptVocabulary


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    KeptVocabulary(np.array([2, 3, 7]), 10).save(tmp_path / "kept.safetensors")
    return tmp_path / "kept.safetensors"


def test_the_help_shows_an_example_and_the_dialects(vocabtrim: Any) -> None:
    run = vocabtrim("convert", "--help")
    assert run.code == 0 and "Example: vocabtrim convert" in run.out and "llama.cpp" in run.out


def test_to_sglang(vocabtrim: Any, kept: Path, tmp_path: Path) -> None:
    run = vocabtrim("convert", kept, "--to", "token-map", "--out", tmp_path / "map.pt")
    assert run.code == 0 and "3 ids" in run.out and str(tmp_path / "map.pt") in run.out
    assert torch.load(tmp_path / "map.pt", weights_only=True) == [2, 3, 7]


def test_json_says_what_was_read_and_written(vocabtrim: Any, kept: Path, tmp_path: Path) -> None:
    run = vocabtrim("convert", kept, "--to", "d2t-t2d", "--out", tmp_path / "maps.safetensors", "--json")
    assert run.json == {
        "out": str(tmp_path / "maps.safetensors"),
        "from": "ids",
        "to": "d2t-t2d",
        "kept_size": 3,
        "target_vocab": 10,
        "mask_length": 10,
        "ascending": True,
        "warnings": [
            {
                "rule": "map.width",
                "message": "t2d has 10 entries, one per id of the tokenizer; a target's head may have more rows",
                "remedy": "if engines refuse its length, pass --target, or the trimmed folder as PATH: configs tell it",
            }
        ],
    }
    assert load_file(tmp_path / "maps.safetensors")["t2d"].nonzero()[0].tolist() == [2, 3, 7]


def test_a_mask_has_the_heads_width_or_says_that_it_may_not(vocabtrim: Any, tmp_path: Path) -> None:
    """A head of 640 rows for a tokenizer of 408 ids; engines refuse a mask of 408."""
    target = train(tmp_path / "target")
    (target / "config.json").write_text('{"vocab_size": 640}')
    facts = tokenizer_facts(target)
    folder = tmp_path / "trimmed"
    folder.mkdir()
    KeptVocabulary(np.array([2, 3, 7]), facts.vocab_size, facts.hash).save(folder / "kept.safetensors")

    def mask_of(path: Path, *more: object) -> tuple[int, str]:
        run = vocabtrim("convert", path, "--to", "d2t-t2d", "--out", tmp_path / "mask.safetensors", *more)
        assert run.code == 0, run.err
        length = load_file(tmp_path / "mask.safetensors")["t2d"].size
        assert f"t2d of {length:,} entries" in run.out
        return length, run.out

    length, said = mask_of(folder)
    assert length == facts.vocab_size and "warning" in said and "pass --target" in said
    (folder / "config.json").write_text('{"vocab_size": 300}')  # fewer than the tokenizer's: not the target's head
    length, said = mask_of(folder)
    assert length == facts.vocab_size and "pass --target" in said
    (folder / "config.json").write_text('{"vocab_size": 640, "draft_vocab_size": 3}')
    length, said = mask_of(folder)
    assert length == 640 and "warning" not in said
    length, said = mask_of(folder / "kept.safetensors")
    assert length == facts.vocab_size and "warning" in said
    for more in (("--target", target), ("--target-vocab", 640)):
        length, said = mask_of(folder / "kept.safetensors", *more)
        assert length == 640 and "warning" not in said

    back = vocabtrim(
        "convert",
        tmp_path / "mask.safetensors",
        "--to",
        "ids",
        "--target",
        target,
        "--out",
        tmp_path / "back.safetensors",
    )
    assert back.code == 0, back.err
    kept = KeptVocabulary.load(tmp_path / "back.safetensors")
    assert (kept.ids.tolist(), kept.target_vocab, kept.tokenizer_hash) == ([2, 3, 7], facts.vocab_size, facts.hash)


@pytest.mark.parametrize("config", ['{"text_config": "x"}', '{"vocab_size": "x"}', "[]"])
def test_a_target_whose_config_says_no_width(vocabtrim: Any, kept: Path, tmp_path: Path, config: str) -> None:
    target = train(tmp_path / "target")
    (target / "config.json").write_text(config)
    run = vocabtrim("convert", kept, "--to", "d2t", "--target", target, "--out", tmp_path / "d2t.safetensors")
    if config == "[]":
        assert_bad_input(run, "config.json", "list")
    else:
        assert run.code == 0, run.err


def test_from_and_target_vocab_and_sort(vocabtrim: Any, tmp_path: Path) -> None:
    torch.save(torch.tensor([5, 1]), tmp_path / "map.pt")  # as offsets: ids 5, 2
    out = tmp_path / "kept.safetensors"
    arguments = ("convert", tmp_path / "map.pt", "--from", "d2t", "--to", "ids", "--target-vocab", 10, "--out", out)
    assert_bad_input(vocabtrim(*arguments), "entry 0 is id 5, entry 1 id 2", "--sort")
    assert not out.exists()
    assert vocabtrim(*arguments, "--sort").code == 0
    assert KeptVocabulary.load(out).ids.tolist() == [2, 5]


def test_an_all_zero_map_is_converted_with_a_warning(vocabtrim: Any, tmp_path: Path) -> None:
    save_file({"d2t": np.zeros(3, np.int64)}, tmp_path / "d2t.safetensors")
    arguments = ("convert", tmp_path / "d2t.safetensors", "--to", "absolute", "--out", tmp_path / "out.safetensors")
    run = vocabtrim(*arguments)
    assert run.code == 0 and "warning: d2t" in run.out and "all zero" in run.out
    assert vocabtrim(*arguments, "--json").json["warnings"][0]["rule"] == "map.zero"


def test_a_pickle_that_would_run_code_is_one_line(vocabtrim: Any, tmp_path: Path) -> None:
    path = hostile.running_pickle(tmp_path / "map.pt")
    run = vocabtrim("convert", path, "--to", "d2t", "--out", tmp_path / "out.safetensors")
    assert_bad_input(run, "map.pt", "could run code", "nothing of it was run")
    assert [file.name for file in tmp_path.iterdir()] == ["map.pt"]


def test_an_output_that_cannot_be_written_leaves_nothing(vocabtrim: Any, kept: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.pt").mkdir()
    run = vocabtrim("convert", kept, "--to", "token-map", "--out", tmp_path / "folder.pt")
    assert_bad_input(run, "cannot write")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder.pt", "kept.safetensors"]


def test_unknown_dialects_are_wrong_usage(vocabtrim: Any, kept: Path, tmp_path: Path) -> None:
    run = vocabtrim("convert", kept, "--to", "klingon", "--out", tmp_path / "map.pt")
    assert run.code == 2 and "klingon" in run.err and run.out == ""
