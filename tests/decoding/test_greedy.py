"""Greedy speculative decoding emits, id for id, what the plain loop and transformers' own `generate` emit, in float32.

Three worlds: random models with 6 and with 64 ids, and stories260K on real text. In each, every drafter kind drafts
chains and trees, with its full head and with heads cut to nearly all ids, a handful, and one. The independent drafter
is the target with noise on its weights; the others have random weights and are right now and then because they draft
wide. Numbers of rejected and accepted drafts are asserted, so that no world is too easy or too hard to say anything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import small_models
import vocabtrim as vt
from generation import decoded, emitted, generated, lively, noisy_copy, random_prompts
from vocabtrim.decoding.drafters.protocol import Drafter
from vocabtrim.decoding.rounds import Round
from vocabtrim.decoding.target import Target
from vocabtrim.testbed import stories260k
from vocabtrim.testbed.shapes import ModelShape

POOL = 60  # prompts of each world
LENGTHS = (1, 2, 3, 9, 1, 17, 33)

# Name -> kind of drafter, and what it drafts; nodes and branching of a tree are the world's.
DRAFTERS = {
    "independent chain": ("independent", "chain"),
    "independent tree": ("independent", "tree"),
    "EAGLE chain": ("EAGLE", "chain"),
    "EAGLE tree": ("EAGLE", "tree"),
    "EAGLE-3 chain": ("EAGLE-3", "chain"),
    "EAGLE-3 tree": ("EAGLE-3", "tree"),
    "Medusa tree": ("Medusa", "static"),
}
# Name -> how many ids the head keeps of a vocabulary.
KEPT: dict[str, Callable[[int], int]] = {
    "full": lambda vocab: vocab,
    "all but one": lambda vocab: vocab - 1,
    "a handful": lambda vocab: 3 + vocab // 100,
    "one": lambda vocab: 1,
}


@dataclass(frozen=True, eq=False)
class World:
    """A target, prompts, and what `generate` says behind each; drafters are written below `root` when asked for.

    noise: of the independent drafter. tree: what trees are drafted.
    """

    root: Path
    shape: ModelShape
    target: Target
    prompts: list[list[int]]
    expected: list[list[int]]
    noise: float
    tree: Any

    @property
    def length(self) -> int:
        return len(self.expected[0])

    def drafter(self, name: str, kept: str) -> Drafter:
        kind, draws = DRAFTERS[name]
        plan = {"chain": vt.Chain(3), "tree": self.tree, "static": None}[draws]
        return vt.load_drafter(self.folder(kind, KEPT[kept](self.shape.vocab)), self.target, plan=plan)

    def folder(self, kind: str, size: int) -> Path:
        """A drafter whose head keeps `size` ids: those that the target says most, but the last, which it says least."""
        full, out = self.root / kind, self.root / f"{kind} {size}"
        if not full.exists():
            if kind == "independent":
                noisy_copy(self.target.folder, full, self.noise)
            else:
                small_models.write_drafter(full, kind, self.shape)
        if size == self.shape.vocab:
            return full
        if not out.exists():
            said = Counter(token for output in self.expected for token in output)
            ranked = sorted(range(self.shape.vocab), key=lambda token: (-said[token], token))
            ids = [*ranked[: size - 1], ranked[-1]] if size > 1 else ranked[:1]
            small_models.trim(full, self.target.folder, ids, self.shape.vocab, out)
        return out


def random_world(root: Path, vocab: int, tree: Any) -> World:
    shape = small_models.shape(vocab)
    target = vt.load_target(lively(small_models.write_target(root / "plain", shape), root / "target"), dtype="float32")
    prompts = random_prompts(POOL, vocab, LENGTHS)
    return World(root, shape, target, prompts, generated(target, prompts, 12), noise=0.15, tree=tree)


def texts(data: Path) -> list[str]:
    """Beginnings of stories, and prose that the model never saw."""
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside with her friends. One day,"
    prose = (data / "text" / "tinyshakespeare.txt").read_text().split("\n\n")
    pages = [json.loads(line)["text"] for line in (data / "text" / "c4_demo.jsonl").read_text().splitlines()[:20]]
    return (
        [story[:end] for end in range(4, 104, 5)] + [part[:120] for part in prose[:20]] + [part[:90] for part in pages]
    )


def stories_world(root: Path, data: Path) -> World:
    source = data / "models" / "stories260K"
    shape, _ = stories260k.read_checkpoint(source / "checkpoint_legacy.bin")
    target = vt.load_target(stories260k.convert(source, root / "target"), dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(target.folder)
    prompts = [tokenizer(text).input_ids for text in texts(data)]
    assert len(prompts) == POOL
    tree = vt.DynamicTree(nodes=120, depth=3, branching=40)
    return World(root, shape, target, prompts, generated(target, prompts, 24), noise=0.15, tree=tree)


@pytest.fixture(scope="module", params=["6 ids", "64 ids", "stories260K"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    if request.param == "6 ids":
        return random_world(root, 6, vt.DynamicTree(nodes=12, depth=3, branching=6))
    if request.param == "64 ids":
        return random_world(root, 64, vt.DynamicTree(nodes=60, depth=3, branching=16))
    return stories_world(root, request.getfixturevalue("data"))


def prove_bookkeeping(rounds: list[Round]) -> None:
    """Each round emits what was accepted and one more; only the last may be cut."""
    for one in rounds[:-1]:
        assert one.emitted == one.accepted + 1 and one.ended is None
    assert rounds[-1].emitted - rounds[-1].accepted in (0, 1) and rounds[-1].ended == "length"
    assert all(one.accepted <= one.depth <= one.drafted for one in rounds)


def decode_all(world: World, drafter: Drafter, numbers: list[int]) -> list[Round]:
    """Every round behind those prompts, each output compared with `generate`'s."""
    rounds = []
    for number in numbers:
        one = decoded(world.target, drafter, world.prompts[number], world.length)
        assert emitted(one) == world.expected[number], world.prompts[number]
        prove_bookkeeping(one)
        rounds += one
    return rounds


def test_the_plain_loop_is_transformers_generate(world: World) -> None:
    """60 prompts of each world; and they say many things, or the comparison would be of little worth."""
    for prompt, expected in zip(world.prompts, world.expected, strict=True):
        rounds = decoded(world.target, None, prompt, world.length)
        assert emitted(rounds) == expected
        assert all(one.accepted == one.drafted == 0 for one in rounds)
    assert len({tuple(output) for output in world.expected}) > POOL / 3


CASES = [(name, kept) for name in DRAFTERS for kept in KEPT]
CASE_IDS = [f"{name}, {kept}" for name, kept in CASES]


@pytest.mark.parametrize(("name", "kept"), CASES, ids=CASE_IDS)
def test_every_drafter_with_every_head(world: World, name: str, kept: str) -> None:
    """Three prompts each: 28 cases in 3 worlds are 252 generations."""
    first = 3 * CASES.index((name, kept))
    numbers = [number % POOL for number in range(first, first + 3)]
    rounds = decode_all(world, world.drafter(name, kept), numbers)
    if world.shape.vocab > 6 or "chain" in name:  # of 6 ids, a wide tree can hold all that is ever said
        assert any(one.accepted < one.depth for one in rounds), "nothing was rejected"
    if name.startswith("independent") and kept in ("full", "all but one"):
        assert any(one.accepted > 1 for one in rounds), "hardly anything was accepted"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kept"), CASES, ids=CASE_IDS)
def test_every_drafter_with_every_head_at_length(world: World, name: str, kept: str) -> None:
    """Twenty prompts each, every prompt in a third of the cases: 1,680 generations."""
    rounds = decode_all(world, world.drafter(name, kept), list(range(CASES.index((name, kept)) % 3, POOL, 3)))
    if world.shape.vocab > 6 or "chain" in name:  # of 6 ids, a wide tree can hold all that is ever said
        assert any(one.accepted < one.depth for one in rounds), "nothing was rejected"
    if kept in ("full", "all but one") and (name.startswith("independent") or "tree" in name):
        assert any(one.accepted > 0 for one in rounds), "nothing was accepted"


@pytest.mark.parametrize("kept", ["full", "all but one"])
@pytest.mark.parametrize("name", [name for name in DRAFTERS if "tree" in name])
def test_random_weights_are_right_now_and_then_where_they_draft_wide(world: World, name: str, kept: str) -> None:
    """The other tests would say little of EAGLE and Medusa if nothing of theirs were ever accepted."""
    rounds = decode_all(world, world.drafter(name, kept), [5, 26, 47])
    assert sum(one.accepted for one in rounds) > 0


@pytest.mark.parametrize("name", DRAFTERS)
def test_a_drafter_that_can_never_be_right_is_only_slow(world: World, name: str) -> None:
    """One id, which the target does not say there: as many target passes as tokens."""
    kind, draws = DRAFTERS[name]
    said = set(world.expected[8])
    never = next(token for token in range(world.shape.vocab) if token not in said)
    out = world.root / f"{kind} only {never}"
    if not out.exists():
        full = world.folder(kind, world.shape.vocab)
        small_models.trim(full, world.target.folder, [never], world.shape.vocab, out)
    plan = {"chain": vt.Chain(3), "tree": world.tree, "static": None}[draws]
    rounds = decode_all(world, vt.load_drafter(out, world.target, plan=plan), [8])
    assert len(rounds) == world.length and sum(one.accepted for one in rounds) == 0
    assert sum(one.drafted for one in rounds) > world.length
