"""The same on a GPU: greedy ids of every drafter kind are the plain loop's there, and sampling repeats by its seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import small_models as small
import vocabtrim as vt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

VOCAB, KEPT = 8, [1, 2, 5]
PROMPTS = [[3], [3, 5, 1, 0], list(range(8)) * 4]


def generate(target: vt.Target, drafter: object, prompt: list[int], **options: object) -> list[int]:
    rounds = vt.decode(target, drafter, prompt, max_new_tokens=48, stop_ids=(), **options)
    return [token for done in rounds for token in done.tokens]


@pytest.mark.parametrize("cut", [False, True], ids=["full", "trimmed"])
@pytest.mark.parametrize("kind", small.KINDS)
def test_greedy_and_sampled(tmp_path: Path, kind: str, cut: bool) -> None:
    folder = small.write_target(tmp_path / "target", small.shape(VOCAB))
    drafts = small.write_drafter(tmp_path / "drafter", kind, small.shape(VOCAB))
    if cut:
        drafts = small.trim(drafts, folder, KEPT, VOCAB, tmp_path / "cut")
    target = vt.load_target(folder, dtype="float32", device="cuda")
    plans = [None] if kind == "Medusa" else [vt.Chain(3), vt.DynamicTree(12, 3, 3)]
    for plan in plans:
        drafter = vt.load_drafter(drafts, target, plan=plan)
        for prompt in PROMPTS:
            assert generate(target, drafter, prompt) == generate(target, None, prompt)
        assert repeats(target, drafter)
    if kind != "Medusa":
        sampled = vt.Chain(3, vt.Sampling(temperature=1.0))
        assert repeats(target, vt.load_drafter(drafts, target, plan=sampled))


def repeats(target: vt.Target, drafter: object) -> bool:
    """One seed gives one output; 48 tokens of another are never the same by chance."""

    def run(seed: int) -> list[int]:
        generator = torch.Generator("cuda").manual_seed(seed)
        return generate(target, drafter, PROMPTS[1], sampling=vt.Sampling(temperature=1.0), generator=generator)

    return run(0) == run(0) != run(1)
