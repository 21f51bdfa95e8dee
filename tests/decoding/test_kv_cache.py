"""The caches hold exactly what was emitted, whatever was drafted and accepted before: compared with starting afresh.

Random trees and random accepted paths, over several rounds. Float32 sums come out differently in passes of different
width, by some 1e-6 here; TOLERANCE is a few times that, and a wrong entry misses by more than 1e-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import small_models
import vocabtrim as vt
from generation import lively, noisy_copy
from vocabtrim.decoding.chance import TorchChance
from vocabtrim.decoding.drafters.protocol import Draft, Drafter
from vocabtrim.decoding.kv_cache import KeyValueCache
from vocabtrim.decoding.target import Target
from vocabtrim.decoding.tree import Tree

VOCAB, ROOM = 64, 120
TOLERANCE = 1e-5
PLANS: dict[str, Any] = {
    "chain": vt.Chain(4),
    "tree": vt.DynamicTree(nodes=14, depth=4, branching=4),
    "static": None,
}
DRAFTERS = [
    ("independent", "chain"),
    ("independent", "tree"),
    ("EAGLE", "chain"),
    ("EAGLE", "tree"),
    ("EAGLE-3", "chain"),
    ("EAGLE-3", "tree"),
    ("Medusa", "static"),
]
many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
in_numbers = pytest.mark.parametrize("examples", [40, pytest.param(500, marks=pytest.mark.slow)])
several = settings(many, max_examples=15)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    shape = small_models.shape(VOCAB)
    lively(small_models.write_target(root / "plain", shape), root / "target")
    noisy_copy(root / "target", root / "independent", scale=0.15)
    for kind in ("EAGLE", "EAGLE-3", "Medusa"):
        small_models.write_drafter(root / kind, kind, shape)
    for kind in ("independent", "EAGLE", "EAGLE-3", "Medusa"):
        small_models.trim(root / kind, root / "target", range(0, VOCAB, 3), VOCAB, root / f"{kind}, trimmed")
    return root


@pytest.fixture(scope="module")
def target(folder: Path) -> Target:
    return vt.load_target(folder / "target", dtype="float32")


@pytest.fixture(scope="module")
def fresh(folder: Path) -> Target:
    """The same target, with a cache of its own to compare with."""
    return vt.load_target(folder / "target", dtype="float32")


@st.composite
def trees(draw: st.DrawFn, most: int = 12) -> Tree:
    """Any tree, siblings with different tokens. The root's token is put in later."""
    size = draw(st.integers(1, most))
    parents = (-1, *(draw(st.integers(max(0, node - 4), node - 1)) for node in range(1, size)))
    first = draw(st.integers(0, VOCAB - 1))
    return Tree(torch.tensor([(first + 5 * node) % VOCAB for node in range(size)]), parents)


@st.composite
def round_lists(draw: st.DrawFn) -> list[tuple[Tree, int, int]]:
    """Some rounds: a tree, the node down to which it is accepted, and the token behind."""
    rounds = []
    for _ in range(draw(st.integers(1, 4))):
        tree = draw(trees())
        rounds.append((tree, draw(st.integers(0, tree.size - 1)), draw(st.integers(0, VOCAB - 1))))
    return rounds


prompts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9)


def rooted(tree: Tree, root: int) -> Tree:
    return Tree(torch.tensor([root, *tree.tokens.tolist()[1:]]), tree.parents)


def entries(cache: KeyValueCache, layer: int) -> torch.Tensor:
    """(2, heads, length, head_dim) keys and values of a layer."""
    held = cache.layers[layer]
    return torch.stack([held.keys[0, :, : cache.length], held.values[0, :, : cache.length]])


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max()) if found.numel() else 0.0


def read_afresh(fresh: Target, tokens: Sequence[int]) -> torch.Tensor:
    """(token, vocab) logits of one plain pass from nothing; its cache is `fresh`'s afterwards."""
    fresh.lm.cache.reserve(ROOM)
    return fresh.lm.run(torch.tensor(tokens), rows=len(tokens)).logits


def prove_cache(target: Target, fresh: Target, tokens: Sequence[int]) -> None:
    """The cache holds `tokens`, as if they had been read in one pass."""
    assert target.lm.cache.length == len(tokens)
    if tokens:
        read_afresh(fresh, tokens)
        for layer in range(target.lm.layers):
            assert difference(entries(target.lm.cache, layer), entries(fresh.lm.cache, layer)) < TOLERANCE


@in_numbers
def test_committed_rounds_leave_what_one_plain_pass_leaves(target: Target, fresh: Target, examples: int) -> None:
    """Keys, values, and the logits of a further pass."""

    @settings(many, max_examples=examples)
    @given(prompt=prompts, rounds=round_lists())
    def check(prompt: list[int], rounds: list[tuple[Tree, int, int]]) -> None:
        target.begin(prompt, ROOM)
        known = list(prompt)  # the last of them, the root, is not read yet
        for drawn, node, token in rounds:
            tree = rooted(drawn, known[-1])
            path = tree.path_to(node)
            target.verify(tree)
            target.commit(tree, path)
            known += [*tree.tokens[path].tolist(), token]
            prove_cache(target, fresh, known[:-1])
        further = target.lm.run(torch.tensor(known[-1:])).logits[0]
        assert difference(further, read_afresh(fresh, known)[-1]) < TOLERANCE

    check()


@in_numbers
def test_every_node_sees_its_own_path_and_nothing_else(target: Target, fresh: Target, examples: int) -> None:
    """Logits and hidden states of each node equal those of a plain pass over prompt and path."""

    @settings(many, max_examples=examples)
    @given(prompt=prompts, drawn=trees(most=20))
    def check(prompt: list[int], drawn: Tree) -> None:
        tree = rooted(drawn, prompt[-1])
        states = (0, 2, -1)
        target.begin(prompt, ROOM)
        seen = target.verify(tree, states)
        assert seen.hidden is not None and seen.logits.shape == (tree.size, VOCAB)
        for node in range(tree.size):
            tokens = [*prompt, *tree.tokens[tree.path_to(node)].tolist()]
            fresh.lm.cache.reserve(ROOM)
            plain = fresh.lm.run(torch.tensor(tokens), states=states)
            assert plain.hidden is not None
            assert difference(seen.logits[node], plain.logits[0]) < TOLERANCE
            assert difference(seen.hidden[node], plain.hidden[-1]) < TOLERANCE

    check()


@many
@given(tokens=st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=20), data=st.data())
def test_rewinding_is_as_if_it_had_never_been_read(
    target: Target, fresh: Target, tokens: list[int], data: st.DataObject
) -> None:
    length = data.draw(st.integers(0, len(tokens)))
    target.lm.cache.reserve(ROOM)
    target.lm.run(torch.tensor(tokens))
    target.lm.cache.rewind(length)
    prove_cache(target, fresh, tokens[:length])
    other = [(token + 1) % VOCAB for token in tokens]
    found = target.lm.run(torch.tensor(other)).logits[0]
    assert difference(found, read_afresh(fresh, [*tokens[:length], *other])[-1]) < TOLERANCE


def test_rewinding_beyond_the_end_does_nothing(target: Target, fresh: Target) -> None:
    target.lm.cache.reserve(ROOM)
    target.lm.run(torch.tensor([3, 4, 5]))
    target.lm.cache.rewind(7)
    prove_cache(target, fresh, [3, 4, 5])


def test_more_room_keeps_nothing_and_less_room_keeps_the_memory(target: Target, fresh: Target) -> None:
    cache = target.lm.cache
    for room in (8, 2000, 20):
        cache.reserve(room)
        assert cache.length == 0 and cache.capacity >= room
        target.lm.run(torch.tensor([5, 6, 7]))
        prove_cache(target, fresh, [5, 6, 7])
    assert cache.capacity == 2000


def test_the_test_can_fail(target: Target, fresh: Target) -> None:
    """Siblings taken for one another, and a path committed one place too early, are found out."""
    tree = Tree(torch.tensor([9, 10, 11, 12]), (-1, 0, 0, 2))
    target.begin([1, 2, 9], ROOM)
    logits = target.verify(tree).logits
    assert difference(logits[3], read_afresh(fresh, [1, 2, 9, 10, 12])[-1]) > 0.1
    target.lm.cache.commit(target.lm.cache.length - tree.size, [0, 1, 3])
    with pytest.raises(AssertionError):
        prove_cache(target, fresh, [1, 2, 9, 11, 12])


def rightly(draft: Draft, data: st.DataObject) -> list[int]:
    """The path to some node of a proposal."""
    return draft.tree.path_to(data.draw(st.integers(0, draft.tree.size - 1)))


def proposal_afresh(drafter: Drafter, fresh: Target, known: Sequence[int], depth: int) -> Draft:
    """What a drafter proposes that is begun on the whole sequence."""
    hidden = fresh.begin(known, ROOM, drafter.states)
    drafter.begin(known, ROOM, hidden)
    return drafter.propose(depth, TorchChance())


@pytest.mark.parametrize("trimmed", [False, True], ids=["full", "trimmed"])
@pytest.mark.parametrize(("kind", "draws"), DRAFTERS, ids=[f"{kind} {draws}" for kind, draws in DRAFTERS])
def test_a_drafter_proposes_as_if_begun_on_the_whole_sequence(
    folder: Path, target: Target, fresh: Target, kind: str, draws: str, trimmed: bool
) -> None:
    """After rounds in which random parts of its proposals were accepted, and of random depths asked for."""
    path = folder / (f"{kind}, trimmed" if trimmed else kind)
    drafter, other = (vt.load_drafter(path, opened, plan=PLANS[draws]) for opened in (target, fresh))

    @several
    @given(prompt=prompts, data=st.data())
    def check(prompt: list[int], data: st.DataObject) -> None:
        drafter.begin(prompt, ROOM, target.begin(prompt, ROOM + drafter.nodes, drafter.states))
        known = list(prompt)
        for _ in range(data.draw(st.integers(1, 5))):
            depth = data.draw(st.sampled_from([4, 4, 4, 1, 0]))
            draft = drafter.propose(depth, TorchChance())
            expected = proposal_afresh(other, fresh, known, depth)
            assert draft.tree.tokens.tolist() == expected.tree.tokens.tolist()
            assert draft.tree.parents == expected.tree.parents
            assert draft.tree.depth <= depth and draft.tree.size <= drafter.nodes
            accepted = rightly(draft, data)
            seen = target.verify(draft.tree, drafter.states)
            target.commit(draft.tree, accepted)
            emitted = [*draft.tree.tokens[accepted].tolist(), data.draw(st.integers(0, VOCAB - 1))]
            hidden = None if seen.hidden is None else seen.hidden[[0, *accepted]]
            drafter.commit(draft, accepted, emitted, hidden)
            known += emitted

    check()


@pytest.mark.parametrize(("kind", "draws"), DRAFTERS[:2], ids=["chain", "tree"])
def test_an_independent_drafters_cache_holds_the_accepted_tokens(
    folder: Path, target: Target, kind: str, draws: str
) -> None:
    """Its entries are kept across rounds, not read again, so they are compared one by one."""
    drafter: Any = vt.load_drafter(folder / kind, target, plan=PLANS[draws])
    same = vt.load_target(folder / kind, dtype="float32")

    @several
    @given(prompt=prompts, data=st.data())
    def check(prompt: list[int], data: st.DataObject) -> None:
        drafter.begin(prompt, ROOM, None)
        known = list(prompt)
        for _ in range(data.draw(st.integers(1, 4))):
            draft = drafter.propose(4, TorchChance())
            accepted = rightly(draft, data)
            emitted = [*draft.tree.tokens[accepted].tolist(), data.draw(st.integers(0, VOCAB - 1))]
            drafter.commit(draft, accepted, emitted, None)
            known += emitted
            held = drafter.body.lm.cache.length
            assert len(known) - 2 <= held < len(known)  # all but the new root, and a leaf that it never read
            read_afresh(same, known[:held])
            for layer in range(same.lm.layers):
                found = entries(drafter.body.lm.cache, layer)
                assert difference(found, entries(same.lm.cache, layer)) < TOLERANCE

    check()
