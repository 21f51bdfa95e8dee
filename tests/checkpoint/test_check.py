"""Every rule of `check` finds its fault, and sound drafters of every kind pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from drafters import DRAFTERS, some_ids, target
from vocabtrim.checkpoint.check import check
from vocabtrim.checkpoint.costs import available_ids
from vocabtrim.checkpoint.trim import trim
from vocabtrim.testbed import shapes
from vocabtrim.testbed.builtin import BUILTIN, TOKENIZER
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary


def rules(path: Path, target: Path | None = None) -> set[str]:
    return {problem.rule for problem in check(path, target).problems}


def notes(path: Path, target: Path | None = None) -> set[str]:
    return {note.rule for note in check(path, target).notes}


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


# What a trimmed folder of each kind says of engines that do not take it as it is.
SERVING = {
    "EAGLE-1/2": {"serve.own-head"},
    "MTP": {"serve.own-head"},
    "EAGLE-3": {"serve.rejection-sampling", "serve.kept-file"},
    "independent": {"serve.independent"},
    "Medusa": set(),
}


@pytest.mark.parametrize("name", DRAFTERS)
def test_published_and_trimmed_drafters_pass(name: str, tmp_path: Path) -> None:
    drafter, target_folder = DRAFTERS[name](tmp_path / "drafter"), target(tmp_path / "target")
    if "zero map" not in name:
        assert check(drafter, target_folder).ok, check(drafter, target_folder)
    present = available_ids(drafter, target_folder)
    kept = some_ids(np.arange(TINY.vocab) if present is None else present, 100)
    trim(drafter, kept, target=target_folder, out=tmp_path / "out")
    report = check(tmp_path / "out", target_folder)
    assert report.ok, report.problems
    assert {note.rule for note in report.notes if note.rule.startswith("serve.")} == SERVING[report.kind]


@pytest.fixture
def eagle3(tmp_path: Path) -> Path:
    """A published EAGLE-3 drafter whose trained head has 300 rows."""
    return shapes.write_eagle3(tmp_path / "eagle3", TINY, seed=4, draft_vocab=300)


def test_map_faults_of_a_published_drafter(eagle3: Path, tmp_path: Path) -> None:
    """One fault at a time, each undone before the next."""
    whole = load_file(eagle3 / "model.safetensors")
    faults: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
        "map.missing": lambda w: (w.pop("d2t"), w.pop("t2d"), w.__setitem__("t2d", torch.ones(512, dtype=torch.bool))),
        "map.zero": lambda w: (w["d2t"].zero_(), w.pop("t2d")),
        "map.range": lambda w: w["d2t"].__setitem__(-1, 600),
        "map.duplicate": lambda w: w["d2t"].__setitem__(5, int(w["d2t"][4]) - 1),
        "map.length": lambda w: w.__setitem__("d2t", w["d2t"][:-1].clone()),
        "map.popcount": lambda w: w["t2d"].__setitem__(int(torch.nonzero(~w["t2d"])[0]), True),
        "map.unsorted": lambda w: w["d2t"].__setitem__(slice(0, 2), torch.stack([w["d2t"][1] + 1, w["d2t"][0] - 1])),
    }
    for rule, fault in faults.items():
        broken = {key: value.clone() for key, value in whole.items()}
        fault(broken)
        if rule == "map.missing":
            del broken["t2d"]
        save_file(broken, eagle3 / "model.safetensors")
        assert rule in rules(eagle3), rule
    save_file(whole, eagle3 / "model.safetensors")
    assert rules(eagle3) == set()


def test_mask_and_offsets_that_name_other_ids_disagree(eagle3: Path) -> None:
    def swap(weights: dict[str, torch.Tensor]) -> None:
        mask = weights["t2d"]
        on, off = int(torch.nonzero(mask)[0]), int(torch.nonzero(~mask)[0])
        mask[on], mask[off] = False, True

    edit_weights(eagle3, swap)
    assert rules(eagle3) == {"map.disagree"}


def test_a_frequency_ordered_map_without_mask_is_a_note(eagle3: Path) -> None:
    """Engines take any order; readers of a mask do not."""

    def shuffle(weights: dict[str, torch.Tensor]) -> None:
        ids = weights["d2t"] + torch.arange(300)
        weights["d2t"] = ids.flip(0) - torch.arange(300)
        del weights["t2d"]

    edit_weights(eagle3, shuffle)
    assert rules(eagle3) == set() and "map.unsorted" in notes(eagle3)


def test_config_faults(eagle3: Path) -> None:
    edit_config(eagle3, draft_vocab_size=None)
    assert rules(eagle3) == {"config.draft_vocab_size"}
    edit_config(eagle3, draft_vocab_size=299)
    assert rules(eagle3) == {"config.draft_vocab_size"}
    edit_config(eagle3, draft_vocab_size=300, tie_word_embeddings=True)
    assert rules(eagle3) == {"config.tied"}


def test_a_head_of_the_wrong_width_or_another_target(eagle3: Path, tmp_path: Path) -> None:
    edit_config(eagle3, hidden_size=48)
    assert rules(eagle3) == {"head.width"}
    edit_config(eagle3, hidden_size=64, vocab_size=1024)
    edit_weights(eagle3, lambda weights: weights.pop("t2d"))
    assert rules(eagle3, target(tmp_path / "target")) == {"config.vocab_size"}


def test_damaged_rows_are_named_by_row_and_id(eagle3: Path) -> None:
    ids = available_ids(eagle3)
    edit_weights(eagle3, lambda weights: weights["lm_head.weight"].__setitem__((9, 3), float("inf")))
    (problem,) = check(eagle3).problems
    assert problem.rule == "head.nonfinite" and f"row 9 (id {ids[9]})" in problem.message


def test_a_map_made_anew_beside_old_rows_is_found(eagle3: Path, tmp_path: Path) -> None:
    """The trap: the map is regenerated, the trained rows stay, and every row is silently repointed."""
    ids = available_ids(eagle3)
    trim(eagle3, KeptVocabulary(np.sort(ids)[:100].copy(), TINY.vocab), out=tmp_path / "out")
    other = KeptVocabulary(np.sort(ids)[50:150].copy(), TINY.vocab)

    def regenerate(weights: dict[str, torch.Tensor]) -> None:
        weights["d2t"] = torch.tensor((other.ids - np.arange(100)).tolist())
        weights["t2d"] = torch.zeros(512, dtype=torch.bool)
        weights["t2d"][other.ids.tolist()] = True

    edit_weights(tmp_path / "out", regenerate)
    assert rules(tmp_path / "out") == {"map.changed"}
    other.save(tmp_path / "out" / "kept.safetensors")
    assert rules(tmp_path / "out") == {"map.changed"}


def test_rows_that_do_not_match_the_map_are_found_by_the_target(tmp_path: Path) -> None:
    """An EAGLE head is the target's: with the target at hand every row is compared, hashes or not."""
    target_folder = target(tmp_path / "target")
    drafter = shapes.write_eagle(tmp_path / "eagle", TINY, seed=3)
    trim(drafter, some_ids(np.arange(TINY.vocab), 100), target=target_folder, out=tmp_path / "out")

    def roll(weights: dict[str, torch.Tensor]) -> None:
        weights["lm_head.weight"][40:60] = weights["lm_head.weight"][41:61].clone()

    edit_weights(tmp_path / "out", roll)
    assert rules(tmp_path / "out") == {"head.changed"}
    edit_config(tmp_path / "out", vocabtrim=None)
    assert rules(tmp_path / "out") == set()
    (problem,) = check(tmp_path / "out", target_folder).problems
    assert problem.rule == "head.rows" and "row 40 " in problem.message


def test_heads_cut_to_different_sizes(tmp_path: Path) -> None:
    drafter = shapes.write_medusa(tmp_path / "medusa", TINY, seed=5, container="safetensors")
    weights = load_file(drafter / "medusa_lm_head.safetensors")
    weights["3.1.weight"] = weights["3.1.weight"][:400].clone()
    save_file(weights, drafter / "medusa_lm_head.safetensors")
    assert "head.rows" in rules(drafter)


def test_medusa_config_that_says_fewer_heads_is_a_note(tmp_path: Path) -> None:
    assert "config.medusa_num_heads" in notes(shapes.write_medusa(tmp_path / "medusa", TINY, seed=5, heads=5))


def test_gemma_4_assistants_are_named(tmp_path: Path) -> None:
    drafter = shapes.write_independent(tmp_path / "d", TINY, seed=2)
    edit_config(drafter, model_type="gemma4_unified_assistant")
    assert rules(drafter) == {"kind.refused"}


@pytest.fixture(scope="module")
def builtin_target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target with a real tokenizer: stop ids 16370 and 16368, chat template, a padded head."""
    return shapes.write_target(tmp_path_factory.mktemp("builtin") / "target", BUILTIN, seed=1, tokenizer=TOKENIZER)


def test_stop_ids_and_padded_rows_of_a_token_map(builtin_target: Path, tmp_path: Path) -> None:
    """FR-Spec's script keeps one stop id of several, and writes one entry twice with a BOS-adding tokenizer."""
    torch.save([5, 9, 1, *BUILTIN.eos], tmp_path / "good.pt")
    torch.save([5, 9, 1, BUILTIN.eos[0]], tmp_path / "one stop.pt")
    torch.save([5, 9, 5, *BUILTIN.eos], tmp_path / "twice.pt")
    torch.save([5, 9, BUILTIN.head_rows - 1, *BUILTIN.eos], tmp_path / "padded.pt")
    torch.save([5, 9, BUILTIN.head_rows, *BUILTIN.eos], tmp_path / "outside.pt")
    assert rules(tmp_path / "good.pt", builtin_target) == set()
    assert {"serve.tensor-parallel", "map.unsorted"} <= notes(tmp_path / "good.pt", builtin_target)
    (missing,) = check(tmp_path / "one stop.pt", builtin_target).problems
    assert missing.rule == "stop.missing" and str(BUILTIN.eos[1]) in missing.message
    assert rules(tmp_path / "twice.pt", builtin_target) == {"map.duplicate"}
    assert rules(tmp_path / "padded.pt", builtin_target) == {"map.padded-row"}
    assert rules(tmp_path / "outside.pt", builtin_target) == {"map.range"}


def test_a_kept_vocabulary_of_another_tokenizer(builtin_target: Path, tmp_path: Path) -> None:
    KeptVocabulary(np.array(sorted([3, *BUILTIN.eos])), BUILTIN.vocab, "0" * 64).save(tmp_path / "kept.safetensors")
    assert "tokenizer.other" in rules(tmp_path / "kept.safetensors", builtin_target)


def test_a_quantized_target_head_is_noted_beside_a_token_map(builtin_target: Path, tmp_path: Path) -> None:
    import shutil

    quantized = tmp_path / "target"
    shutil.copytree(builtin_target, quantized)
    edit_weights(quantized, lambda weights: weights.__setitem__("lm_head.weight_scale", torch.ones(1)))
    torch.save([5, 9, *BUILTIN.eos], tmp_path / "map.pt")
    assert "serve.quantized-head" in notes(tmp_path / "map.pt", quantized)


def test_the_command_exits_1_on_a_problem_and_0_on_notes(eagle3: Path, vocabtrim: Any) -> None:
    assert vocabtrim("check", eagle3).code == 0
    edit_config(eagle3, draft_vocab_size=None)
    run = vocabtrim("check", eagle3, "--json")
    assert run.code == 1 and run.json["ok"] is False
    assert run.json["problems"][0].keys() == {"rule", "message", "remedy"}


def test_a_mask_of_another_length_than_the_vocabulary(eagle3: Path, tmp_path: Path) -> None:
    """Compared with the config and the target, not with itself."""
    edit_weights(eagle3, lambda weights: weights.__setitem__("t2d", weights["t2d"][:-20].clone()))
    assert "map.length" in rules(eagle3) and "map.length" in rules(eagle3, target(tmp_path / "target"))


def test_a_narrow_head_without_map_or_vocab_size_is_told_by_the_target(eagle3: Path, tmp_path: Path) -> None:
    """vLLM would draft ids 0 and on; only the target tells that there are more."""
    edit_weights(eagle3, lambda weights: (weights.pop("d2t"), weights.pop("t2d")))
    edit_config(eagle3, vocab_size=None)
    assert "map.missing" in rules(eagle3, target(tmp_path / "target"))


def test_weights_without_a_config_are_no_map(eagle3: Path, vocabtrim: Any) -> None:
    (eagle3 / "config.json").unlink()
    run = vocabtrim("check", eagle3)
    assert run.code == 2 and "has no config.json" in run.err


@pytest.mark.parametrize(
    ("layout", "missing"),
    [
        ("EAGLE", "fc.bias"),
        ("EAGLE", "layers.0.post_attention_layernorm.weight"),
        ("EAGLE-3, trimmed head", "norm.weight"),
        ("EAGLE-3, trimmed head", "midlayer.hidden_norm.weight"),
    ],
)
def test_drafters_with_a_hole_are_refused(layout: str, missing: str, tmp_path: Path, vocabtrim: Any) -> None:
    drafter = DRAFTERS[layout](tmp_path / "drafter")
    edit_weights(drafter, lambda weights: weights.pop(missing))
    run = vocabtrim("check", drafter, "--target", target(tmp_path / "target"))
    assert run.code == 2 and missing in run.err


def test_a_tied_eagle_config_is_found_before_any_trim(tmp_path: Path) -> None:
    """SGLang cuts the head by a token map and then ties it."""
    drafter = shapes.write_eagle(tmp_path / "eagle", TINY, seed=3)
    edit_config(drafter, tie_word_embeddings=True)
    assert rules(drafter, target(tmp_path / "target")) == {"config.tied"}


def test_a_trimmed_independent_drafter_tied_again(tmp_path: Path) -> None:
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    trim(drafter, some_ids(np.arange(TINY.vocab), 100), out=tmp_path / "out")
    edit_config(tmp_path / "out", tie_word_embeddings=True)
    assert rules(tmp_path / "out") == {"config.tied"}


def test_a_kept_file_cut_short_is_a_problem_not_a_crash(tmp_path: Path, vocabtrim: Any) -> None:
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    trim(drafter, some_ids(np.arange(TINY.vocab), 100), out=tmp_path / "out")
    kept = tmp_path / "out" / "kept.safetensors"
    kept.write_bytes(kept.read_bytes()[:-40])
    run = vocabtrim("check", tmp_path / "out", "--json")
    assert run.code == 1 and [problem["rule"] for problem in run.json["problems"]] == ["map.changed"]


def test_a_packed_target_head_is_noted_beside_a_token_map(tmp_path: Path) -> None:
    folder = target(tmp_path / "target")

    def pack(weights: dict[str, torch.Tensor]) -> None:
        del weights["lm_head.weight"]
        weights["lm_head.weight_packed"] = torch.zeros(512, 8, dtype=torch.int32)
        weights["lm_head.weight_scale"] = torch.ones(512, 1)

    edit_weights(folder, pack)
    torch.save([2, 5, 9], tmp_path / "map.pt")
    assert "serve.quantized-head" in notes(tmp_path / "map.pt", folder)


def test_stop_ids_are_the_targets_even_where_its_tokenizer_lies_elsewhere(
    builtin_target: Path, tmp_path: Path, vocabtrim: Any
) -> None:
    """A generation config may stop at ids that no tokenizer file calls a stop token."""
    import shutil

    bare = tmp_path / "target"
    shutil.copytree(builtin_target, bare)
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).rename(tokenizer / name)
    (bare / "generation_config.json").write_text(json.dumps({"eos_token_id": [*BUILTIN.eos, 5000]}))
    shapes.write_eagle(tmp_path / "eagle", BUILTIN, seed=3)
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 200)
    common = ["--target", bare, "--tokenizer", tokenizer, "--calibrate", tmp_path / "text.txt", "--heldout", "0"]
    run = vocabtrim("trim", tmp_path / "eagle", *common, "--keep", "100", "--out", tmp_path / "out", "--json")
    assert run.code == 0, run.err
    assert run.json["choice"]["always_keep"]["5000"] == "stop token"
    assert 5000 in KeptVocabulary.load(tmp_path / "out" / "kept.safetensors").ids
    torch.save([5, 9, *BUILTIN.eos], tmp_path / "map.pt")
    (missing,) = check(tmp_path / "map.pt", bare).problems
    assert missing.rule == "stop.missing" and "[5000]" in missing.message
