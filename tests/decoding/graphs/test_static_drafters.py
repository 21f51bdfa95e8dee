"""Drafters by programs propose what the plain ones propose, round for round, and the output is the target's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import small_models as small
import vocabtrim as vt
from replayed import Recorder
from vocabtrim.decoding.drafters.independent import IndependentBody
from vocabtrim.decoding.drafters.stepping import SteppingDrafter
from vocabtrim.decoding.ends import own_head
from vocabtrim.decoding.graphs.drafter import StaticDrafter, static_drafter
from vocabtrim.decoding.graphs.lm_pass import static_pass
from vocabtrim.decoding.graphs.medusa_pass import StaticMedusa
from vocabtrim.errors import CheckpointError

VOCAB, KEPT = 8, [1, 2, 5]
PROMPTS = [[3], [3, 5, 1, 0], list(range(8)) * 12]
TINY_CONFIG: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
PLANS: dict[str, list[Any]] = {
    "chain": [vt.Chain(3)],
    "tree": [vt.DynamicTree(12, 3, 3)],
}


def rounds(target: vt.Target, drafter: Any, prompt: list[int], new: int = 20, **options: Any) -> list[Any]:
    """(tokens, how many were drafted, how deep) of every round."""
    done = vt.decode(target, drafter, prompt, max_new_tokens=new, stop_ids=(), **options)
    return [(one.tokens, one.drafted, one.depth) for one in done]


def both(tmp_path: Path, kind: str, cut: bool, plan: Any) -> tuple[tuple[vt.Target, Any], tuple[vt.Target, Any], Any]:
    """Plain target and drafter, the same by programs, and who recorded them."""
    folder = small.write_target(tmp_path / "target", small.shape(VOCAB))
    drafts = small.write_drafter(tmp_path / "drafter", kind, small.shape(VOCAB))
    if cut:
        drafts = small.trim(drafts, folder, KEPT, VOCAB, tmp_path / "cut")
    plain, static = (vt.load_target(folder, dtype="float32", lean=False) for _ in range(2))
    record = Recorder()
    static_pass(static.lm, record)
    drafters = [vt.load_drafter(drafts, plain, plan=plan) for _ in range(2)]
    return (plain, drafters[0]), (static, static_drafter(drafters[1], record)), record


@pytest.mark.parametrize("cut", [False, True], ids=["full", "trimmed"])
@pytest.mark.parametrize(
    ("kind", "plan"),
    [(kind, plan) for kind in small.KINDS for plan in (["own"] if kind == "Medusa" else ["chain", "tree"])],
)
def test_every_kind_round_for_round(tmp_path: Path, kind: str, plan: str, cut: bool) -> None:
    plain, static, record = both(tmp_path, kind, cut, None if plan == "own" else PLANS[plan][0])
    assert isinstance(static[1], StaticDrafter | StaticMedusa)
    for prompt in PROMPTS:
        assert rounds(*static, prompt) == rounds(*plain, prompt)
    assert record.recorded >= 3 and record.replays > 10


@pytest.mark.parametrize("kind", ["independent", "EAGLE", "EAGLE-3"])
def test_sampled_chains_go_step_by_step_on_the_same_cache(tmp_path: Path, kind: str) -> None:
    """The same draws: one seed gives the plain path's tokens, of which no 20 are the same by chance."""
    sampling = vt.Sampling(temperature=1.0)
    plain, static, _ = both(tmp_path, kind, True, vt.Chain(3, sampling))
    outputs = [
        rounds(*side, PROMPTS[1], sampling=sampling, generator=torch.Generator().manual_seed(seed))
        for side in (static, plain)
        for seed in (0, 1)
    ]
    assert outputs[:2] == outputs[2:] and outputs[0] != outputs[1]


def test_plans_and_rows_that_change_between_generations(tmp_path: Path) -> None:
    """What was recorded for one plan, or for the rows of one head, is not replayed for another."""
    plain, static, record = both(tmp_path, "EAGLE", False, vt.Chain(3))
    for _, drafter in (plain, static):
        drafter.full = drafter.body.head.weight
    for plan, ids in [
        (vt.Chain(2), None),
        (vt.DynamicTree(7, 2, 3), None),
        (vt.Chain(2), [0, 3, 4, 7]),
        (vt.Chain(2), None),
    ]:
        for _, drafter in (plain, static):
            drafter.plan = plan
            kept = None if ids is None else torch.tensor(ids)
            drafter.body.head.replace(drafter.full if ids is None else drafter.full[ids], kept_ids=kept)
        recorded = record.recorded
        assert rounds(*static, PROMPTS[1]) == rounds(*plain, PROMPTS[1])
        assert record.recorded > recorded


def test_drafters_that_cannot_are_left_as_they_are() -> None:
    """Windows, families and rotations that no program is made for; whatever else keeps the protocol."""
    for family, more in [
        ("mistral", {"sliding_window": 32}),
        ("gemma", {}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    ]:
        config = AutoConfig.for_model(family, **TINY_CONFIG | more)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        drafter = SteppingDrafter(IndependentBody(model, own_head(model, VOCAB), lean=False), vt.Chain(3))
        assert static_drafter(drafter) is drafter and drafter.body.lm.graphs is None
    own: Any = object()
    assert static_drafter(own) is own


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EAGLE", "EAGLE-3", "Medusa"])
def test_compiled(tmp_path: Path, kind: str) -> None:
    """Layers and heads through torch.compile, by its CPU backend: the same rounds."""
    folder = small.write_target(tmp_path / "target", small.shape(VOCAB))
    drafts = small.write_drafter(tmp_path / "drafter", kind, small.shape(VOCAB))
    plain, static = (vt.load_target(folder, dtype="float32", lean=False) for _ in range(2))
    static_pass(static.lm, compiled=True)
    plan = None if kind == "Medusa" else vt.DynamicTree(12, 3, 3)
    drafters = [vt.load_drafter(drafts, plain, plan=plan) for _ in range(2)]
    wanted = rounds(plain, drafters[0], PROMPTS[1])
    assert rounds(static, static_drafter(drafters[1], compiled=True), PROMPTS[1]) == wanted


@pytest.mark.parametrize("kind", ["independent", "EAGLE", "EAGLE-3", "Medusa"])
def test_logits_that_are_no_numbers_are_told(tmp_path: Path, kind: str) -> None:
    """No step asks for a number before the end, and the end tells it all the same."""
    _, (target, drafter), _ = both(tmp_path, kind, False, None if kind == "Medusa" else vt.DynamicTree(9, 2, 3))
    assert rounds(target, drafter, PROMPTS[1])
    head = drafter.heads[0] if kind == "Medusa" else drafter.body.head
    head.weight[5] = torch.nan
    with pytest.raises(CheckpointError, match="the drafter's logits hold NaN or infinity"):
        rounds(target, drafter, PROMPTS[1])
