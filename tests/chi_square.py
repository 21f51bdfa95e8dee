"""Are sampled continuations as frequent as they should be? The first two tokens and the last two, by chi-square."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from five_ids import Distribution, Tokens

FALSE_ALARM = 5e-5  # of one table
FEWEST = 5.0  # cells that are expected less often are counted together


def p_values(found: Sequence[Tokens], right: Distribution) -> list[float]:
    """Of the first two tokens, and of the last two."""
    pairs = [Counter(tokens[:2] for tokens in found), Counter(tokens[-2:] for tokens in found)]
    return [p_value(counted, expected) for counted, expected in zip(pairs, of_pairs(right), strict=True)]


def of_pairs(joint: Distribution) -> list[Distribution]:
    """The distribution of the first two tokens, and of the last two."""
    tables: list[Distribution] = [{}, {}]
    for tokens, probability in joint.items():
        for table, pair in zip(tables, (tokens[:2], tokens[-2:]), strict=True):
            table[pair] = table.get(pair, 0.0) + probability
    return tables


def p_value(counted: Counter[Tokens], expected: Distribution) -> float:
    """Chance of a chi-square statistic as large or larger: the upper regularised gamma function of half of both."""
    if counted.keys() - expected.keys():
        return 0.0  # something was emitted that cannot be
    samples = sum(counted.values())
    cells = {pair: probability * samples for pair, probability in expected.items()}
    pool = (0.0, 0.0)
    found: list[tuple[float, float]] = []
    for pair in sorted(cells, key=lambda pair: cells[pair]):
        if cells[pair] < FEWEST or 0 < pool[1] < FEWEST:  # the pool itself is no rare cell either
            pool = (pool[0] + counted[pair], pool[1] + cells[pair])
        else:
            found.append((counted[pair], cells[pair]))
    found += [pool] if pool[1] else []
    statistic = sum((count - right) ** 2 / right for count, right in found)
    halves = torch.tensor([len(found) - 1, statistic], dtype=torch.float64) / 2
    return float(torch.special.gammaincc(*halves))
