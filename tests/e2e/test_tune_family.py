"""`tune` on the trained family: what it predicts of acceptance is what live answers show, and its verdict is that of
what it measured. How fast anything is hangs on the machine, so no time is asserted; bench/tune.py does that.

Beside the built-in target, one whose added layers make it slow and change little: drafting may pay there.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import vocabtrim as vt
from vocabtrim.checkpoint.tuned import read_tuned
from vocabtrim.decoding.drafters.choose_plan import choose_plan
from vocabtrim.decoding.load import drafter_kind
from vocabtrim.measure.methods import Settings
from vocabtrim.testbed.demo import chosen_prompts, questions_of
from vocabtrim.testbed.family import calibration, member
from vocabtrim.tuning.tune import Tuning

pytestmark = pytest.mark.slow

LENGTH = 32
QUESTIONS = questions_of(chosen_prompts(8))
CALIBRATION = [f"target-generated:{calibration('target-generated')}"]


def tune(target: Path, drafter: Path, out: Path, **options: Any) -> Tuning:
    settings = Settings(max_new_tokens=LENGTH, dtype="float32")
    return vt.tune(target, drafter, QUESTIONS, out, settings=settings, minutes=0.5, **options)


def deep_target(out: Path, layers: int = 16) -> Path:
    """The family's target with more layers, copies of its last one that write little to the residual."""
    folder = member("target")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    added = copy.deepcopy(model.model.layers[-1])
    with torch.no_grad():
        added.self_attn.o_proj.weight *= 0.02
        added.mlp.down_proj.weight *= 0.02
    for _ in range(layers):
        model.model.layers.append(copy.deepcopy(added))
        model.model.layers[-1].self_attn.layer_idx = len(model.model.layers) - 1
    model.config.num_hidden_layers = len(model.model.layers)
    model.config.layer_types = ["full_attention"] * len(model.model.layers)
    model.save_pretrained(out)
    for path in folder.iterdir():
        if "token" in path.name or path.name == "generation_config.json":
            shutil.copyfile(path, out / path.name)
    return out


@pytest.mark.parametrize("kind", ["eagle", "eagle3", "independent", "medusa"])
def test_what_it_says_is_what_it_measured(kind: str, tmp_path: Path) -> None:
    found = tune(member("target"), member(kind), tmp_path / "tuned", calibrate=CALIBRATION)
    verdict = found.verdict
    assert found.predicted > (10 if kind == "medusa" else 500) and len(found.kept_sizes) > 4 and not found.failed
    assert verdict.speculate == (verdict.pick.speedup > 1)
    assert verdict.measured[0].block_efficiency == 1.0
    drafting = [one.combination for one in verdict.measured if one.combination is not None]
    assert verdict.picked in drafting and len(set(drafting)) == len(drafting)
    assert any(one.kept_size == found.full_size for one in drafting)
    assert any(one.kept_size < found.full_size for one in drafting)
    assert all(0 <= one.better <= 1 for one in verdict.measured)
    assert read_tuned(tmp_path / "tuned") == found.tuned
    trimmed = (tmp_path / "tuned" / "kept.safetensors").exists()
    assert trimmed == (verdict.picked.kept_size < found.full_size)


def test_acceptance_by_depth_is_that_of_live_answers(tmp_path: Path) -> None:
    """The same questions, drafted live as the folder says: block efficiency to the last round, where all were
    replayed."""
    found = tune(member("target"), member("eagle"), tmp_path / "tuned", calibrate=CALIBRATION)
    target = vt.load_target(member("target"), dtype="float32")
    kind = drafter_kind(tmp_path / "tuned", member("target"))
    plan = choose_plan(kind, vt.Sampling(), **found.tuned.numbers)
    drafter = vt.load_drafter(tmp_path / "tuned", target, plan=plan)
    from vocabtrim.decoding.text import TargetText

    words, rounds, tokens = TargetText(member("target")), [], 0
    for prompt in chosen_prompts(8):
        if tokens >= found.tokens:
            break
        answer = list(vt.decode(target, drafter, words.conversation(prompt.messages), max_new_tokens=LENGTH))
        rounds += answer
        tokens += sum(one.emitted for one in answer)
    live = vt.summarise(rounds)
    if tokens == found.tokens:  # answers were not cut for want of time
        shares = [hits / live.rounds for hits in live.accepted_at]
        assert list(found.acceptance)[: len(shares)] == pytest.approx(shares)


def test_a_target_that_is_slow(tmp_path: Path) -> None:
    """Drafters are accepted beside it nearly as beside the built-in one, and its verdict follows its figures."""
    target = deep_target(tmp_path / "target")
    found = tune(target, member("independent"), tmp_path / "tuned")
    assert found.acceptance[0] > 0.3
    assert found.verdict.speculate == (found.verdict.pick.speedup > 1)
    assert "questions of their own" in found.calibrated
    assert found.tuned.chain is not None
