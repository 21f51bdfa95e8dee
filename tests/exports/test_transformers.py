"""The exported assistant inside transformers itself: loaded by AutoModelForCausalLM, run by `generate` as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.generation import utils as generation

import drafters
import small_models
import tiny_tokenizer
import vocabtrim as vt
from chi_square import FALSE_ALARM, p_values
from five_ids import PROMPT, FiveIds, Tokens, five_ids
from vocabtrim.calibrate.tokenizer import tokenizer_facts
from vocabtrim.decoding.text import TargetText
from vocabtrim.errors import UnsupportedError
from vocabtrim.exports.export import export
from vocabtrim.exports.manifest import MANIFEST, problems_of, read_manifest
from vocabtrim.testbed import shapes
from vocabtrim.testbed.demo import chosen_prompts
from vocabtrim.testbed.family import calibration, member
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

ENGINE = "transformers"


def loaded(folder: Path, **how: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **how).eval()


class Passes:
    """Counts a model's passes while it is entered, and keeps the widest row of logits."""

    def __init__(self, model: Any) -> None:
        self.model, self.count = model, 0

    def __enter__(self) -> Passes:
        self.hook = self.model.register_forward_hook(self._one)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def _one(self, *_: Any) -> None:
        self.count += 1


# Greedy, on the trained family


def test_greedy_output_is_the_targets_own(tmp_path: Path) -> None:
    """Token for token in float32, and drafts are accepted: a quarter of the passes are saved, and more."""
    length, prompts = 48, 7
    counts = vt.count([calibration("target-generated")], tokenizer=member("target"), origin="target-generated")
    kept = vt.choose(counts, keep=2048, drafter=member("independent"), target=member("target")).kept
    assert kept is not None
    trimmed = vt.trim(member("independent"), kept, target=member("target"), out=tmp_path / "cut").out
    out = export(trimmed, ENGINE, out=tmp_path / "out", target=member("target")).out
    target = AutoModelForCausalLM.from_pretrained(member("target"), dtype=torch.float32).eval()
    assistant = loaded(out, dtype=torch.float32)
    assert assistant.get_output_embeddings().weight.shape == (2048, 128)
    words = TargetText(member("target"))
    emitted = passes = drafted = 0
    for prompt in chosen_prompts(prompts):
        ids = words.conversation(prompt.messages)
        plain = greedy(target, ids, length)
        with Passes(target) as counted, Passes(assistant) as drafting:
            assert greedy(target, ids, length, assistant_model=assistant) == plain
        emitted, passes, drafted = emitted + len(plain), passes + counted.count, drafted + drafting.count
    assert drafted > passes
    assert passes < 0.75 * emitted, (passes, emitted)


def greedy(target: Any, prompt: Sequence[int], length: int, **how: Any) -> list[int]:
    ids = torch.tensor([prompt])
    out = target.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False, **how)
    found: list[int] = out[0, len(prompt) :].tolist()
    return found


# Sampled, against the exact distribution

KEPT = (0, 2, 4)  # of five ids
SAMPLES, LENGTH, SEED = 1_500, 3, 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FiveIds]:
    yield from five_ids(tmp_path_factory.mktemp("five"))


@pytest.fixture(scope="module")
def five_pair(models: FiveIds) -> tuple[Any, Any]:
    """A target of five ids and an assistant with three of them, in float64."""
    models.opened("independent", KEPT)
    out = models.folder / "exported"
    export(models.folder / f"independent {KEPT}", ENGINE, out=out, target=models.target_folder)
    target = AutoModelForCausalLM.from_pretrained(models.target_folder, dtype=torch.float64).eval()
    assistant = loaded(out, dtype=torch.float64)
    assistant.generation_config.update(
        num_assistant_tokens=2, num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0
    )
    return target, assistant


def sampled(target: Any, assistant: Any) -> list[Tokens]:
    """SAMPLES continuations of LENGTH tokens. An id beyond the vocabulary stops none."""
    torch.manual_seed(SEED)
    ids = torch.tensor([PROMPT])
    how = {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 1.0, "eos_token_id": 5, "pad_token_id": 0}
    how |= {"max_new_tokens": LENGTH, "attention_mask": torch.ones_like(ids), "assistant_model": assistant}
    return [tuple(target.generate(ids, **how)[0, len(PROMPT) :].tolist()) for _ in range(SAMPLES)]


def test_sampled_output_has_the_targets_distribution(models: FiveIds, five_pair: tuple[Any, Any]) -> None:
    """1,500 continuations of three tokens, two of them drafted: the first two tokens and the last two, 25 cells each,
    by chi-square against the exact distribution. A table raises a false alarm for one seed in 20,000, the test for one
    in 10,000; the seed is fixed. A chi-square distance of 0.05 is found in 98 cases of 100 (test_sampled.py)."""
    target, assistant = five_pair
    with Passes(assistant) as drafting:
        found = sampled(target, assistant)
    assert drafting.count > SAMPLES
    assert min(p_values(found, models.joint(vt.Sampling(temperature=0.8), LENGTH))) > FALSE_ALARM


@pytest.mark.slow
def test_a_wrong_distribution_is_found(
    models: FiveIds, five_pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the library took the assistant's row for a uniform one: what it drafts is then accepted too often."""
    verify = generation._speculative_sampling

    def flattened(ids: Any, candidate_logits: Any, *rest: Any, **how: Any) -> Any:
        return verify(ids, torch.zeros_like(candidate_logits), *rest, **how)

    monkeypatch.setattr(generation, "_speculative_sampling", flattened)
    assert min(p_values(sampled(*five_pair), models.joint(vt.Sampling(temperature=0.8), LENGTH))) < FALSE_ALARM


def test_constraints_that_allow_no_kept_id(five_pair: tuple[Any, Any]) -> None:
    """What the docs say of them: the library's own keep to it, greedy or sampled; of a caller's, sampling raises."""
    target, assistant = five_pair
    ids = torch.tensor([PROMPT])
    how = {"eos_token_id": 5, "pad_token_id": 0, "max_new_tokens": LENGTH, "attention_mask": torch.ones_like(ids)}
    own = {"prefix_allowed_tokens_fn": lambda *_: [1, 3]}
    assisted = how | {"assistant_model": assistant}
    plain = target.generate(ids, do_sample=False, **how, **own)
    assert torch.equal(target.generate(ids, do_sample=False, **assisted, **own), plain)
    drawn = [target.generate(ids, do_sample=True, **assisted, **own)[0, len(PROMPT) :] for _ in range(20)]
    assert set(torch.cat(drawn).tolist()) == {1, 3}
    allowed = torch.tensor([False, True, False, True, False])
    callers = [lambda _, scores: scores.masked_fill(~allowed, -torch.inf)]
    with pytest.raises(RuntimeError, match="probability"):
        target.generate(ids, do_sample=True, logits_processor=callers, **assisted)


# The folder

FAMILIES: dict[str, dict[str, Any]] = {
    "LlamaConfig": {"tie_word_embeddings": False},
    "Qwen3Config": {"tie_word_embeddings": True, "head_dim": 8},
    "Gemma2Config": {"head_dim": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 50.0},
    "GPTNeoXConfig": {},
    "GPT2Config": {},
    "OPTConfig": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "PhiConfig": {},
    "CohereConfig": {"logit_scale": 0.25},
    "GraniteConfig": {"logits_scaling": 4.0},
}
VOCAB, IDS = 64, (1, 5, 6, 17, 40, 63)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_full_model(family: str, tmp_path: Path) -> None:
    """At kept ids, whatever the model does behind its head: scale it, cap it, add a bias. -inf at all others."""
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "pad_token_id": 0}
    torch.manual_seed(1)
    config = getattr(transformers, family)(**sizes | {"bos_token_id": 1, "eos_token_id": 2} | FAMILIES[family])
    full = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if full.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(full.get_output_embeddings().bias)
    full.save_pretrained(tmp_path / "full")
    vt.trim(tmp_path / "full", KeptVocabulary(np.array(IDS), VOCAB), out=tmp_path / "cut")
    assistant = loaded(export(tmp_path / "cut", ENGINE, out=tmp_path / "out").out)
    ids = torch.tensor([[3, 1, 4, 1, 59, 26, 5]])
    with torch.no_grad():
        expected, found = full(ids).logits, assistant(ids).logits
        torch.testing.assert_close(assistant(ids, logits_to_keep=1).logits, found[:, -1:])
    others = sorted(set(range(VOCAB)) - set(IDS))
    torch.testing.assert_close(found[..., IDS], expected[..., IDS])
    assert found.shape == expected.shape and (found[..., others] == -torch.inf).all()
    assert expected[..., others].isfinite().all() and expected.std() > 0.1


def test_a_full_head_is_the_drafter_itself(tmp_path: Path) -> None:
    """Kept = all but one id: every logit but that one's is the untrimmed drafter's."""
    full = shapes.write_independent(tmp_path / "full", replace(TINY, dtype="float32"), seed=2, shards=3)
    ids = np.arange(1, TINY.vocab)
    vt.trim(full, KeptVocabulary(ids, TINY.vocab), out=tmp_path / "cut")
    assistant = loaded(export(tmp_path / "cut", ENGINE, out=tmp_path / "out").out)
    plain = AutoModelForCausalLM.from_pretrained(full).eval()
    prompt = torch.tensor([[5, 9, 2, 44]])
    with torch.no_grad():
        assert torch.equal(assistant(prompt).logits[..., 1:], plain(prompt).logits[..., 1 : TINY.vocab])


@pytest.mark.parametrize("rows", [424, 410])
def test_a_head_padded_otherwise_than_the_targets(rows: int, tmp_path: Path) -> None:
    """As Qwen2.5's: the library compares vocab_size, so the embedding grows or shrinks to the target's rows."""
    tokenizer = tiny_tokenizer.train(tmp_path / "tokenizer")  # 408 ids
    vocab = tokenizer_facts(tokenizer).vocab_size
    drafter_shape = replace(TINY, dtype="float32", vocab=vocab, head_rows=416)
    target_shape = replace(drafter_shape, layers=4, head_rows=rows)
    target_folder = shapes.write_target(tmp_path / "target", target_shape, seed=1, tokenizer=tokenizer)
    full = shapes.write_independent(tmp_path / "full", drafter_shape, seed=2, tokenizer=tokenizer)
    cut = small_models.trim(full, target_folder, [2, *range(1, vocab, 2)], vocab, tmp_path / "cut")
    assistant = loaded(export(cut, ENGINE, out=tmp_path / "out", target=target_folder).out)
    target = AutoModelForCausalLM.from_pretrained(target_folder).eval()
    assert assistant.config.vocab_size == target.config.vocab_size == rows != drafter_shape.head_rows
    prompt = [3, 1, 4, 1, 5]
    with Passes(assistant) as drafting:
        assert greedy(target, prompt, 8, assistant_model=assistant) == greedy(target, prompt, 8)
    assert drafting.count


def test_without_its_code_the_folder_is_refused(tmp_path: Path) -> None:
    """Loaded as plain Llama, a head of k rows must not pass for one of V."""
    cut = cut_independent(tmp_path)
    out = export(cut, ENGINE, out=tmp_path / "out").out
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(out)


def test_ids_are_read_as_the_class_reads_them(tmp_path: Path) -> None:
    """A folder whose ids were changed is found by the manifest, and drafts other ids in the library."""
    cut = cut_independent(tmp_path)
    out = export(cut, ENGINE, out=tmp_path / "out").out
    assert not list(problems_of(read_manifest(out / MANIFEST)))
    tensors = load_file(out / "model.safetensors")
    tensors["lm_head.kept_ids"] += 1
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    assert [problem.rule for problem in problems_of(read_manifest(out / MANIFEST))] == ["export.changed"]
    assert torch.equal(loaded(out).lm_head.kept_ids, torch.arange(2, TINY.vocab, 3) + 1)


def cut_independent(tmp_path: Path) -> Path:
    target_folder = drafters.target(tmp_path / "target")
    full = drafters.DRAFTERS["independent"](tmp_path / "full")
    return small_models.trim(full, target_folder, range(2, TINY.vocab, 3), TINY.vocab, tmp_path / "cut")


# What is refused


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("EAGLE", "candidate generators"),
        ("EAGLE-3, trimmed head", "candidate generators"),
        ("Medusa, .pt", "candidate generators"),
        ("MTP, Qwen3-Next", "the target's whole head"),
    ],
)
def test_other_kinds_are_refused_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    target_folder = drafters.target(tmp_path / "target")
    full = drafters.DRAFTERS[name](tmp_path / "full")
    pool = vt.read_map(full).ids if name.startswith("EAGLE-3") else np.arange(TINY.vocab)
    cut = vt.trim(full, drafters.some_ids(pool, 60), target=target_folder, out=tmp_path / "cut").out
    with pytest.raises(UnsupportedError, match=f"{reason}.*independent"):
        export(cut, ENGINE, out=tmp_path / "out", target=target_folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("entry", "fact"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "theirs.Model"}}, "model code of its own"),
        ({"model_type": "never_heard_of"}, "never_heard_of"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ({"text_config": {"vocab_size": TINY.vocab}}, "text_config"),
    ],
)
def test_models_that_the_library_would_not_run_as_they_are(entry: dict[str, Any], fact: str, tmp_path: Path) -> None:
    cut = cut_independent(tmp_path)
    config = json.loads((cut / "config.json").read_text())
    (cut / "config.json").write_text(json.dumps(config | entry))
    with pytest.raises(UnsupportedError, match=fact):
        export(cut, ENGINE, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_family_whose_tensors_are_merged_on_loading(tmp_path: Path) -> None:
    """Mixtral's experts stand one by one in its files. The library merges them, but not for a class of ours."""
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1}
    config = transformers.MixtralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, num_local_experts=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "full")
    vt.trim(tmp_path / "full", KeptVocabulary(np.array(IDS), VOCAB), out=tmp_path / "cut")
    with pytest.raises(UnsupportedError, match="MixtralForCausalLM has other tensors"):
        export(tmp_path / "cut", ENGINE, out=tmp_path / "out")
