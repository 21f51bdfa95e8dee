"""`vocabtrim generate` on what does not belong together or cannot be: one line that says both sides, exit code 2."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hostile
import vocabtrim as vt
from conftest import assert_bad_input
from vocabtrim.testbed import shapes
from vocabtrim.testbed.builtin import BUILTIN, TOKENIZER
from vocabtrim.testbed.shapes import ModelShape
from vocabtrim.vocabulary.kept import KeptVocabulary

# The built-in tokenizer's ids; four layers, of which EAGLE-3 can read three.
SHAPE = replace(
    BUILTIN, hidden=32, intermediate=64, layers=4, heads=2, kv_heads=1, head_dim=16, max_positions=64, dtype="float32"
)
TARGET_SEED = 1

MAKERS: dict[str, Callable[[Path, ModelShape], Path]] = {
    "independent": lambda out, shape: shapes.write_independent(out, shape, seed=2, tokenizer=TOKENIZER),
    "EAGLE": lambda out, shape: shapes.write_eagle(out, shape, seed=3),
    "EAGLE-3": lambda out, shape: shapes.write_eagle3(
        out, shape, seed=4, draft_vocab=shape.head_rows, kept_ids=np.arange(shape.head_rows), maps=False
    ),
    "Medusa": lambda out, shape: shapes.write_medusa(out, shape, seed=5, heads=3, container="safetensors"),
}
KINDS = list(MAKERS)


def write_target(out: Path, shape: ModelShape = SHAPE, seed: int = TARGET_SEED) -> Path:
    return shapes.write_target(out, shape, seed=seed, tokenizer=TOKENIZER)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """target/, and a good drafter of every kind, full and, as KIND-trimmed/, cut to 2,000 ids."""
    folder = tmp_path_factory.mktemp("world")
    write_target(folder / "target")
    ids = np.union1d(np.arange(2000), SHAPE.eos).astype(np.int64)
    for kind, make in MAKERS.items():
        make(folder / kind, SHAPE)
        vt.trim(
            folder / kind, KeptVocabulary(ids, SHAPE.vocab), target=folder / "target", out=folder / f"{kind}-trimmed"
        )
    return folder


@pytest.fixture
def generate(vocabtrim: Any, world: Path) -> Any:
    """Run the verb; `target` and `drafter` as paths, other options as they are."""

    def call(*options: object, prompt: str = "Hello", target: Path | None = None, drafter: Path | None = None) -> Any:
        drafting = [] if drafter is None else ["--drafter", drafter]
        common = ["generate", prompt, "--target", target or world / "target", *drafting, "--dtype", "float32"]
        return vocabtrim(*common, "--max-new-tokens", 6, *options)

    return call


@pytest.fixture
def refused(generate: Any) -> Any:
    def call(*options: object, facts: tuple[str, ...], **where: Any) -> None:
        assert_bad_input(generate(*options, **where), *facts)

    return call


def copied(folder: Path, out: Path) -> Path:
    return Path(shutil.copytree(folder, out))


def respelt(folder: Path, file: str, **entries: object) -> Path:
    """The folder, with entries of a JSON file changed."""
    said = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(said | entries))
    return folder


def spoilt(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """The folder, with tensors changed."""
    file = next(path for path in folder.glob("*.safetensors") if path.name != "kept.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", [*KINDS, *(f"{kind}-trimmed" for kind in KINDS)])
def test_the_good_world_generates(kind: str, world: Path, generate: Any) -> None:
    """What every other test here spoils works when it is not spoilt, and says the same whatever drafts."""
    run = generate("--json", drafter=world / kind)
    assert run.code == 0 and run.json["token_ids"] == generate("--json").json["token_ids"], run.err


# Target and drafter


@pytest.mark.parametrize("kind", KINDS)
def test_a_drafter_of_another_vocabulary(kind: str, world: Path, refused: Any, tmp_path: Path) -> None:
    sizes = (SHAPE.head_rows // 2, SHAPE.head_rows * 2)
    for rows in sizes[:1] if kind == "independent" else sizes:
        drafter = MAKERS[kind](tmp_path / f"{rows}", replace(SHAPE, vocab=min(SHAPE.vocab, rows), head_rows=rows))
        refused(drafter=drafter, facts=(str(drafter), str(rows), str(SHAPE.head_rows)))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_drafter_of_another_hidden_size(kind: str, refused: Any, tmp_path: Path) -> None:
    """An independent drafter is any size that it likes."""
    drafter = MAKERS[kind](tmp_path / "drafter", replace(SHAPE, hidden=64))
    refused(drafter=drafter, facts=("hidden size", "32", "expected"))


def other_tokenizer(folder: Path) -> Path:
    """Two tokens have changed places."""
    said = json.loads((folder / "tokenizer.json").read_text())
    vocab = said["model"]["vocab"]
    one, two = (token for token, number in vocab.items() if number in {300, 301})
    vocab[one], vocab[two] = vocab[two], vocab[one]
    (folder / "tokenizer.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("kind", ["independent", *(f"{kind}-trimmed" for kind in KINDS)])
def test_a_drafter_of_another_tokenizer(kind: str, world: Path, refused: Any, tmp_path: Path) -> None:
    """Trimmed drafters carry their target's tokenizer; an untrimmed EAGLE or Medusa says nothing about it."""
    target = other_tokenizer(copied(world / "target", tmp_path / "target"))
    refused(target=target, drafter=world / kind, facts=("tokenizer", "target"))


def test_a_drafter_trimmed_for_another_target(world: Path, refused: Any, tmp_path: Path) -> None:
    """Of the same shape with other weights. EAGLE-1/2's rows are the target's own, so each is compared; of the other
    kinds the head is the drafter's own, whatever target it was trimmed beside."""
    target = write_target(tmp_path / "target", seed=9)
    refused(target=target, drafter=world / "EAGLE-trimmed", facts=("row 0", "not the target's row 0"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_that_fails_the_check(kind: str, world: Path, refused: Any, tmp_path: Path) -> None:
    drafter = copied(world / f"{kind}-trimmed", tmp_path / "drafter")
    (drafter / "kept.safetensors").unlink()
    if kind == "EAGLE-3":
        spoilt(drafter, lambda tensors: tensors["d2t"].add_(SHAPE.head_rows))
        refused(drafter=drafter, facts=("map", str(SHAPE.head_rows)))
    else:
        refused(drafter=drafter, facts=("map", "2002", str(SHAPE.head_rows)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_kept_vocabulary(kind: str, world: Path, refused: Any, tmp_path: Path) -> None:
    """Another map beside old rows: every row would be silently repointed."""
    drafter = copied(world / f"{kind}-trimmed", tmp_path / "drafter")
    kept = KeptVocabulary.load(drafter / "kept.safetensors")
    replace(kept, ids=np.union1d(kept.ids[1:], [2500])).save(drafter / "kept.safetensors")
    refused(drafter=drafter, facts=("map", "not the one its head rows were cut with"))


def test_drafters_refused_by_name(world: Path, refused: Any, tmp_path: Path) -> None:
    mtp = shapes.write_mtp(tmp_path / "mtp", SHAPE, seed=1, family="deepseek", tokenizer=TOKENIZER)
    refused(drafter=mtp, facts=(str(mtp), "MTP", "expected independent, EAGLE-1/2, EAGLE-3, Medusa"))
    gemma = respelt(copied(world / "independent", tmp_path / "gemma"), "config.json", model_type="gemma4_assistant")
    refused(drafter=gemma, facts=("gemma4_assistant", "centroids"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trimmed", ["", "-trimmed"])
def test_a_quantized_drafter(kind: str, trimmed: str, world: Path, refused: Any, tmp_path: Path) -> None:
    """One matrix of the body in eight bits."""

    def quantize(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if name.endswith(("down_proj.weight", "0.0.linear.weight")))
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)

    drafter = spoilt(copied(world / f"{kind}{trimmed}", tmp_path / "drafter"), quantize)
    refused(drafter=drafter, facts=("quantized", "F8_E4M3", "unquantized"))


@pytest.mark.parametrize(
    ("kind", "name"), [("EAGLE", "layers.0.unknown.weight"), ("EAGLE-3", "midlayer.unknown.weight")]
)
def test_a_drafter_with_a_tensor_that_nobody_reads(
    kind: str, name: str, world: Path, refused: Any, tmp_path: Path
) -> None:
    extra = spoilt(copied(world / kind, tmp_path / "extra"), lambda tensors: tensors.update({name: torch.ones(2)}))
    refused(drafter=extra, facts=(str(extra), name, "expected", "found"))


def test_a_drafter_padded_in_its_own_way_is_no_other_model(generate: Any, tmp_path: Path) -> None:
    """Qwen2.5's small models have 151,936 rows and its large ones 152,064 for one tokenizer: a pair in daily use."""
    plain = generate("--json").json["token_ids"]
    for rows in (SHAPE.vocab, SHAPE.head_rows * 2):
        drafter = MAKERS["independent"](tmp_path / f"{rows}", replace(SHAPE, head_rows=rows))
        assert generate("--json", drafter=drafter).json["token_ids"] == plain


def test_eagle3_on_a_target_of_two_layers(refused: Any, tmp_path: Path) -> None:
    shape = replace(SHAPE, layers=2)
    target, drafter = write_target(tmp_path / "target", shape), MAKERS["EAGLE-3"](tmp_path / "drafter", shape)
    refused(target=target, drafter=drafter, facts=("expected eagle_aux_hidden_state_layer_ids", "2 layers"))


@pytest.mark.parametrize("option", ["--draft-length", "--branching"])
def test_a_medusa_drafter_takes_no_plan(option: str, world: Path, refused: Any) -> None:
    refused(option, 4, drafter=world / "Medusa", facts=("Medusa", f"found {option} 4", f"leave {option} out"))


def test_options_that_contradict_each_other(world: Path, refused: Any) -> None:
    refused("--nodes", 9, "--branching", 1, drafter=world / "EAGLE", facts=("a chain has no number of nodes",))
    refused("--nodes", 9, facts=("without a drafter", "--drafter"))


# Folders


@pytest.mark.parametrize("whose", ["target", "drafter"])
def test_a_folder_that_is_not_there_or_holds_nothing(whose: str, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty"):
        refused(**{whose: tmp_path / name}, facts=(str(tmp_path / name),))


@pytest.mark.parametrize("kind", ["target", *KINDS, *(f"{kind}-trimmed" for kind in KINDS)])
def test_truncated_weights(kind: str, world: Path, refused: Any, tmp_path: Path) -> None:
    bad = copied(world / kind, tmp_path / "bad")
    file = next(path for path in bad.glob("*.safetensors") if path.name != "kept.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    facts = (str(file), "not a sound safetensors file")
    refused(**{"target" if kind == "target" else "drafter": bad}, facts=facts)


@pytest.mark.parametrize("make", hostile.BAD_FOLDERS, ids=lambda make: make.__name__)
def test_incomplete_folders(make: Callable[[Path], Path], refused: Any, tmp_path: Path) -> None:
    refused(drafter=make(tmp_path / "bad"), facts=("bad",))


@pytest.mark.parametrize("whose", ["target", "drafter"])
def test_a_causal_lm_without_one_of_its_tensors(whose: str, world: Path, refused: Any, tmp_path: Path) -> None:
    """The library would make it up, at random, and go on."""
    bad = copied(world / "independent", tmp_path / "bad")
    spoilt(bad, lambda tensors: tensors.pop("model.norm.weight"))  # type: ignore[arg-type, return-value]
    refused(**{whose: bad}, facts=(str(bad), "expected model.norm.weight", "incomplete"))


@pytest.mark.parametrize("whose", ["target", "drafter"])
def test_a_causal_lm_of_a_kind_that_nobody_knows(whose: str, world: Path, refused: Any, tmp_path: Path) -> None:
    """With code beside it that would know: it is not run."""
    bad = copied(world / "independent", tmp_path / "bad")
    respelt(bad, "config.json", model_type="mystery", auto_map={"AutoConfig": "code.Mystery"})
    (bad / "code.py").write_text("open('ran', 'w')\n")
    refused(**{whose: bad}, facts=(str(bad), "transformers cannot load"))


def test_a_target_without_a_tokenizer(world: Path, refused: Any, generate: Any, tmp_path: Path) -> None:
    target = copied(world / "target", tmp_path / "target")
    (target / "tokenizer.json").unlink()
    refused(target=target, facts=("no tokenizer at", str(target), "--tokenizer"))
    assert generate("--tokenizer", TOKENIZER, target=target).code == 0
    (target / "tokenizer.json").write_text("{")
    refused(target=target, facts=("is no tokenizer",))


@pytest.mark.parametrize("stops", [99_999, [99_999, -5], [], None])
def test_stop_ids_outside_the_vocabulary_never_stop(stops: object, world: Path, generate: Any, tmp_path: Path) -> None:
    target = respelt(copied(world / "target", tmp_path / "target"), "generation_config.json", eos_token_id=stops)
    run = generate("--json", target=target)
    assert run.code == 0 and run.json["ended"] == "length"


@pytest.mark.parametrize("stops", ["</s>", [[1]], 1.5, {"a": 1}])
def test_stop_ids_that_are_none(stops: object, world: Path, refused: Any, tmp_path: Path) -> None:
    target = respelt(copied(world / "target", tmp_path / "target"), "generation_config.json", eos_token_id=stops)
    refused(target=target, facts=(str(target), "whole numbers", str(stops)))


# Prompts


def test_empty_prompts(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(prompt="", facts=("the prompt is empty", "expected"))
    for written in (b"", b"\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(written)))
        refused(prompt="-", facts=("the prompt is empty",))


def test_prompts_that_are_no_text(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(prompt="a\udcffb", facts=("no Unicode", "UTF-8"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe")))
    refused(prompt="-", facts=("standard input is no text", "UTF-8"))


def test_a_prompt_longer_than_the_context(world: Path, refused: Any, tmp_path: Path) -> None:
    refused(prompt="word " * 80, facts=("target's context", "at most 64 tokens", "shorten the prompt"))
    refused("--max-new-tokens", 60, facts=("at most 64 tokens", "60 new ones", "ask for at most"))
    narrow = MAKERS["independent"](tmp_path / "narrow", replace(SHAPE, max_positions=8))
    refused(drafter=narrow, facts=("drafter's context", "at most 8 tokens"))


# Numbers


@pytest.mark.parametrize(
    ("option", "value", "facts"),
    [
        ("--temperature", -0.1, ("temperature", "expected 0 or more", "found -0.1")),
        ("--temperature", "nan", ("temperature", "found nan")),
        ("--temperature", "inf", ("temperature", "found inf")),
        ("--top-p", 0, ("top_p", "expected above 0", "found 0")),
        ("--top-p", 1.5, ("top_p", "found 1.5")),
        ("--top-k", -1, ("top_k", "found -1")),
        ("--max-new-tokens", 0, ("--max-new-tokens", "than or equal to 1", "--help")),
        ("--draft-length", 0, ("--draft-length", "than or equal to 1", "--help")),
        ("--nodes", 1, ("--nodes", "than or equal to 2", "--help")),
        ("--branching", 0, ("--branching", "than or equal to 1", "--help")),
        ("--draft-length", 10**9, ("found",)),
        ("--nodes", 10**9, ("nodes", "expected", "found")),
        ("--branching", 10**9, ("branching", f"found {10**9}")),
        ("--branching", 10**20, ("branching", f"found {10**20}")),
        ("--seed", -1, ("--seed", "than or equal to 0", "--help")),
        ("--seed", 2**64, ("--seed", "--help")),
        ("--dtype", "int8", ("dtype", "expected float32", "found int8")),
        ("--device", "cuda:99", ("no device cuda:99", "--device cpu")),
        ("--device", "abacus", ("no device abacus", "--device cpu")),
        ("--device", "meta", ("no device meta", "--device cpu")),
        ("--stop", "", ("stop strings", "found")),
    ],
)
def test_numbers_out_of_range(option: str, value: object, facts: tuple[str, ...], world: Path, refused: Any) -> None:
    refused(option, value, drafter=world / "EAGLE", facts=facts)


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_of_the_target_that_are_no_numbers(
    value: float, temperature: float, world: Path, refused: Any, tmp_path: Path
) -> None:
    target = spoilt(
        copied(world / "target", tmp_path / "target"), lambda tensors: tensors["model.norm.weight"].fill_(value)
    )
    refused("--temperature", temperature, target=target, facts=("the target's logits hold NaN", "expected", "found"))


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("trimmed", ["", "-trimmed"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_the_drafter_that_are_no_numbers(
    kind: str, trimmed: str, temperature: float, world: Path, refused: Any, tmp_path: Path
) -> None:
    """In the body: NaN in a head is found before."""
    tensor = {"EAGLE": "fc.weight", "EAGLE-3": "norm.weight", "Medusa": "0.0.linear.weight"}
    name = tensor.get(kind, "model.norm.weight")
    drafter = spoilt(copied(world / f"{kind}{trimmed}", tmp_path / "drafter"), lambda t: t[name].fill_(torch.nan))
    refused("--temperature", temperature, drafter=drafter, facts=("the drafter's logits hold NaN", "expected", "found"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_with_nan_in_a_row(kind: str, world: Path, refused: Any, tmp_path: Path) -> None:
    name = {"Medusa": "0.1.weight"}.get(kind, "lm_head.weight")
    drafter = spoilt(copied(world / f"{kind}-trimmed", tmp_path / "drafter"), lambda t: t[name][5].fill_(torch.nan))
    refused(drafter=drafter, facts=("row 5 (id 5)", name, "NaN"))
