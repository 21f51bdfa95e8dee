"""Trimming every drafter kind: kept rows bit for bit, all else byte for byte, read back by other libraries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from drafters import DRAFTERS, some_ids, target
from vocabtrim.checkpoint.costs import available_ids
from vocabtrim.checkpoint.head_ids import head_ids
from vocabtrim.checkpoint.layouts import identify
from vocabtrim.checkpoint.read import open_checkpoint
from vocabtrim.checkpoint.trim import plan_trim, trim
from vocabtrim.errors import CheckpointError, MismatchError, OutputError, UnsupportedError
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

EVERYTHING = np.arange(TINY.vocab)


def load_all(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight of a folder through safetensors or torch, independently of our reader."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        if file.name != "kept.safetensors":
            tensors |= load_file(file)
    for file in [*folder.glob("*.bin"), *folder.glob("*.pt")]:
        tensors |= torch.load(file, weights_only=True)
    return tensors


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and bool(torch.equal(one, other))


def full_heads(name: str, drafter: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """name of the trimmed head -> the full tensor it must be cut from, written down kind by kind."""
    match name.split(",", maxsplit=1)[0]:
        case "independent":
            tied = "tied" in name
            heads = {"lm_head.weight": drafter["model.embed_tokens.weight" if tied else "lm_head.weight"]}
            return heads | ({"lm_head.bias": drafter["lm_head.bias"]} if "bias" in name else {})
        case "EAGLE":
            return {"lm_head.weight": target["lm_head.weight"]}
        case "EAGLE-3":
            return {"lm_head.weight": drafter["lm_head.weight"]}
        case "Medusa":
            prefix, layers = ("medusa_head." if "merged" in name else ""), (2 if "two layers" in name else 1)
            heads = 3 if "two layers" in name else 5
            return {f"{prefix}{i}.{layers}.weight": drafter[f"{prefix}{i}.{layers}.weight"] for i in range(heads)}
    head = {
        "MTP, DeepSeek": f"model.layers.{TINY.layers}.shared_head.head.weight",
        "MTP, Qwen3-Next": "mtp.lm_head.weight",
        "MTP, MiMo": "model.mtp_layers.0.lm_head.weight",
    }[name]
    return {head: drafter.get(head, drafter["lm_head.weight"])}


@pytest.mark.parametrize("name", DRAFTERS)
def test_kept_rows_and_everything_else_survive_bit_for_bit(name: str, tmp_path: Path) -> None:
    """The story: a reader that knows nothing of us loads source and result and compares tensor by tensor."""
    drafter, target_folder = DRAFTERS[name](tmp_path / "drafter"), target(tmp_path / "target")
    present = available_ids(drafter, target_folder)
    kept = some_ids(EVERYTHING if present is None else present, 100)
    done = trim(drafter, kept, target=target_folder, out=tmp_path / "out")

    before, after = load_all(drafter), load_all(tmp_path / "out")
    heads = full_heads(name, before, load_all(target_folder))
    row_of = {int(token): row for row, token in enumerate(EVERYTHING if present is None else present)}
    rows = torch.tensor([row_of[int(token)] for token in kept.ids])
    for head, full in heads.items():
        assert same(after[head], full[rows]), head
        assert after[head].shape[0] == kept.size

    maps = {"d2t", "t2d"} if name.startswith("EAGLE-3") else set()
    if maps:
        assert after["d2t"].dtype == torch.int64 and after["t2d"].dtype == torch.bool
        assert (after["d2t"].numpy() + np.arange(kept.size)).tolist() == kept.ids.tolist()
        assert torch.nonzero(after["t2d"]).flatten().tolist() == kept.ids.tolist()
        assert after["t2d"].shape == (TINY.head_rows,)

    others = after.keys() - heads.keys() - maps
    if name.startswith("MTP"):  # the module alone: the target's own tensors stay where they are
        assert others and all(("mtp" in other) or f"layers.{TINY.layers}." in other for other in others)
    else:
        assert others == before.keys() - heads.keys() - {"d2t", "t2d"}
    assert all(same(after[other], before[other]) for other in others)

    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["draft_vocab_size"] == kept.size == done.kept_size
    assert not config.get("tie_word_embeddings", False)
    assert KeptVocabulary.load(tmp_path / "out" / "kept.safetensors").ids.tolist() == kept.ids.tolist()


@pytest.mark.parametrize("name", DRAFTERS)
def test_trimming_a_trimmed_drafter_composes(name: str, tmp_path: Path) -> None:
    """Cutting to A and then to B inside A gives the very files that cutting to B at once gives."""
    drafter, target_folder = DRAFTERS[name](tmp_path / "drafter"), target(tmp_path / "target")
    present = available_ids(drafter, target_folder)
    wide = some_ids(EVERYTHING if present is None else present, 120)
    narrow = KeptVocabulary(wide.ids[::3].copy(), wide.target_vocab)
    trim(drafter, wide, target=target_folder, out=tmp_path / "wide")
    trim(tmp_path / "wide", narrow, target=target_folder, out=tmp_path / "twice")
    trim(drafter, narrow, target=target_folder, out=tmp_path / "once")
    once, twice = load_all(tmp_path / "once"), load_all(tmp_path / "twice")
    assert once.keys() == twice.keys()
    assert all(same(once[tensor], twice[tensor]) for tensor in once)


def test_a_trimmed_independent_drafter_scores_as_the_full_one(tmp_path: Path) -> None:
    """In transformers, float32: the trimmed head's logits are the full head's at the kept ids, tied or not."""
    from transformers import AutoModelForCausalLM

    for name in ("independent", "independent, tied"):
        drafter = DRAFTERS[name](tmp_path / name)
        kept = some_ids(EVERYTHING, 64)
        trim(drafter, kept, out=tmp_path / f"{name} trimmed")
        full = AutoModelForCausalLM.from_pretrained(drafter, dtype=torch.float32).eval()
        weights = load_file(tmp_path / f"{name} trimmed" / "model.safetensors")
        body = AutoModelForCausalLM.from_pretrained(drafter, dtype=torch.float32).eval()
        missing, unexpected = body.load_state_dict(
            {key: value for key, value in weights.items() if key != "lm_head.weight"}, strict=False
        )
        assert set(missing) <= {"lm_head.weight"} and not unexpected
        prompt = torch.tensor([[1, 7, 300, 45]])
        with torch.no_grad():
            hidden = body.model(prompt).last_hidden_state
            trimmed_logits = hidden @ weights["lm_head.weight"].float().T
            assert torch.allclose(trimmed_logits, full(prompt).logits[..., kept.ids.tolist()], atol=1e-6)


def test_rows_of_a_frequency_ordered_map_are_found_by_id(tmp_path: Path) -> None:
    """A map in frequency order stands beside rows in that order: cutting must look rows up, not assume ascent."""
    ids = np.array([70, 3, 500, 2, 41, 8])
    drafter = shapes.write_eagle3(tmp_path / "drafter", TINY, seed=4, draft_vocab=6)
    weights = load_file(drafter / "model.safetensors")
    weights["d2t"] = torch.from_numpy(ids - np.arange(6))
    del weights["t2d"]
    save_file(weights, drafter / "model.safetensors")
    trim(drafter, KeptVocabulary(np.array([2, 70, 500]), TINY.vocab), out=tmp_path / "out")
    assert same(
        load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"], weights["lm_head.weight"][[3, 0, 2]]
    )


def test_ids_that_a_trained_head_never_had_are_refused(tmp_path: Path) -> None:
    drafter = shapes.write_eagle3(tmp_path / "drafter", TINY, seed=4, draft_vocab=300)
    absent = np.setdiff1d(EVERYTHING, available_ids(drafter))[:1]
    with pytest.raises(MismatchError, match=f"found id {absent[0]}"):
        trim(drafter, KeptVocabulary(absent, TINY.vocab), out=tmp_path / "out")


def test_an_all_zero_map_beside_a_narrow_head_is_refused(tmp_path: Path) -> None:
    drafter = shapes.write_eagle3(tmp_path / "drafter", TINY, seed=4, draft_vocab=300, maps="zero")
    with pytest.raises(CheckpointError, match="all zero"):
        trim(drafter, KeptVocabulary(np.array([1, 2]), TINY.vocab), out=tmp_path / "out")


def test_a_tokenizer_larger_or_much_smaller_than_the_head_is_refused(tmp_path: Path) -> None:
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    for vocab in (TINY.vocab + 1, TINY.vocab // 2):
        with pytest.raises(MismatchError, match="does not fit the head"):
            trim(drafter, KeptVocabulary(np.array([1, 2]), vocab), out=tmp_path / "out")
    trim(drafter, KeptVocabulary(np.array([1, 2]), TINY.vocab - 5), out=tmp_path / "out")  # padding


def test_nan_in_a_kept_row_is_refused_and_named(tmp_path: Path) -> None:
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    weights = load_file(drafter / "model.safetensors")
    weights["lm_head.weight"][77, 5] = float("nan")
    save_file(weights, drafter / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"row 77 of lm_head\.weight .* NaN"):
        trim(drafter, KeptVocabulary(np.array([3, 77, 90]), TINY.vocab), out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and list(tmp_path.glob(".out*")) == []
    trim(drafter, KeptVocabulary(np.array([3, 90]), TINY.vocab), out=tmp_path / "out")  # the row is not kept


def test_an_eagle_drafter_without_its_target_says_what_to_pass(tmp_path: Path) -> None:
    drafter = shapes.write_eagle(tmp_path / "drafter", TINY, seed=3)
    with pytest.raises(CheckpointError, match="--target"):
        plan_trim(drafter, KeptVocabulary(np.array([1]), TINY.vocab))


def test_gemma_4_assistants_are_refused_by_name(tmp_path: Path) -> None:
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    config = json.loads((drafter / "config.json").read_text())
    (drafter / "config.json").write_text(json.dumps(config | {"model_type": "gemma4_assistant"}))
    with pytest.raises(UnsupportedError, match=r"gemma4_assistant.*centroids"):
        trim(drafter, KeptVocabulary(np.array([1]), TINY.vocab), out=tmp_path / "out")


def test_an_output_that_exists_is_left_alone(tmp_path: Path) -> None:
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        trim(drafter, KeptVocabulary(np.array([1]), TINY.vocab), out=tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_files_beside_the_weights_come_along(tmp_path: Path) -> None:
    """Tokenizer, licence and code are copied, the README is kept under another name, other weights stay behind."""
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    for name in ("LICENSE", "README.md", "tokenizer_config.json", "training_args.bin", ".gitattributes"):
        (drafter / name).write_text(name)
    trim(drafter, KeptVocabulary(np.array([1]), TINY.vocab), out=tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"LICENSE", "README.upstream.md", "tokenizer_config.json", "kept.safetensors", "README.md"} <= names
    assert not names & {"training_args.bin", ".gitattributes"}
    assert "head trimmed to 1 ids" in (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in (tmp_path / "out" / "README.md").read_text()  # a card is published


def test_padded_rows_of_a_head_have_no_token(tmp_path: Path) -> None:
    """A head wider than the tokenizer: the mask spans the head, the kept ids stay inside the tokenizer."""
    drafter = shapes.write_eagle3(tmp_path / "drafter", TINY, seed=4, draft_vocab=TINY.vocab, maps=False)
    kept = KeptVocabulary(np.arange(0, 500, 5), 500)
    trim(drafter, kept, out=tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written["t2d"].shape == (TINY.vocab,) and int(written["t2d"].sum()) == kept.size
    assert head_ids(identify(open_checkpoint(tmp_path / "out"))).width == TINY.vocab


def test_a_tied_heads_bias_is_cut_along(tmp_path: Path) -> None:
    """A tied model may still have lm_head.bias: it stands beside no weight of that name."""
    drafter = DRAFTERS["independent, tied"](tmp_path / "drafter")
    weights = load_file(drafter / "model.safetensors")
    weights["lm_head.bias"] = torch.randn(TINY.head_rows).bfloat16()
    save_file(weights, drafter / "model.safetensors")
    kept = some_ids(EVERYTHING, 50)
    trim(drafter, kept, out=tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert same(after["lm_head.bias"], weights["lm_head.bias"][kept.ids.tolist()])
    assert same(after["lm_head.weight"], weights["model.embed_tokens.weight"][kept.ids.tolist()])


def test_the_original_card_survives_a_second_trim_and_stale_maps_stay_behind(tmp_path: Path) -> None:
    drafter = shapes.write_eagle3(tmp_path / "drafter", TINY, seed=4, draft_vocab=300)
    (drafter / "README.md").write_text("the author's own words")
    np.save(drafter / "d2t.npy", np.arange(300))
    ids = np.sort(available_ids(drafter))
    trim(drafter, KeptVocabulary(ids[:100].copy(), TINY.vocab), out=tmp_path / "once")
    trim(tmp_path / "once", KeptVocabulary(ids[:50].copy(), TINY.vocab), out=tmp_path / "twice")
    for out in ("once", "twice"):
        assert (tmp_path / out / "README.upstream.md").read_text() == "the author's own words"
        assert not (tmp_path / out / "d2t.npy").exists()


@pytest.mark.parametrize("embedding", ["wte", "transformer.wte", "model.decoder.embed_tokens", "gpt_neox.embed_in"])
def test_other_families_names_are_known(embedding: str, tmp_path: Path) -> None:
    """GPT-2 as the hub has it, OPT, GPT-NeoX: tied, under names of their own."""
    (tmp_path / "drafter").mkdir()
    weights = {f"{embedding}.weight": torch.randn(64, 8), "h.0.attn.c_attn.weight": torch.randn(8, 24)}
    save_file(weights, tmp_path / "drafter" / "model.safetensors")
    (tmp_path / "drafter" / "config.json").write_text(json.dumps({"vocab_size": 64, "tie_word_embeddings": True}))
    kept = KeptVocabulary(np.array([1, 5, 60]), 64)
    trim(tmp_path / "drafter", kept, out=tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert same(after["lm_head.weight"], weights[f"{embedding}.weight"][[1, 5, 60]])
