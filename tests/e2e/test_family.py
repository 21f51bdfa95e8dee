"""The trained family is a fair test: what its drafters reach, what trimming costs them, and that nothing is lost.

Figures are those of the files as carried, by the decoding loop itself, in float32. bench/paper.py takes all prompts;
here it is the first of every category, which is why the bounds lie a little below what docs/testbed.md states.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import vocabtrim as vt
from vocabtrim.decoding.text import TargetText
from vocabtrim.testbed.demo import DRAFTERS, chosen_prompts
from vocabtrim.testbed.family import FAMILY, calibration, member
from vocabtrim.testbed.train.sizes import VOCAB

pytestmark = pytest.mark.slow

PROMPTS, LENGTH = 28, 64
EIGHTH = VOCAB // 8
AT_LEAST = {"eagle": 2.4, "eagle3": 2.4, "independent": 1.9, "medusa": 1.4}


@pytest.fixture(scope="module")
def target() -> vt.Target:
    return vt.load_target(member("target"), dtype="float32")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    words = TargetText(member("target"))
    return [words.conversation(prompt.messages) for prompt in chosen_prompts(PROMPTS)]


@pytest.fixture(scope="module")
def plain(target: vt.Target, prompts: list[list[int]]) -> list[list[int]]:
    """What the target writes alone."""
    return [tokens(list(vt.decode(target, None, prompt, max_new_tokens=LENGTH))) for prompt in prompts]


def tokens(rounds: list[vt.Round]) -> list[int]:
    return [token for round in rounds for token in round.tokens]


@pytest.fixture(scope="module")
def reached(target: vt.Target, prompts: list[list[int]], plain: list[list[int]]) -> Callable[[Path], float]:
    """Block efficiency of a drafter's folder, once it is shown that it changes no token."""

    def measure(folder: Path) -> float:
        drafter = vt.load_drafter(folder, target)
        rounds: list[vt.Round] = []
        for prompt, expected in zip(prompts, plain, strict=True):
            answer = list(vt.decode(target, drafter, prompt, max_new_tokens=LENGTH))
            assert tokens(answer) == expected
            rounds += answer
        return vt.summarise(rounds).block_efficiency

    return measure


def cut(name: str, origin: str, out: Path) -> Path:
    """An eighth of the vocabulary, by one origin of calibration text and nothing that would make up for it."""
    counts = vt.count([calibration(origin)], tokenizer=member("target"), origin=origin)
    kept = vt.choose(counts, keep=EIGHTH, drafter=member(name), target=member("target"), other_work=0).kept
    assert kept is not None and kept.size == EIGHTH
    return vt.trim(member(name), kept, target=member("target"), out=out).out


@pytest.mark.parametrize("name", DRAFTERS)
def test_what_trimming_costs(name: str, reached: Callable[[Path], float], tmp_path: Path) -> None:
    full = reached(member(name))
    own, raw = (reached(cut(name, origin, tmp_path / origin)) for origin in ("target-generated", "raw"))
    assert full >= AT_LEAST[name], full
    assert own >= 0.88 * full, (own, full)
    assert raw < 0.97 * own, (raw, own)


def test_the_target_ends_most_of_its_answers(plain: list[list[int]]) -> None:
    stops = {16_368, 16_370}
    ended = sum(bool(stops & set(answer)) for answer in plain)
    assert ended >= PROMPTS / 2
    assert len({tuple(answer) for answer in plain}) == PROMPTS  # and none is that of another


def test_it_is_light_enough_to_carry() -> None:
    assert sum(path.stat().st_size for path in FAMILY.rglob("*") if path.is_file()) < 40e6
