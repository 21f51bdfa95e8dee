"""What is written for vLLM, file by file; tests/engines/test_vllm.py serves it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import drafters
import tiny_tokenizer
import vocabtrim as vt
from vllm_runs import entry_point, speculative
from vocabtrim.calibrate.tokenizer import STOP, tokenizer_facts
from vocabtrim.errors import UnsupportedError, VocabTrimError
from vocabtrim.exports.engines import engine_named
from vocabtrim.exports.export import export
from vocabtrim.exports.manifest import MANIFEST, problems_of, read_manifest
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

KEPT = drafters.some_ids(np.arange(TINY.vocab), 100)
EAGLES = ["EAGLE", "EAGLE, .bin, no embedding", "EAGLE, no fc bias"]
INDEPENDENT = ["independent", "independent, sharded, head bias", "independent, tied", "independent, tied, sharded"]
MEDUSAS = ["Medusa, .pt", "Medusa, .safetensors, two layers", "Medusa, merged"]


def cut(tmp_path: Path, kind: str, kept: KeptVocabulary = KEPT) -> tuple[Path, Path]:
    """A trimmed drafter of that kind, and its target."""
    target = drafters.target(tmp_path / "target")
    vt.trim(drafters.DRAFTERS[kind](tmp_path / "drafter"), kept, target=target, out=tmp_path / "cut")
    return tmp_path / "cut", target


def config_of(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return told


# EAGLE-3, as vLLM is installed


@pytest.mark.parametrize("kind", ["EAGLE-3, full head", "EAGLE-3, full head, zero map"])
def test_an_eagle3_folder_holds_what_the_class_loads_and_no_more(kind: str, tmp_path: Path) -> None:
    trimmed, target = cut(tmp_path, kind)
    out = export(trimmed, "vllm", out=tmp_path / "out", target=target).out
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors", MANIFEST}
    written, before = load_file(out / "model.safetensors"), load_file(tmp_path / "drafter" / "model.safetensors")
    assert torch.equal(written.pop("d2t") + torch.arange(KEPT.size), torch.from_numpy(KEPT.ids.copy()))
    assert torch.equal(written.pop("lm_head.weight"), before.pop("lm_head.weight")[KEPT.ids.copy()])
    before.pop("d2t", None)
    assert written.keys() == before.keys()
    assert all(torch.equal(written[name], before[name]) for name in before)
    assert config_of(out)["draft_vocab_size"] == KEPT.size
    assert not list(problems_of(read_manifest(out / MANIFEST)))


def test_a_foreign_map_out_of_order_is_written_in_order(tmp_path: Path) -> None:
    """Row and id stay together."""
    ids = np.random.default_rng(3).permutation(KEPT.ids)
    drafter = shapes.write_eagle3(tmp_path / "drafter", TINY, seed=4, draft_vocab=KEPT.size, kept_ids=ids)
    before = load_file(drafter / "model.safetensors")
    save_file({name: tensor for name, tensor in before.items() if name != "t2d"}, drafter / "model.safetensors")
    out = export(drafter, "vllm", out=tmp_path / "out").out
    written = load_file(out / "model.safetensors")
    rows = {int(token): row for token, row in zip(ids, before["lm_head.weight"], strict=True)}
    for row, token in enumerate((written["d2t"] + torch.arange(KEPT.size)).tolist()):
        assert torch.equal(written["lm_head.weight"][row], rows[token])


def test_a_head_of_all_ids_has_no_map(tmp_path: Path) -> None:
    """vLLM makes room for one only where the draft vocabulary is smaller, and refuses a tensor without room."""
    whole = KeptVocabulary(np.arange(TINY.vocab), TINY.vocab)
    trimmed, target = cut(tmp_path, "EAGLE-3, full head", whole)
    out = export(trimmed, "vllm", out=tmp_path / "out", target=target).out
    assert "d2t" not in load_file(out / "model.safetensors")
    assert np.array_equal(engine_named("vllm").read_ids(out), whole.ids)


def test_an_eagle3_drafter_that_no_class_serves_is_refused(tmp_path: Path) -> None:
    trimmed, target = cut(tmp_path, "EAGLE-3, full head")
    (trimmed / "config.json").write_text(json.dumps(config_of(trimmed) | {"architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(UnsupportedError, match="GPT2LMHeadModel"):
        export(trimmed, "vllm", out=tmp_path / "out", target=target)
    assert not (tmp_path / "out").exists()


# Independent drafters with a vocabulary of their own


@pytest.fixture
def with_tokenizer(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """A target that has a tokenizer, and an independent drafter cut to 200 of its ids."""

    def made(kind: str = "independent, tied", padding: tuple[int, int] = (0, 0)) -> tuple[Path, Path]:
        tokenizer = tiny_tokenizer.train(tmp_path / "tokenizer")
        facts = tokenizer_facts(tokenizer)
        stop = next(token for token, why in facts.always_keep.items() if why == STOP)
        shape = replace(TINY, vocab=facts.vocab_size, eos=(stop,), tie="tied" in kind)
        wide, other = (replace(shape, head_rows=facts.vocab_size + extra) for extra in padding)
        target = shapes.write_target(tmp_path / "target", wide, seed=1, tokenizer=tokenizer)
        drafter = shapes.write_independent(tmp_path / "drafter", other, seed=2, head_bias="bias" in kind)
        ids = np.union1d(np.arange(3, facts.vocab_size, 3), sorted(facts.always_keep)).astype(np.int64)
        vt.trim(drafter, KeptVocabulary(ids, facts.vocab_size, facts.hash), target=target, out=tmp_path / "cut")
        return tmp_path / "cut", target

    return made


def test_embedding_head_and_tokenizer_hold_the_kept_ids_and_one_unknown(
    with_tokenizer: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    trimmed, target = with_tokenizer()
    kept = KeptVocabulary.load(trimmed / "kept.safetensors").ids.copy()
    out = export(trimmed, "vllm", out=tmp_path / "out", target=target).out
    written, table = (
        load_file(out / "model.safetensors"),
        load_file(trimmed / "model.safetensors")["model.embed_tokens.weight"],
    )
    narrow = written["model.embed_tokens.weight"]
    assert torch.equal(narrow[:-1], table[kept])
    others = np.setdiff1d(np.arange(len(table)), kept)
    torch.testing.assert_close(narrow[-1].double(), table[others].double().mean(0), atol=1e-3, rtol=1e-2)
    assert torch.equal(written["lm_head.weight"][:-1], table[kept])
    assert len(written["lm_head.weight"]) == len(narrow) == config_of(out)["vocab_size"] == len(kept) + 1
    theirs, ours = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (target, out))
    assert [ours.id_to_token(row) for row in range(len(kept))] == [theirs.id_to_token(int(token)) for token in kept]
    assert ours.id_to_token(len(kept)) not in theirs.get_vocab()
    stop = config_of(target)["eos_token_id"]
    assert kept[config_of(out)["eos_token_id"]] == stop


def test_tokens_that_vllm_takes_for_one_are_refused(
    with_tokenizer: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    """An added token that begins with a space reads like the one that begins with a space's mark."""
    trimmed, target = with_tokenizer()
    said = json.loads((target / "tokenizer.json").read_text())
    kept = KeptVocabulary.load(trimmed / "kept.safetensors")
    marked = next(token for token, i in said["model"]["vocab"].items() if token.startswith("Ġ") and i in kept.ids)
    said["added_tokens"][-1]["content"] = " " + marked[1:]
    for folder in (target, trimmed):
        (folder / "tokenizer.json").write_text(json.dumps(said))
    other = KeptVocabulary(kept.ids.copy(), kept.target_vocab, tokenizer_facts(target).hash)
    vt.trim(tmp_path / "drafter", other, target=target, out=tmp_path / "again")
    with pytest.raises(UnsupportedError, match="by string"):
        export(tmp_path / "again", "vllm", out=tmp_path / "out", target=target)
    assert not (tmp_path / "out").exists()


# With the plugin


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_an_independent_drafter_keeps_its_whole_embedding(kind: str, tmp_path: Path) -> None:
    trimmed, target = cut(tmp_path, kind)
    out = export(trimmed, "vllm-plugin", out=tmp_path / "out", target=target).out
    written = load_file(out / "model.safetensors")
    before = {name: tensor for file in trimmed.glob("model*.safetensors") for name, tensor in load_file(file).items()}
    assert torch.equal(written.pop("d2t") + torch.arange(KEPT.size), torch.from_numpy(KEPT.ids.copy()))
    assert written.keys() == before.keys()
    assert all(torch.equal(written[name], before[name]) for name in before)
    config = config_of(out)
    assert config["architectures"] == ["VocabtrimLlamaForCausalLM"]
    assert (config["vocab_size"], config["draft_vocab_size"]) == (TINY.vocab, KEPT.size)
    assert config["lm_head_bias"] == ("lm_head.bias" in written)


@pytest.mark.parametrize("padding", [(8, 0), (8, 24)])
def test_a_drafter_padded_otherwise_gets_the_targets_width(
    padding: tuple[int, int], with_tokenizer: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    """vLLM refuses two vocabularies of different width; rows past the tokenizer's ids are never read."""
    trimmed, target = with_tokenizer(padding=padding)
    source = load_file(trimmed / "model.safetensors")["model.embed_tokens.weight"]
    out = export(trimmed, "vllm-plugin", out=tmp_path / "out", target=target).out
    written = load_file(out / "model.safetensors")["model.embed_tokens.weight"]
    ids = tokenizer_facts(target).vocab_size
    assert len(written) == config_of(out)["vocab_size"] == config_of(target)["vocab_size"] == ids + 8
    assert torch.equal(written[:ids], source[:ids])


@pytest.mark.parametrize("kind", EAGLES)
def test_an_eagle_folder_says_whether_fc_has_a_bias(kind: str, tmp_path: Path) -> None:
    """In a word of ours: "bias" means the attention's to vLLM, which would leave those uninitialised."""
    trimmed, target = cut(tmp_path, kind)
    out = export(trimmed, "vllm-plugin", out=tmp_path / "out", target=target).out
    written, before = load_file(out / "model.safetensors"), load_file(trimmed / "model.safetensors")
    assert torch.equal(written.pop("d2t") + torch.arange(KEPT.size), torch.from_numpy(KEPT.ids.copy()))
    assert written.keys() == before.keys()
    assert all(torch.equal(written[name], before[name]) for name in before)
    assert config_of(out)["fc_bias"] == ("fc.bias" in written)
    assert "bias" not in config_of(out)


@pytest.mark.parametrize("kind", MEDUSAS)
def test_medusa_has_the_first_files_names_and_a_token_map(kind: str, tmp_path: Path) -> None:
    trimmed, target = cut(tmp_path, kind)
    out = export(trimmed, "vllm-plugin", out=tmp_path / "out", target=target).out
    written, config = load_file(out / "model.safetensors"), config_of(out)
    assert written.pop("token_map").tolist() == KEPT.ids.tolist()
    heads, layers = config["medusa_num_heads"], config["medusa_num_layers"]
    expected = {f"{head}.{layers}.weight" for head in range(heads)}
    expected |= {f"{h}.{j}.linear.{part}" for h in range(heads) for j in range(layers) for part in ("weight", "bias")}
    assert written.keys() == expected
    assert (
        written[f"0.{layers}.weight"].shape
        == (KEPT.size, TINY.hidden)
        == (config["truncated_vocab_size"], config["hidden_size"])
    )
    assert config["vocab_size"] == TINY.vocab


# What is refused


@pytest.mark.parametrize(
    ("engine", "kind", "told"),
    [
        ("vllm", "EAGLE", "--engine vllm-plugin"),
        ("vllm", "Medusa, .pt", "--engine vllm-plugin"),
        ("vllm", "MTP, MiMo", "--engine sglang"),
        ("vllm", "independent, sharded, head bias", "bias"),
        ("vllm", "independent", "tokenizer"),
        ("vllm-plugin", "EAGLE-3, full head", "--engine vllm "),
        ("vllm-plugin", "MTP, DeepSeek", "--engine sglang"),
    ],
)
def test_what_vllm_cannot_serve_is_refused_with_a_way_out(engine: str, kind: str, told: str, tmp_path: Path) -> None:
    trimmed, target = cut(tmp_path, kind)
    with pytest.raises(VocabTrimError) as refused:
        export(trimmed, engine, out=tmp_path / "out", target=target)
    assert told in str(refused.value) and refused.value.exit_code == 2
    assert {path.name for path in tmp_path.iterdir()} == {"target", "drafter", "cut"}


def test_it_says_how_it_is_served(tmp_path: Path) -> None:
    trimmed, target = cut(tmp_path, "EAGLE")
    serving = export(trimmed, "vllm-plugin", out=tmp_path / "out", target=target).serving
    assert serving.command.startswith(f"vllm serve {target} --speculative-config ")
    assert speculative(serving.command)["model"] == str(tmp_path / "out")
    assert "vllm:spec_decode_num_accepted_tokens" in serving.acceptance
    assert any("must be installed" in warning for warning in serving.warnings)


# The entry point


def test_the_entry_point_is_there_and_loads_nothing_heavy() -> None:
    group, _, target = entry_point()
    module, _, function = target.partition(":")
    assert group == "vllm.general_plugins" and callable(getattr(import_module(module), function))
    program = f"import {module}, sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "vllm", "numpy", "transformers", "safetensors"} & set(run.stdout.split())
