"""Stage times on the machine at hand: rounds of real decoding, of every branching, draft length and tree size in turn.

Rounds are those of the loop that will run, at the questions' own contexts, so caches are as warm or cold as they will
be and our own time is in them. Shapes and kept sizes take turns, so that what the machine does befalls all alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from time import perf_counter

import torch

from ..checkpoint.layouts import MEDUSA
from ..decoding.drafters.choose_plan import choose_plan
from ..decoding.drafters.medusa import MedusaDrafter, static_tree
from ..decoding.drafters.plans import StaticTree
from ..decoding.drafters.protocol import Drafter
from ..decoding.drafters.stepping import SteppingDrafter
from ..decoding.rounds import decode
from ..decoding.sampling import Sampling
from ..decoding.target import Target
from ..measure.recording import Recorded
from .shapes import BRANCHINGS, NODES, STATIC, Shape, candidates
from .stages import Samples, StageTimes

_ROUNDS = 7  # of a run, the first of which reads the prompt and does not count
_FEWEST = 3
_REPEATS = 4  # at most, of all runs


def draft_as(drafter: Drafter, kind: str, shape: Shape, sampling: Sampling) -> Drafter:
    """The same drafter with another plan, from its next generation on."""
    plan = choose_plan(kind, sampling, **shape.numbers)
    if isinstance(drafter, MedusaDrafter):
        assert isinstance(plan, StaticTree)
        drafter.tree = static_tree(len(drafter.heads), plan.nodes)
    else:
        assert isinstance(drafter, SteppingDrafter) and plan is not None and not isinstance(plan, StaticTree)
        drafter.plan = plan
    return drafter


def time_stages(
    target: Target,
    drafters: Mapping[int, Drafter],
    kind: str,
    recorded: Sequence[Recorded],
    *,
    depth: int,
    sampling: Sampling,
    seconds: float,
) -> StageTimes:
    """drafters: by kept size, one size at least. depth: the deepest draft. seconds: how long about; all shapes are run
    once at least, with fewer rounds where the models are slow."""
    samples, generator = Samples(), torch.Generator(target.lm.device)
    prompts = cycle(_typical(target, drafters, recorded, depth))

    def run(size: int | None, shape: Shape, rounds: int) -> None:
        drafter = None if size is None else draft_as(drafters[size], kind, shape, sampling)
        answer = decode(
            target,
            drafter,
            next(prompts),
            max_new_tokens=_room(depth),
            sampling=sampling,
            stop_ids=(),
            generator=generator,
        )
        for one in list(islice(answer, rounds))[1:]:
            if size is None:
                samples.alone.append(one.seconds)
            else:
                samples.add(size, shape, one)

    began = perf_counter()
    for warm in drafters:  # and tells how long a round takes at most
        run(warm, _largest(kind, depth), _FEWEST)
    took = (perf_counter() - began) / (_FEWEST * len(drafters))
    samples = Samples()
    sizes, lengths = list(drafters), sorted({1, min(2, depth), depth})
    if took * _FEWEST * _turns(kind, sizes, lengths) > seconds:  # between two, straight lines have to do
        sizes, lengths = [max(sizes), *([min(sizes)] if len(sizes) > 1 else [])], sorted({1, depth})
    runs = _runs(kind, sizes, lengths)
    turn = list(islice(runs, _turns(kind, sizes, lengths)))
    rounds = min(_ROUNDS, max(_FEWEST, int(seconds / (took * len(turn)))))
    for number in range(_REPEATS):
        if number and perf_counter() - began > seconds * number / (number + 1):
            break
        for size, shape in turn:
            run(size, shape, rounds)
        turn = list(islice(runs, len(turn)))
    return samples.times()


def _runs(kind: str, sizes: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int | None, Shape]]:
    """Without an end: the target alone, then every kept size, branching and draft length; of the largest trees every
    number of nodes comes in its turn. lengths: that others are laid between."""
    nodes, depth = cycle(NODES), lengths[-1]
    while True:
        for size in sizes:
            yield None, Shape(depth, 1, depth + 1)
            for branching, length in _timed(kind, lengths):
                yield size, _shape(branching, length, depth, nodes)


def _timed(kind: str, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Branchings and draft lengths; of a Medusa drafter's one length several trees."""
    if kind == MEDUSA:
        return [(STATIC, lengths[-1])] * 4
    return [(branching, length) for branching in BRANCHINGS for length in lengths]


def _shape(branching: int, length: int, depth: int, nodes: Iterator[int]) -> Shape:
    if branching == 1:
        return Shape(length, 1, length + 1)
    if branching == STATIC:
        return Shape(length, STATIC, next(nodes))
    most = candidates(branching, length) + 1
    return Shape(length, branching, next(nodes) if length == depth else max(n for n in NODES if n <= most))


def _turns(kind: str, sizes: Sequence[int], lengths: Sequence[int]) -> int:
    return len(sizes) * (1 + len(_timed(kind, lengths)))


def _largest(kind: str, depth: int) -> Shape:
    return Shape(depth, STATIC if kind == MEDUSA else BRANCHINGS[-1], NODES[-1])


def _typical(
    target: Target, drafters: Mapping[int, Drafter], recorded: Sequence[Recorded], depth: int
) -> list[list[int]]:
    """Prompts with half of what was answered, cut at their beginning where rounds behind them would find no room."""
    contexts = [target.lm.context, *(drafter.context for drafter in drafters.values())]
    room = min((context for context in contexts if context is not None), default=1 << 30) - _room(depth)
    whole = ([*one.prompt, *one.output[: len(one.output) // 2]] for one in recorded)
    return [tokens[-max(room, 2) :] for tokens in whole]


def _room(depth: int) -> int:
    return (_ROUNDS + 1) * (depth + 1)
