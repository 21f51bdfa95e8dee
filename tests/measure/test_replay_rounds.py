"""Replaying a recorded generation gives the rounds of live decoding, one by one: emitted, accepted, drafted, depth.

For every kind of drafter, chains and trees, the full head and three kept vocabularies in one pass, each beside a live
run of the drafter that the tool's own trim cut to them; greedy and at a temperature, ended by length and by a stop id.
In float64: passes of different width round differently, and a near tie may then fall the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import small_models
import vocabtrim as vt
from generation import lively, noisy_copy, random_prompts
from recordings import record
from vocabtrim.decoding.drafters.plans import Chain, DynamicTree, Plan
from vocabtrim.decoding.drafters.protocol import Draft, Drafter
from vocabtrim.decoding.rounds import Round
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.decoding.stopping import Reason
from vocabtrim.decoding.target import Target
from vocabtrim.decoding.tree import Tree
from vocabtrim.errors import InputError, MismatchError, UnsupportedError
from vocabtrim.measure.recording import Recorded
from vocabtrim.measure.redraft import redraft
from vocabtrim.measure.replay_rounds import ReplayedRound, replay_rounds

VOCAB, LENGTH = 16, 20
KINDS = ["independent", "EAGLE", "EAGLE-3", "Medusa"]
TREE, CHAIN = DynamicTree(nodes=20, depth=4, branching=3), Chain(3)
CASES = {
    **{f"{kind}, chain": (kind, CHAIN) for kind in KINDS[:3]},
    **{f"{kind}, tree": (kind, TREE) for kind in KINDS[:3]},
    "Medusa": ("Medusa", None),
}
KEPT = {"most": [i for i in range(VOCAB) if i % 4 != 1], "some": [2, 7, 11, 12, 14], "one": [7]}
PROMPTS = random_prompts(4, VOCAB, [1, 2, 30])
GREEDY, WARM = Sampling(), Sampling(temperature=0.8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """target/, and of every kind a drafter, whole and cut to each of KEPT."""
    root = tmp_path_factory.mktemp("replay")
    shape = small_models.shape(VOCAB)
    lively(small_models.write_target(root / "plain", shape), root / "target")
    noisy_copy(root / "target", root / "independent", scale=0.1)
    for kind in KINDS:
        if kind != "independent":
            small_models.write_drafter(root / kind, kind, shape)
        for name, ids in KEPT.items():
            small_models.trim(root / kind, root / "target", ids, VOCAB, root / f"{kind} {name}")
    return root


@pytest.fixture(scope="module")
def target(folder: Path) -> Target:
    return vt.load_target(folder / "target", dtype="float64")


def ids(*names: str) -> list[Any]:
    return [None, *(np.array(KEPT[name]) for name in names)]


def numbers(rounds: Sequence[Round | ReplayedRound]) -> list[tuple[int, int, int, int]]:
    return [(one.emitted, one.accepted, one.drafted, one.depth) for one in rounds]


def live(target: Target, drafter: Drafter, recorded: Recorded, **how: Any) -> list[Round]:
    """Live rounds, which must emit what was recorded: for a seed every token takes one draw, whoever drafts."""
    chance = torch.Generator().manual_seed(0)
    limit = recorded.max_new_tokens
    assert limit is not None
    rounds = list(vt.decode(target, drafter, recorded.prompt, max_new_tokens=limit, generator=chance, **how))
    assert tuple(token for one in rounds for token in one.tokens) == recorded.output
    return rounds


@pytest.fixture(scope="module")
def opened(folder: Path, target: Target) -> Callable[..., Any]:
    """Drafters by their folder's name, each opened once for each plan; `other` for one more of its kind."""
    known: dict[Any, Any] = {}

    def open_one(name: str, plan: Plan | None, other: bool = False) -> Any:
        key = name, plan, other
        known[key] = known.get(key) or vt.load_drafter(folder / name, target, plan=plan)
        return known[key]

    return open_one


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("stops", [False, True], ids=["length", "stop id"])
def test_replay_has_the_rounds_of_live_decoding(
    target: Target, opened: Callable[..., Any], case: str, sampling: Sampling, stops: bool
) -> None:
    kind, plan = CASES[case]
    full, *cut = (opened(name, plan) for name in (kind, *(f"{kind} {name}" for name in KEPT)))
    drafting = redraft(opened(kind, plan, other=True), ids(*KEPT))
    found: list[list[tuple[int, int, int, int]]] = [[] for _ in (full, *cut)]
    ended = set()
    for prompt in PROMPTS:
        stop_ids: tuple[int, ...] = ()
        if stops:  # a token that is emitted in the middle
            free = record(target, prompt, LENGTH, sampling=sampling)
            stop_ids = (free.output[LENGTH // 2],)
        recorded = record(target, prompt, LENGTH, sampling=sampling, states=full.states, stop_ids=stop_ids)
        ended.add(recorded.ended)
        replayed = replay_rounds(recorded, drafting, len(KEPT) + 1)
        for number, drafter in enumerate((full, *cut)):
            expected = numbers(live(target, drafter, recorded, sampling=sampling, stop_ids=stop_ids))
            assert numbers(replayed[number]) == expected
            found[number] += expected
    assert ended == {Reason.STOP_ID if stops else Reason.LENGTH}
    for part in found[:2]:
        accepted, passes = sum(one[1] for one in part), len(part)
        assert 0 < accepted < sum(one[3] for one in part) and passes > len(PROMPTS), "now right, now wrong"
    assert len({tuple(part) for part in found}) > 1, "what is kept makes a difference"


@pytest.mark.parametrize("kind", KINDS)
def test_a_drafter_that_is_cut_already_is_replayed_as_it_is(
    target: Target, opened: Callable[..., Any], kind: str
) -> None:
    plan = None if kind == "Medusa" else TREE
    cut = opened(f"{kind} most", plan)
    recorded = record(target, PROMPTS[2], LENGTH, states=cut.states)
    own, fewer = replay_rounds(recorded, redraft(opened(f"{kind} most", plan, other=True), ids("some")), 2)
    assert numbers(own) == numbers(live(target, cut, recorded, stop_ids=()))
    few = opened(f"{kind} some", plan)
    assert numbers(fewer) != numbers(own)
    assert numbers(fewer) == numbers(live(target, few, recorded, stop_ids=()))


@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS[2]], ids=["one token", "thirty"])
@pytest.mark.parametrize("case", CASES)
def test_many_vocabularies_cost_the_body_little_more_than_one(
    target: Target, opened: Callable[..., Any], case: str, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that the body reads: for equal vocabularies as many as for one, for others fewer than one by one."""
    kind, plan = CASES[case]
    drafter = opened(kind, plan)
    recorded = record(target, prompt, LENGTH, states=drafter.states)

    def read(*kept: Any) -> int:
        counted: list[int] = []
        with monkeypatch.context() as patch:
            for module in drafter.blocks if kind == "Medusa" else [drafter.body.head]:
                forward = module.forward

                def counting(x: torch.Tensor, *kernels: Any, forward: Any = forward) -> torch.Tensor:
                    counted.append(x.shape[-2])
                    return forward(x, *kernels)

                patch.setattr(module, "forward", counting)
            replay_rounds(recorded, redraft(drafter, kept), len(kept))
        return sum(counted)

    alone = [read(one) for one in ids("most", "some")]
    assert read(*ids("most", "some")[:1] * 3) == alone[0] > 0
    together = read(*ids("most", "some"))
    if case in {"independent, chain", "Medusa"}:
        assert {together, *alone} == {alone[0]}, "read once, whatever is kept"
    assert together < sum(alone)


class _Repeats:
    """A drafter of one's own: what followed the root when it was emitted last, three tokens of it."""

    states: tuple[int, ...] = ()
    nodes = 4
    context: int | None = None

    def begin(self, prompt: Sequence[int], length: int, hidden: torch.Tensor | None) -> None:
        self.known = list(prompt)

    def propose(self, depth: int, chance: Any) -> Draft:
        *before, root = self.known
        last = max((place for place, token in enumerate(before) if token == root), default=len(before))
        return Draft(Tree.chain(root, self.known[last + 1 :][: min(3, depth)]))

    def commit(self, draft: Draft, path: Sequence[int], emitted: Sequence[int], hidden: torch.Tensor | None) -> None:
        assert draft.tree.tokens[list(path)].tolist() == list(emitted[:-1])
        self.known += emitted


def test_a_drafter_of_ones_own_is_led_through_its_rounds(target: Target) -> None:
    """Behind a prompt that the output repeats in parts."""
    accepted = 0
    for prompt in random_prompts(6, VOCAB, [40]):
        recorded = record(target, prompt, LENGTH)
        [rounds] = replay_rounds(recorded, redraft(_Repeats(), [None]), 1)
        assert numbers(rounds) == numbers(live(target, _Repeats(), recorded, stop_ids=()))
        accepted += sum(one.accepted for one in rounds)
    assert accepted > 0


def test_a_head_that_nobody_knows_cannot_be_cut() -> None:
    with pytest.raises(UnsupportedError, match="does not show its head"):
        redraft(_Repeats(), ids("most"))


def test_drafts_that_are_drawn_cannot_be_replayed(opened: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"hangs on chance.*Chain"):
        redraft(opened("independent", Chain(3, WARM)), [None])
    redraft(opened("independent", Chain(3, GREEDY)), [None])


@pytest.mark.parametrize("kind", KINDS)
def test_kept_ids_that_the_head_has_no_row_for_are_refused(opened: Callable[..., Any], kind: str) -> None:
    """Of a full head and of a cut one."""
    for name, kept in ((kind, [3, VOCAB]), (f"{kind} some", [2, 3])):
        drafter = opened(name, None if kind == "Medusa" else TREE)
        with pytest.raises(MismatchError, match=f"no row for 1 of the kept ids.*id {kept[-1]}"):
            redraft(drafter, [np.array(kept)])


def test_without_a_known_limit_drafts_reach_beyond_the_end(target: Target, opened: Callable[..., Any]) -> None:
    """As they do live where the output ends by a stop id far from the limit: emitted tokens are cut there."""
    drafter = opened("independent", CHAIN)
    recorded = record(target, PROMPTS[2], LENGTH)
    [limited], [unlimited] = (
        replay_rounds(one, redraft(drafter, [None]), 1) for one in (recorded, replace(recorded, max_new_tokens=None))
    )
    assert sum(one.emitted for one in unlimited) == sum(one.emitted for one in limited) == LENGTH
    assert {one.depth for one in unlimited} == {3} and limited[-1].depth < 3
    assert unlimited[-1].accepted <= unlimited[-1].emitted


@pytest.mark.parametrize("kind", KINDS[:3])
def test_hidden_states_and_tokens_of_another_place_are_noticed(
    target: Target, opened: Callable[..., Any], kind: str
) -> None:
    """The comparison above can fail: a drafter that reads what is one place off drafts otherwise."""
    drafter, other = (opened(kind, TREE, other=which) for which in (False, True))
    recorded = record(target, PROMPTS[2], LENGTH, states=drafter.states, sampling=WARM)
    expected = numbers(live(target, drafter, recorded, sampling=WARM, stop_ids=()))
    off = replace(recorded, hidden=None if recorded.hidden is None else recorded.hidden.roll(1, dims=0))
    if off.hidden is None:
        off = replace(recorded, prompt=(*recorded.prompt[1:-1], 3, recorded.prompt[-1]))
    [rounds] = replay_rounds(off, redraft(other, [None]), 1)
    assert numbers(rounds) != expected
