"""What a drafter drafts, out of the three numbers that people turn: draft length, nodes, branching.

Pure: knows the kinds of drafters and their plans, no models.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...checkpoint.layouts import EAGLE, EAGLE3, INDEPENDENT, MEDUSA
from ...errors import InputError, UnsupportedError
from ..sampling import Sampling
from .plans import Chain, DynamicTree, Plan, StaticTree


def choose_plan(
    kind: str,
    sampling: Sampling,
    *,
    draft_length: int | None = None,
    nodes: int | None = None,
    branching: int | None = None,
) -> Plan | StaticTree | None:
    """The plan of a drafter of that kind; None for Medusa, whose tree is its own, unless its size is told. Defaults
    stand in `plans.py`.

    An independent drafter drafts a chain unless it is told of nodes or of a branching, EAGLE's a dynamic tree unless
    branching is 1. draft_length: of the chain, or the tree's depth. nodes: of the tree, root included. A chain is
    sampled as the target is: that way more drafts survive at a temperature. A tree is always deterministic.
    Raises UnsupportedError for numbers that a Medusa drafter would ignore, InputError for nodes of a chain and for
    numbers out of range.
    """
    told = {"draft_length": draft_length, "nodes": nodes, "branching": branching}
    given = {name: value for name, value in told.items() if value is not None}
    if kind == MEDUSA:
        shape = {name: value for name, value in given.items() if name != "nodes"}
        if shape:
            raise UnsupportedError(
                "a Medusa drafter's tree is static",
                expected="no draft length or branching",
                found=_listed(shape),
                remedy=f"leave {' and '.join(map(_option, shape))} out; --nodes cuts the tree",
            )
        return None if nodes is None else StaticTree(nodes)
    if kind not in {INDEPENDENT, EAGLE, EAGLE3}:
        return None  # refused by name when it is opened
    chain = branching == 1 or (kind == INDEPENDENT and branching is None and nodes is None)
    if not chain:
        return DynamicTree(**_named(given, draft_length="depth", nodes="nodes", branching="branching"))
    if nodes is not None:
        raise InputError(
            "a chain has no number of nodes",
            expected="a draft length, or a branching above 1",
            found=_listed(given),
            remedy="give --draft-length instead of --nodes",
        )
    return Chain(**_named(given, draft_length="length"), sampling=None if sampling.greedy else sampling)


def plan_depth(plan: Plan | StaticTree | None) -> int | None:
    """How many tokens deep a plan of `choose_plan` drafts where nothing cuts it short; None where there is none."""
    if isinstance(plan, Chain):
        return plan.length
    return plan.depth if isinstance(plan, DynamicTree) else None


def _named(given: Mapping[str, int], **fields: str) -> dict[str, int]:
    """The numbers that were given, under the names of a plan's fields."""
    return {fields[name]: value for name, value in given.items() if name in fields}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _listed(given: Mapping[str, int]) -> str:
    return ", ".join(f"{_option(name)} {value}" for name, value in given.items())
