"""One look at each place tells the rounds of every shape: those of replaying each shape by itself, one by one.

For every kind of drafter, the full head and kept vocabularies in one pass; and by hand, where the answer can be read
off. In float64, where passes of different width agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import small_models
import vocabtrim as vt
from generation import lively, noisy_copy, random_prompts
from recordings import record
from vocabtrim.checkpoint.layouts import EAGLE, EAGLE3, INDEPENDENT, MEDUSA
from vocabtrim.decoding.drafters.choose_plan import choose_plan
from vocabtrim.decoding.drafters.plans import Candidates
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.decoding.target import Target
from vocabtrim.decoding.tree import Tree
from vocabtrim.measure.recording import Recorded
from vocabtrim.measure.redraft import redraft
from vocabtrim.measure.replay_rounds import replay_rounds
from vocabtrim.tuning.reach import NEVER, Reached, acceptance_by_depth, accepted, nothing_reached, walk
from vocabtrim.tuning.redrafted import Redrafted, fill_chain, fill_tree
from vocabtrim.tuning.shapes import STATIC, Shape, candidates, shapes

VOCAB, LENGTH, DEPTH = 16, 12, 3
KINDS = {"independent": INDEPENDENT, "EAGLE": EAGLE, "EAGLE-3": EAGLE3, "Medusa": MEDUSA}
KEPT = [None, np.array([i for i in range(VOCAB) if i % 4 != 1]), np.array([2, 7, 11, 12, 14])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reach")
    shape = small_models.shape(VOCAB)
    lively(small_models.write_target(root / "plain", shape), root / "target")
    noisy_copy(root / "target", root / "independent", scale=0.1)
    for kind in list(KINDS)[1:]:
        small_models.write_drafter(root / kind, kind, shape)
    return root


@pytest.fixture(scope="module")
def target(folder: Path) -> Target:
    return vt.load_target(folder / "target", dtype="float64")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8)], ids=["greedy", "sampled"])
def test_the_rounds_of_every_shape_are_those_of_a_replay(
    kind: str, sampling: Sampling, folder: Path, target: Target
) -> None:
    drafter: Any = vt.load_drafter(folder / kind, target)
    prompts = random_prompts(2, VOCAB, [1, 14])
    generations = [
        record(target, prompt, LENGTH, states=drafter.states, sampling=sampling, seed=seed)
        for seed, prompt in enumerate(prompts)
    ]
    heads = len(drafter.heads) if kind == "Medusa" else 0
    reader = Redrafted(drafter, KEPT, heads or DEPTH)
    reached = [reader.read(generation) for generation in generations]
    efficiencies = set()
    for shape in shapes(KINDS[kind], depth=DEPTH, heads=heads)[:: 1 if heads else 4]:
        again = vt.load_drafter(folder / kind, target, plan=choose_plan(KINDS[kind], Sampling(), **shape.numbers))
        for generation, found in zip(generations, reached, strict=True):
            replayed = replay_rounds(generation, redraft(again, KEPT), len(KEPT))
            for number, rounds in enumerate(replayed):
                walked = walk(found[number, shape.branching], shape)
                assert walked.emitted == sum(one.emitted for one in rounds) == LENGTH
                assert walked.rounds == len(rounds), f"{shape}, vocabulary {number}"
                efficiencies.add(walked.rounds)
    assert len(efficiencies) > 1, "drafts that are never accepted would make any two equal"


def test_a_stop_id_ends_the_rounds_too(folder: Path, target: Target) -> None:
    drafter = vt.load_drafter(folder / "independent", target)
    whole = record(target, [5, 6, 7], LENGTH)
    stop = whole.output[6]
    cut = record(target, [5, 6, 7], LENGTH, stop_ids=[stop])
    assert len(cut.output) < LENGTH
    found = Redrafted(drafter, [None], DEPTH).read(cut)
    replayed = replay_rounds(cut, redraft(drafter, [None]), 1)[0]
    assert walk(found[0, 1], Shape(3, 1, 4)).rounds == len(replayed)


def hand() -> Reached:
    """Three tokens, drafts two deep: behind none of them both are right at 2 and 4 nodes, behind one nothing is, and
    behind two nothing is drafted."""
    needed = nothing_reached(3, 2)
    needed[0, 0, 0], needed[0, 1] = 2, [2, 4]
    return Reached(needed, np.array([2, 1, 0]), 3)


def test_by_hand_more_nodes_accept_more() -> None:
    assert accepted(hand(), Shape(2, 2, 4)).tolist() == [2, 0, 0]
    assert accepted(hand(), Shape(2, 2, 3)).tolist() == [1, 0, 0]
    assert accepted(hand(), Shape(1, 2, 4)).tolist() == [1, 0, 0]
    assert walk(hand(), Shape(2, 2, 4)).rounds == 1
    assert walk(hand(), Shape(2, 2, 3)).rounds == 2
    assert acceptance_by_depth([hand()], Shape(2, 2, 3)) == [0.5, 0.0]


def test_by_hand_a_candidate_waits_for_all_that_are_worth_more() -> None:
    """Root -> a (-0.1), b (-2); a -> c (-0.3), d (-3). The output goes on with b: b is the third best of both levels,
    and the second of the first level alone."""
    found = Candidates(
        torch.tensor([10, 11, 12, 13]),
        torch.tensor([-0.1, -2.0, -0.3, -3.0]),
        torch.tensor([-1, -1, 0, 0]),
        [torch.tensor([0])],
        [2, 4],
    )
    right, wrong = nothing_reached(1, 2)[0], nothing_reached(1, 2)[0]
    fill_tree(right, found, [11, 12])
    fill_tree(wrong, found, [99])
    assert right.tolist() == [[3, NEVER], [4, NEVER]]
    assert (wrong == NEVER).all()
    both = nothing_reached(1, 2)[0]
    fill_tree(both, found, [10, 13])
    assert both.tolist() == [[2, NEVER], [2, 5]]


def test_by_hand_of_equal_worth_the_first_comes_first() -> None:
    found = Candidates(torch.tensor([4, 5]), torch.tensor([-0.5, -0.5]), torch.tensor([-1, -1]), [], [2])
    for token, nodes in ((4, 2), (5, 3)):
        needed = nothing_reached(1, 1)[0]
        fill_tree(needed, found, [token])
        assert needed.tolist() == [[nodes]]


def test_by_hand_a_chain_counts_while_it_is_right() -> None:
    needed = nothing_reached(1, 3)[0]
    fill_chain(needed, Tree.chain(0, [4, 5, 6]), [4, 5, 7])
    assert needed.tolist() == [[2, NEVER, NEVER], [2, 3, NEVER], [2, 3, NEVER]]


def test_shapes_are_what_a_drafter_takes() -> None:
    """Each goes through `choose_plan`; no tree asks for more nodes than candidates, or for fewer than a chain has."""
    for kind in (INDEPENDENT, EAGLE, MEDUSA):
        for shape in shapes(kind, heads=3):
            assert choose_plan(kind, Sampling(), **shape.numbers) is not None
            if shape.branching not in (1, STATIC):
                assert shape.draft_length + 1 < shape.nodes <= candidates(shape.branching, shape.draft_length) + 1
    assert len(set(shapes(EAGLE))) == len(shapes(EAGLE))
    assert {shape.draft_length for shape in shapes(EAGLE) if shape.branching == 1} == set(range(1, 9))


def test_recordings_without_a_length_limit_are_read() -> None:
    assert Recorded("0", (1,), (2, 3)).max_new_tokens is None
    assert walk(Reached(nothing_reached(2, 2), np.array([9, 9]), 2), Shape(2, 1, 3)).rounds == 2
