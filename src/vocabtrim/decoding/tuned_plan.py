"""What a drafter drafts where tuning found out about it: the numbers of its `tuned.json`, unless others are given.

Knows the file and the numbers; what is made of them is `choose_plan.py`'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.read import open_checkpoint
from ..checkpoint.stored import fingerprint
from ..checkpoint.tuned import read_tuned
from ..provenance import this_machine


@dataclass(frozen=True)
class TunedPlan:
    """numbers: draft length, nodes and branching, as `choose_plan` takes them. speculate: whether to draft at all.
    notes: what was taken from where, a line each; empty where the drafter was not tuned."""

    numbers: Mapping[str, int | None]
    speculate: bool = True
    notes: tuple[str, ...] = ()


def tuned_plan(
    drafter: Path, target: Path, given: Mapping[str, int | None], *, dtype: str, device: str, always: bool = False
) -> TunedPlan:
    """given: numbers that were asked for; they win. Of a drafter that is slower than its target alone nothing is
    drafted, unless numbers are given, or `always`.

    What was tuned for another target, dtype or machine is used, and a note says so. Raises InputError for a damaged
    `tuned.json`.
    """
    tuned = read_tuned(drafter)
    if tuned is None:
        return TunedPlan(given)
    asked = any(number is not None for number in given.values())
    speculate = tuned.speculate or asked or always
    numbers = tuned.filling(given) if speculate else given
    taken = [name for name, value in tuned.numbers.items() if given.get(name) is None and numbers.get(name) == value]
    notes = []
    if not speculate:
        notes.append(f"{drafter.name} was tuned: {tuned.verdict}. {tuned.reason}")
    elif taken:
        told = ", ".join(f"{name.replace('_', ' ')} {numbers[name]}" for name in taken)
        notes.append(f"{drafter.name} was tuned: {told}")
    if always and not tuned.speculate:
        notes.append(f"tuning said: {tuned.verdict}. {tuned.reason}")
    other = tuned.differs(
        target=fingerprint(open_checkpoint(target).tensors.values()),
        dtype=dtype,
        device=device,
        machine=this_machine(),
    )
    if other and notes:
        notes.append(f"it was tuned {', '.join(other)}: what is best here may differ; tune again to know")
    return TunedPlan(numbers, speculate, tuple(notes))
