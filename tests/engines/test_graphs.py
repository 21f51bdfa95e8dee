"""Exports for OpenVINO GenAI and ONNX Runtime GenAI, run by those engines: no answer changes, drafts are accepted.

Environments and the variables that name their pythons: docs/engines/openvino.md and docs/engines/onnx-genai.md. Shown
with OpenVINO GenAI 2026.4.1 and optimum-intel 2.2.0, onnxruntime-genai 0.18.0 and onnxruntime 1.32.0.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import vocabtrim as vt
from vocabtrim.decoding.text import TargetText
from vocabtrim.exports.engines import engine_named
from vocabtrim.exports.export import export
from vocabtrim.testbed.demo import chosen_prompts
from vocabtrim.testbed.family import calibration, member

pytestmark = pytest.mark.engine

KEPT, LENGTH, NEW_TOKENS, PROMPTS = 2048, 4, 32, 6
LOWEST = -65504.0
SCRIPTS = {
    "openvino": ("VOCABTRIM_OPENVINO_PYTHON", "openvino_answers.py"),
    "onnx-genai": ("VOCABTRIM_ONNX_PYTHON", "onnx_answers.py"),
}


def trimmed(name: str, out: Path) -> Path:
    counts = vt.count([calibration("target-generated")], tokenizer=member("target"), origin="target-generated")
    kept = vt.choose(counts, keep=KEPT, drafter=member(name), target=member("target")).kept
    assert kept is not None
    return vt.trim(member(name), kept, target=member("target"), out=out).out


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    words = TargetText(member("target"))
    return [words.conversation(prompt.messages) for prompt in chosen_prompts(PROMPTS)]


def served(engine: str, name: str, prompts: list[list[int]], scratch: Path) -> tuple[Path, Path, dict[str, Any]]:
    """The trimmed folder, its export, and what the engine answered."""
    variable, script = SCRIPTS[engine]
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no python of an environment with that engine")
    place = scratch / f"{engine} {name}"
    place.mkdir()
    cut = trimmed(name, place / "cut")
    out = export(cut, engine, out=place / "out", target=member("target")).out
    asked = {"prompts": prompts, "new_tokens": NEW_TOKENS, "draft_length": LENGTH, "probe": prompts[0]}
    (place / "asked.json").write_text(json.dumps(asked))
    command = [python, Path(__file__).with_name(script), member("target"), out, place / "asked.json"]
    done = subprocess.run([*map(str, command), str(place / "told.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return cut, out, json.loads((place / "told.json").read_text())


def our_rounds(cut: Path, prompts: list[list[int]], answers: list[list[int]], **how: Any) -> list[list[vt.Round]]:
    """Those of our own loop, prompt by prompt, which must also say what the engine says; it may leave out a stop id."""
    target = vt.load_target(member("target"), dtype="float32")
    drafter = vt.load_drafter(cut, target, plan=vt.Chain(LENGTH))
    found = [list(vt.decode(target, drafter, prompt, max_new_tokens=NEW_TOKENS, **how)) for prompt in prompts]
    for done, answer in zip(found, answers, strict=True):
        ours = [token for round in done for token in round.tokens]
        assert ours[: len(answer)] == answer and len(ours) - len(answer) <= 1
    return found


def as_many_passes(told: dict[str, Any], rounds: list[list[vt.Round]]) -> None:
    """OpenVINO's target takes as many passes as ours has rounds, but for the first ones: it reads the prompt before the
    first draft is made. Its metric of accepted tokens leaves drafts of the prompt's pass out."""
    for theirs, ours in zip(told["passes"], rounds, strict=True):
        assert abs(theirs - len(ours)) <= 2
    accepted = sum(round.accepted for done in rounds for round in done)
    assert 0.7 * accepted <= told["accepted"] <= accepted
    assert accepted > sum(map(len, rounds)) / 4


def expected_logits(cut: Path, prompt: list[int], scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    """(vocab,) of the same drafter by transformers, and its kept ids."""
    assistant = export(cut, "transformers", out=scratch, target=member("target")).out
    model: Any = AutoModelForCausalLM.from_pretrained(assistant, trust_remote_code=True, dtype=torch.float32)
    with torch.no_grad():
        return model.eval()(torch.tensor([prompt])).logits[0, -1].numpy(), model.lm_head.kept_ids.numpy()


def agrees(logits: list[float], cut: Path, prompt: list[int], scratch: Path, tolerance: float) -> np.ndarray:
    expected, ids = expected_logits(cut, prompt, scratch)
    found = np.array(logits)
    others = np.setdiff1d(np.arange(found.size), ids)
    assert found.size == expected.size and (found[others] == LOWEST).all()
    np.testing.assert_allclose(found[ids], expected[ids], atol=tolerance)
    assert expected[ids].std() > 0.5
    return ids


def test_openvino_drafts_with_an_independent_drafter(prompts: list[list[int]], scratch: Path) -> None:
    cut, out, told = served("openvino", "independent", prompts, scratch)
    assert told["drafted"] == told["plain"]
    assert told["kept"] == KEPT and told["first_output"] == "kept_logits"
    ids = agrees(told["logits"], cut, prompts[0], scratch / "openvino assistant", 2e-2)  # weights of float16
    assert (engine_named("openvino").read_ids(out) == ids).all()
    as_many_passes(told, our_rounds(cut, prompts, told["plain"], stop_ids=()))


def test_openvino_drafts_with_eagle3(prompts: list[list[int]], scratch: Path) -> None:
    cut, out, told = served("openvino", "eagle3", prompts, scratch)
    assert told["drafted"] == told["plain"]
    assert (engine_named("openvino").read_ids(out) == vt.read_map(cut).ids).all()
    as_many_passes(told, our_rounds(cut, prompts, told["plain"], stop_ids=()))


def test_onnx_runtime_drafts_with_an_independent_drafter(prompts: list[list[int]], scratch: Path) -> None:
    cut, out, told = served("onnx-genai", "independent", prompts, scratch)
    assert told["drafted"] == told["plain"]
    hidden = json.loads((cut / "config.json").read_text())["hidden_size"]
    assert told["head"] == [[hidden, KEPT]]
    ids = agrees(told["logits"], cut, prompts[0], scratch / "onnx assistant", 1e-3)
    assert (engine_named("onnx-genai").read_ids(out) == ids).all() and told["ids"] == ids.tolist()
    rounds = [round for done in our_rounds(cut, prompts, told["plain"]) for round in done]
    accepted, stats = sum(round.accepted for round in rounds), told["stats"]
    assert abs(stats["rounds"] - len(rounds)) <= PROMPTS  # the last of a prompt may be cut short
    assert abs(stats["draft_tokens_accepted"] - accepted) <= PROMPTS and accepted > len(rounds) / 4
