"""The same on a GPU: greedy ids of every drafter kind are the plain loop's there, plain and by CUDA graphs, and
sampling repeats by its seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import small_models as small
import vocabtrim as vt
from vocabtrim.decoding.graphs.drafter import StaticDrafter, static_drafter
from vocabtrim.decoding.graphs.fused_head import FusedHead
from vocabtrim.decoding.graphs.lm_pass import StaticPass, static_pass
from vocabtrim.decoding.graphs.medusa_pass import StaticMedusa
from vocabtrim.decoding.graphs.program import Program, cuda_graph
from vocabtrim.decoding.head import Head

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

VOCAB, KEPT = 8, [1, 2, 5]
PROMPTS = [[3], [3, 5, 1, 0], list(range(8)) * 4]


def generate(target: vt.Target, drafter: object, prompt: list[int], **options: object) -> list[int]:
    rounds = vt.decode(target, drafter, prompt, max_new_tokens=48, stop_ids=(), **options)
    return [token for done in rounds for token in done.tokens]


@pytest.mark.parametrize("lean", [False, True], ids=["plain", "graphs"])
@pytest.mark.parametrize("cut", [False, True], ids=["full", "trimmed"])
@pytest.mark.parametrize("kind", small.KINDS)
def test_greedy_and_sampled(tmp_path: Path, kind: str, cut: bool, lean: bool) -> None:
    folder = small.write_target(tmp_path / "target", small.shape(VOCAB))
    drafts = small.write_drafter(tmp_path / "drafter", kind, small.shape(VOCAB))
    if cut:
        drafts = small.trim(drafts, folder, KEPT, VOCAB, tmp_path / "cut")
    plain = vt.load_target(folder, dtype="float32", device="cuda", lean=False)
    target = vt.load_target(folder, dtype="float32", device="cuda", lean=lean)
    assert isinstance(target.lm.graphs, StaticPass) == lean
    plans = [None] if kind == "Medusa" else [vt.Chain(3), vt.DynamicTree(12, 3, 3)]
    for plan in plans:
        drafter = vt.load_drafter(drafts, target, plan=plan)
        assert isinstance(drafter, StaticDrafter | StaticMedusa) == lean
        for prompt in PROMPTS:
            wanted = generate(plain, None, prompt)
            assert generate(target, drafter, prompt) == generate(target, None, prompt) == wanted
        assert repeats(target, drafter)
    if kind != "Medusa":
        sampled = vt.Chain(3, vt.Sampling(temperature=1.0))
        assert repeats(target, vt.load_drafter(drafts, target, plan=sampled))


@pytest.mark.parametrize("kind", ["independent", "EAGLE", "EAGLE-3", "Medusa"])
def test_round_for_round_into_a_longer_context(tmp_path: Path, kind: str) -> None:
    """Graphs propose what the plain drafter proposes, in a text that outgrows the first context that is recorded."""
    folder = small.write_target(tmp_path / "target", small.shape(VOCAB))
    drafts = small.write_drafter(tmp_path / "drafter", kind, small.shape(VOCAB))
    outputs = []
    for lean in (False, True):
        target = vt.load_target(folder, dtype="float32", device="cuda", lean=lean)
        drafter = vt.load_drafter(drafts, target)
        rounds = vt.decode(target, drafter, list(range(8)) * 25, max_new_tokens=120, stop_ids=())
        outputs.append([(one.tokens, one.drafted, one.depth) for one in rounds])
    assert outputs[0] == outputs[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EAGLE", "EAGLE-3", "Medusa"])
def test_compiled(tmp_path: Path, kind: str) -> None:
    """Layers and heads through torch.compile, inside the graphs."""
    folder = small.write_target(tmp_path / "target", small.shape(VOCAB))
    drafts = small.write_drafter(tmp_path / "drafter", kind, small.shape(VOCAB))
    plain, target = (vt.load_target(folder, dtype="float32", device="cuda", lean=False) for _ in range(2))
    static_pass(target.lm, compiled=True)
    drafter = static_drafter(vt.load_drafter(drafts, plain), compiled=True)
    assert generate(target, drafter, PROMPTS[1]) == generate(plain, None, PROMPTS[1])


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_recorded_head(compiled: bool) -> None:
    """Replays read what lies in memory then, in both forms."""
    generator = torch.Generator("cuda").manual_seed(0)
    ids = torch.randperm(30_000, device="cuda", generator=generator)[:8_000].sort().values
    weight = torch.randn(8_000, 256, device="cuda", generator=generator)
    head, hidden = Head(weight, None, ids), torch.zeros(10, 256, device="cuda")
    fused = FusedHead(head, compiled=compiled)

    @torch.inference_mode()
    def step() -> tuple[torch.Tensor, ...]:
        return (*fused.best(hidden, 10), fused.likeliest(hidden), fused.largest())

    program: Program[Any] = Program(step, cuda_graph)
    for _ in range(4):
        hidden.normal_(generator=generator)
        found, wanted = program(), head.best(head(hidden), 10)
        assert torch.equal(found[0], wanted.ids) and torch.equal(found[2], wanted.ids[:, 0])
        torch.testing.assert_close(found[1], wanted.log_probs, rtol=1e-4, atol=1e-4)


def repeats(target: vt.Target, drafter: object) -> bool:
    """One seed gives one output; 48 tokens of another are never the same by chance."""

    def run(seed: int) -> list[int]:
        generator = torch.Generator("cuda").manual_seed(seed)
        return generate(target, drafter, PROMPTS[1], sampling=vt.Sampling(temperature=1.0), generator=generator)

    return run(0) == run(0) != run(1)
