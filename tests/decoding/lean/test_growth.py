"""Drafting in one call drafts what drafting level by level does: the same trees, read into the same entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import small_models as small
import vocabtrim as vt
from drafter_files import widen
from generation import decoded, emitted, random_prompts
from vocabtrim.decoding.head import Head
from vocabtrim.errors import CheckpointError
from vocabtrim.testbed import shapes

VOCAB, KEPT = 64, [1, 2, 5, 9, 17, 30, 31, 40, 63]
PLANS = {
    "chain": vt.Chain(4),
    "chain of one": vt.Chain(1),
    "tree": vt.DynamicTree(20, 4, 4),
    "wider than the head": vt.DynamicTree(60, 5, 12),
    "deeper than its nodes": vt.DynamicTree(3, 5, 2),
}
KINDS = ("independent", "EAGLE", "EAGLE-3", "EAGLE-3, normed features")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("growth")
    target = small.write_target(root / "target", small.shape(VOCAB))
    for kind in KINDS:
        if kind == "EAGLE-3, normed features":
            plain = shapes.write_eagle3(root / kind, small.shape(VOCAB), seed=4, draft_vocab=VOCAB, maps=False)
            widen(plain, {"norm_output": True}, {})
        else:
            small.write_drafter(root / kind, kind, small.shape(VOCAB))
        small.trim(root / kind, target, KEPT, VOCAB, root / f"{kind}, cut")
    return root


def drafts(target: Any, drafter: Any, prompt: list[int], *, at_once: bool) -> list[Any]:
    """Tokens, parents and entries of every proposal while 24 tokens are decoded."""
    seen: list[Any] = []
    propose, grow = drafter.propose, drafter.body.grow

    def proposing(depth: int, chance: Any) -> Any:
        draft = propose(depth, chance)
        length = (drafter.body.lm.cache if hasattr(drafter.body, "lm") else drafter.body.cache).length
        seen.append((draft.tree.tokens.tolist(), draft.tree.parents, list(drafter._entries), length))
        return draft

    grown: list[bool] = []

    def growing(*arguments: Any) -> Any:
        grown.append(at_once)
        return grow(*arguments) if at_once else None

    drafter.propose, drafter.body.grow = proposing, growing
    try:
        tokens = emitted(decoded(target, drafter, prompt, 24))
    finally:
        del drafter.propose, drafter.body.grow
    assert grown and tokens == emitted(decoded(target, None, prompt, 24))
    return seen


@pytest.mark.parametrize("cut", ["", ", cut"], ids=["full", "trimmed"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_trees(folder: Path, kind: str, cut: str, dtype: str) -> None:
    target = vt.load_target(folder / "target", dtype=dtype)
    drafter = vt.load_drafter(folder / f"{kind}{cut}", target)
    for plan in PLANS.values():
        drafter.plan = plan
        for prompt in random_prompts(3, VOCAB, [1, 4, 11], seed=2):
            assert drafts(target, drafter, prompt, at_once=True) == drafts(target, drafter, prompt, at_once=False)
    assert drafter.body.head.kernels is not None, "by the kernels"


@pytest.mark.parametrize("step", [0, 2])
def test_what_is_no_number_is_said(folder: Path, step: int) -> None:
    """In the root's logits, and in those of a token that was drafted."""
    target = vt.load_target(folder / "target", dtype="float32")
    drafter = vt.load_drafter(folder / "independent", target, plan=vt.DynamicTree(20, 4, 4))
    embedding = drafter.body.lm.model.get_input_embeddings().weight
    prompt = [3, 4, 5]
    if step:
        drafter.begin(prompt, 20, None)
        poisoned = drafter.propose(3, None).tree.tokens[1:].tolist()
        embedding.data[[token for token in poisoned if token not in prompt]] = torch.nan
    else:
        embedding.data[prompt[-1]] = torch.nan
    with pytest.raises(CheckpointError, match="NaN"):
        decoded(target, drafter, prompt, 12)


def test_rows_may_change_between_rounds(folder: Path) -> None:
    target = vt.load_target(folder / "target", dtype="float32")
    drafter = vt.load_drafter(folder / "EAGLE", target, plan=vt.DynamicTree(20, 4, 4))
    head: Head = drafter.body.head
    weight = head.weight
    expected = emitted(decoded(target, None, [3, 4, 5], 24))
    for number, done in enumerate(vt.decode(target, drafter, [3, 4, 5], max_new_tokens=24, stop_ids=())):
        ids = torch.tensor(KEPT[number % 4 :])
        head.replace(weight[ids].clone(), None, ids)
        expected = expected[len(done.tokens) :] if list(done.tokens) == expected[: len(done.tokens)] else ["differs"]
    assert expected == []
