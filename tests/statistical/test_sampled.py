"""Sampled text has the target's distribution: `vt.decode` with torch's generator, end to end, by chi-square.

What the exact walk cannot show is that real random numbers are drawn, and drawn independently. 1,500 continuations of
three tokens are sampled one after the other from one seeded generator; the first two tokens and the last two are
counted, 25 cells each, and compared with their exact distribution. A table raises a false alarm for one seed in 20,000,
a test for one in 10,000. Seeds are fixed: the result is the same every time.

Power: of distributions whose chi-square distance from the right one, the sum of (wrong - right)^2 / right, is 0.05, a
table of 25 cells finds 98 in 100, and nearly all from 0.06 on (non-central chi-square, 24 degrees of freedom).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
import torch

import mistakes
import vocabtrim as vt
from chi_square import FALSE_ALARM, of_pairs, p_value, p_values
from five_ids import PROMPT, FiveIds, Tokens, draft_with, five_ids, walk
from vocabtrim.decoding.drafters.medusa import static_tree

SAMPLES, LENGTH = 1_500, 3
SEED = 1

KEPT = (0, 3, 4)
SAMPLINGS: dict[str, Any] = {
    "independent": vt.Sampling(temperature=0.8),
    "independent, tied": vt.Sampling(temperature=1.0, top_p=0.95),
    "EAGLE": vt.Sampling(temperature=1.0),
    "EAGLE-3": vt.Sampling(temperature=1.3, top_k=4),
    "Medusa": vt.Sampling(temperature=0.7),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FiveIds]:
    yield from five_ids(tmp_path_factory.mktemp("five"))


def opened(models: FiveIds, kind: str, plan: str, kept: Tokens | None = KEPT) -> tuple[Any, Any]:
    """Target and drafter, trimmed or full."""
    target, drafter = models.opened(kind, kept)
    tree = static_tree(3, nodes=7) if kind == "Medusa" else vt.DynamicTree(nodes=6, depth=2, branching=2)
    return target, draft_with(drafter, tree if plan == "tree" else vt.Chain(2, SAMPLINGS[kind]))


def sampled(target: Any, drafter: Any, sampling: Any) -> list[Tokens]:
    """SAMPLES continuations, one after the other from one generator."""
    generator = torch.Generator().manual_seed(SEED)

    def once() -> Tokens:
        done = vt.decode(
            target, drafter, PROMPT, max_new_tokens=LENGTH, sampling=sampling, stop_ids=(), generator=generator
        )
        return tuple(chain.from_iterable(one.tokens for one in done))

    return [once() for _ in range(SAMPLES)]


@pytest.mark.parametrize(
    ("kind", "plan"),
    [*((kind, "tree") for kind in SAMPLINGS), *((kind, "sampled chain") for kind in SAMPLINGS if kind != "Medusa")],
)
def test_pairs_are_as_frequent_as_the_target_makes_them(models: FiveIds, kind: str, plan: str) -> None:
    """Every kind, trimmed to three ids of five."""
    found = sampled(*opened(models, kind, plan), SAMPLINGS[kind])
    assert min(p_values(found, models.joint(SAMPLINGS[kind], LENGTH))) > FALSE_ALARM


@pytest.mark.parametrize(("kind", "plan"), [("independent", "tree"), ("EAGLE-3", "sampled chain")])
def test_the_same_with_a_full_head(models: FiveIds, kind: str, plan: str) -> None:
    found = sampled(*opened(models, kind, plan, kept=None), SAMPLINGS[kind])
    assert min(p_values(found, models.joint(SAMPLINGS[kind], LENGTH))) > FALSE_ALARM


@pytest.mark.parametrize(
    ("kind", "mistake", "size"),
    [("EAGLE-3", "draft of the full head", 0.133), ("independent", "residual of the target", 0.045)],
)
def test_a_wrong_distribution_is_found(
    models: FiveIds, monkeypatch: pytest.MonkeyPatch, kind: str, mistake: str, size: float
) -> None:
    """Mistakes whose exact chi-square distance, in the first two tokens, is known from walking every outcome.

    They move 0.15 and 0.07 of the probability. The second, over seven cells, is found for 98 seeds in 100.
    """
    mistakes.making(monkeypatch, mistake)
    target, drafter = opened(models, kind, "sampled chain")
    sampling, right = SAMPLINGS[kind], models.joint(SAMPLINGS[kind], LENGTH)
    wrong, expected = of_pairs(walk(target, drafter, sampling, LENGTH).emitted)[0], of_pairs(right)[0]
    distance = sum((wrong.get(pair, 0.0) - expected[pair]) ** 2 / expected[pair] for pair in expected)
    assert distance == pytest.approx(size, abs=5e-4)
    assert p_values(sampled(target, drafter, sampling), right)[0] < FALSE_ALARM


def test_p_values_are_those_of_tables() -> None:
    """Against printed tables of chi-square: 3 degrees of freedom exceed 7.815 in one case of 20."""
    quarter = SAMPLES / 4
    off = (7.815 * quarter / 2) ** 0.5
    counted = Counter({(0, 0): quarter + off, (0, 1): quarter - off, (1, 0): quarter, (1, 1): quarter})
    assert p_value(counted, dict.fromkeys(counted, 0.25)) == pytest.approx(0.05, abs=1e-4)  # type: ignore[arg-type]
