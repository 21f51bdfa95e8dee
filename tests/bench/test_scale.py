"""The bench over context, tree size and kept size: trees as large as they are called, and plans that take turns."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import vocabtrim as vt
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
import scale


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[vt.Target, Path]:
    place = tmp_path_factory.mktemp("models")
    target = shapes.write_target(place / "target", TINY, seed=0)
    return vt.load_target(target, dtype="float32"), shapes.write_eagle(place / "eagle", TINY, seed=1, embed=False)


def run(target: vt.Target, drafter: scale.TakingTurns, rounds: int) -> list[tuple[str, int]]:
    """(by, nodes) of each round."""
    decoded = vt.decode(target, drafter, list(range(5, 15)), max_new_tokens=200, stop_ids=())
    return [(drafter.by, 1 + done.drafted) for _, done in zip(range(rounds), decoded, strict=False)]


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 8, 16, 32, 64])
def test_a_tree_has_as_many_nodes_as_it_is_called(models: tuple[vt.Target, Path], nodes: int) -> None:
    target, folder = models
    drafter = scale.TakingTurns(vt.load_drafter(folder, target), {"so many": scale.tree_of(nodes), "four": vt.Chain(4)})
    seen = run(target, drafter, 6)
    assert {size for by, size in seen if by == "so many"} == {nodes}


def test_plans_take_turns_and_a_catching_up_round_is_nobodys(models: tuple[vt.Target, Path]) -> None:
    """What a round without a draft emits is read by the next one, which so would look slower than its plan is."""
    target, folder = models
    drafter = scale.TakingTurns(vt.load_drafter(folder, target), {"none": None, "two": vt.Chain(2), "one": vt.Chain(1)})
    assert run(target, drafter, 8) == [("two", 3), ("one", 2), ("none", 1), ("", 3)] * 2


def test_turns_change_nothing_in_what_is_emitted(models: tuple[vt.Target, Path]) -> None:
    target, folder = models
    prompt, asked = list(range(5, 15)), {"max_new_tokens": 24, "stop_ids": ()}
    alone = [token for done in vt.decode(target, None, prompt, **asked) for token in done.tokens]
    drafter = scale.TakingTurns(vt.load_drafter(folder, target), {**scale.PLANS})
    assert [token for done in vt.decode(target, drafter, prompt, **asked) for token in done.tokens] == alone


def test_a_cache_costs_keys_and_values_of_every_layer(models: tuple[vt.Target, Path]) -> None:
    target, _ = models
    list(vt.decode(target, None, list(range(5, 15)), max_new_tokens=6, stop_ids=()))
    entries = target.lm.cache.capacity
    assert scale.allocated(target.lm.cache) == entries * TINY.layers * 2 * TINY.key_value * 4
