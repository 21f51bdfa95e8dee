"""Drafters compute what the published ones compute: the same logits as plain arithmetic over the same files.

Every proposal of a whole generation is compared, along chains and along trees, with a forward pass that was written
from the published code and remembers nothing (plain_drafters.py). Weights are drawn wide, so that a swapped operand, a
missing norm or a position off by one moves logits by whole units; the tolerance is a thousandth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import plain_drafters as plain
import vocabtrim as vt
from drafter_files import Shape, widen
from vocabtrim.decoding.drafters.plans import Chain, DynamicTree, Plan
from vocabtrim.decoding.drafters.stepping import SteppingDrafter
from vocabtrim.errors import VocabTrimError
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY, ModelShape

# Eight ids, so that a random drafter is right now and then; heads narrower than hidden / heads, as in published files.
LLAMA = replace(TINY, layers=6, vocab=8, head_rows=8, eos=(7,), head_dim=8, rope_theta=500_000.0, dtype="float32")
QWEN2 = replace(LLAMA, architecture="qwen2")  # biases on q, k and v
PROMPT = [1, 5, 3, 0, 2, 6, 4]
PLANS: dict[str, Plan] = {"chain": Chain(4), "tree": DynamicTree(nodes=14, depth=4, branching=3)}


@dataclass(frozen=True)
class Case:
    """One published variant. config: entries that are added. extra: modules that are added, with their shapes."""

    write: Callable[[Path, ModelShape], Path]
    shape: ModelShape = LLAMA
    config: dict[str, Any] | None = None
    extra: dict[str, Shape] | None = None
    states: tuple[int, ...] = (2, 3, 3)  # of six layers: 2, 6 // 2, 6 - 3


def eagle3(out: Path, shape: ModelShape, **how: Any) -> Path:
    return shapes.write_eagle3(out, shape, seed=4, **({"draft_vocab": 6} | how))


EAGLE = {
    "with bias": Case(lambda out, shape: shapes.write_eagle(out, shape, seed=3)),
    "without bias": Case(lambda out, shape: shapes.write_eagle(out, shape, seed=3, fc_bias=False)),
    "without embedding": Case(lambda out, shape: shapes.write_eagle(out, shape, seed=3, embed=False)),
    "qkv bias": Case(lambda out, shape: shapes.write_eagle(out, shape, seed=3), QWEN2),
}
EAGLE3 = {
    "midlayer": Case(eagle3),
    "layers.0": Case(lambda out, shape: eagle3(out, shape, block="layers.0")),
    "own embedding": Case(lambda out, shape: eagle3(out, shape, embed=True)),
    "whole vocabulary": Case(lambda out, shape: eagle3(out, shape, draft_vocab=8, maps=False)),
    "qkv bias": Case(eagle3, QWEN2),
    "norm_before_residual": Case(eagle3, config={"norm_before_residual": True}),
    "norm_before_fc": Case(eagle3, config={"norm_before_fc": True}, extra={"input_norm": (3 * 64,)}),
    "EAGLE 3.1": Case(
        eagle3, config={"fc_norm": True, "norm_output": True}, extra={f"fc_norm.{number}": (64,) for number in range(3)}
    ),
    "in eagle_config": Case(
        eagle3, config={"eagle_config": {"norm_before_fc": True, "norm_output": True}}, extra={"input_norm": (3 * 64,)}
    ),
    "Qwen3's head norms": Case(eagle3, extra={"midlayer.self_attn.q_norm": (8,), "midlayer.self_attn.k_norm": (8,)}),
    "named states": Case(eagle3, config={"eagle_aux_hidden_state_layer_ids": [5, 0, 2]}, states=(0, 2, 5)),
    "named outputs": Case(
        eagle3, config={"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 2, 4]}}, states=(2, 3, 5)
    ),
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", EAGLE)
def test_eagle_scores_as_published(name: str, plan: str, tmp_path: Path) -> None:
    compare(EAGLE[name], PLANS[plan], plain.PlainEagle, (), tmp_path)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", EAGLE3)
def test_eagle3_scores_as_published(name: str, plan: str, tmp_path: Path) -> None:
    compare(EAGLE3[name], PLANS[plan], plain.PlainEagle3, EAGLE3[name].states, tmp_path)


@pytest.mark.parametrize("layers", [1, 2])
def test_medusa_ranks_as_published(layers: int, tmp_path: Path) -> None:
    """Every id's rank under every head shows in the static tree, so the trees being equal says the rankings are."""

    def write(out: Path, shape: ModelShape) -> Path:
        return shapes.write_medusa(out, shape, seed=5, heads=3, layers=layers, container="safetensors")

    target, drafter, files = open_case(Case(write), tmp_path)
    propose, seen = drafter.propose, []
    drafter.propose = lambda depth, chance: seen.append((depth, propose(depth, chance))) or seen[-1][1]
    for context in contexts(target, drafter):
        depth, draft = seen.pop()
        best = [row.sort(descending=True).indices.tolist() for row in plain.medusa_logits(*files, context)]
        places = [place for place in drafter.tree if len(place) <= depth and max(place) < LLAMA.vocab]
        expected = {tuple(best[head][rank] for head, rank in enumerate(place)) for place in places}
        assert paths(draft.tree) == expected
        assert depth < 3 or max(map(max, places)) == LLAMA.vocab - 1


def test_target_hidden_states_are_those_of_the_published_forward(tmp_path: Path) -> None:
    """State i is the input of layer i, and -1 is behind the last norm: what EAGLE and Medusa call last hidden state."""
    target, _, files = open_case(EAGLE["with bias"], tmp_path)
    states = (0, 1, 3, 5, -1)
    found = target.begin([*PROMPT, 0], 32, states)
    expected = plain.target_states(files[0], PROMPT)
    torch.testing.assert_close(found, torch.cat([expected[i] for i in states], dim=-1), atol=1e-4, rtol=1e-4)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no fused states": ({"eagle_config": {"use_aux_hidden_state": False}}, "use_aux_hidden_state"),
    "two norms": ({"eagle_config": {"use_mtp_layernorm": True}}, "use_mtp_layernorm"),
    "scaled logits": ({"logit_scale": 0.5}, "logit_scale"),
    "window": ({"layer_types": ["sliding_attention"], "sliding_window": 4}, "layer_types"),
    "several axes": ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}, "rope_scaling"),
    "half turned": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "parallel drafts": ({"speculators_model_type": "peagle"}, "speculators_model_type"),
    "unsaid residual": ({"speculators_model_type": "eagle3"}, "norm_before_residual"),
    "last output": ({"eagle_aux_hidden_state_layer_ids": [2, 3, 6]}, "eagle_aux_hidden_state_layer_ids"),
    "state twice": ({"eagle_aux_hidden_state_layer_ids": [2, 3, 3]}, "hidden states"),
    "states of a larger target": ({"eagle_aux_hidden_state_layer_ids": [2, 16, 29]}, "hidden states"),
    "no states": ({"eagle_aux_hidden_state_layer_ids": 3}, "hidden states"),
    "norm without a tensor": ({"norm_before_fc": True}, "input_norm.weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_variant_that_is_not_computed_is_refused_by_the_entry_that_asks_for_it(name: str, tmp_path: Path) -> None:
    config, said = REFUSED[name]
    with pytest.raises(VocabTrimError, match=said):
        open_case(Case(eagle3, config=config), tmp_path)


def test_a_norm_that_the_config_does_not_ask_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabTrimError, match="input_norm"):
        open_case(Case(eagle3, extra={"input_norm": (3 * 64,)}), tmp_path)


def compare(case: Case, plan: Plan, kind: type[plain.PlainEagle], states: tuple[int, ...], tmp: Path) -> None:
    """Each proposal's logits, level by level, and of a tree the tokens on every path."""
    target, drafter, files = open_case(case, tmp, plan)
    ids = list(range(LLAMA.vocab)) if drafter.body.head.kept_ids is None else drafter.body.head.kept_ids.tolist()
    steps, trees = record(drafter)
    for context in contexts(target, drafter):
        proposal = kind(*files, context, states)
        for tokens, parents, logits in steps:
            expected = proposal.root() if tokens is None else proposal.level(tokens, parents)
            assert expected.std() > 0.1  # not flat
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        if isinstance(plan, DynamicTree) and steps:
            depth = min(plan.depth, trees[-1][0])
            fresh = kind(*files, context, states)
            assert paths(trees[-1][1]) == plain.dynamic_tree(fresh, ids, plan.nodes, depth, plan.branching)
        steps.clear()


def contexts(target: Any, drafter: Any) -> Iterator[list[int]]:
    """What stood behind each round's proposal, root last; right after that round. Some drafts survive."""
    context, accepted = list(PROMPT), []
    sampling, generator = vt.Sampling(temperature=1.0), torch.Generator().manual_seed(1)
    for done in vt.decode(
        target, drafter, PROMPT, max_new_tokens=32, sampling=sampling, stop_ids=(), generator=generator
    ):
        yield list(context)
        context += done.tokens
        accepted.append(done.accepted)
    assert max(accepted) > 0 and len(accepted) > 5


def record(drafter: SteppingDrafter) -> tuple[list[Any], list[Any]]:
    """What the body is asked and answers, and what is proposed."""
    steps: list[Any] = []
    trees: list[Any] = []
    catch_up, extend, propose = drafter.body.catch_up, drafter.body.extend, drafter.propose

    def catch_up_recorded() -> torch.Tensor | None:
        logits = catch_up()
        steps.append((None, None, logits))
        return logits

    def extend_recorded(tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        logits = extend(tokens, parents)
        steps.append((tokens.tolist(), parents.tolist(), logits))
        return logits

    def propose_recorded(depth: int, chance: Any) -> Any:
        draft = propose(depth, chance)
        trees.append((depth, draft.tree))
        return draft

    drafter.body.catch_up, drafter.body.extend = catch_up_recorded, extend_recorded  # type: ignore[method-assign]
    drafter.body.grow = lambda *_: None  # type: ignore[method-assign]  # level by level, to be seen
    drafter.propose = propose_recorded  # type: ignore[method-assign]
    return steps, trees


def paths(tree: Any) -> set[tuple[int, ...]]:
    tokens = tree.tokens.tolist()
    return {tuple(tokens[step] for step in tree.path_to(node)) for node in range(1, tree.size)}


def open_case(case: Case, tmp: Path, plan: Plan | None = None) -> tuple[Any, Any, tuple[plain.Files, plain.Files]]:
    """Target and drafter opened for decoding, and their files as they are."""
    folders = shapes.write_target(tmp / "target", case.shape, seed=1), case.write(tmp / "drafter", case.shape)
    widen(folders[0])
    widen(folders[1], case.config, case.extra)
    target = vt.load_target(folders[0], dtype="float32")
    return target, vt.load_drafter(folders[1], target, plan=plan), (plain.read(folders[0]), plain.read(folders[1]))
