"""What is drafted in one go behind a root: of which shape, and what came of it. Knows numbers alone."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """Levels of drafted tokens; how many nodes of a level are expanded, and children each has; nodes of the tree at
    most, the root not among them. ranked: whether it matters how probable ids are; a chain takes the best alone."""

    depth: int
    branching: int
    drafted: int
    ranked: bool = True


class Nodes(NamedTuple):
    """Drafted nodes, parents first. tokens: ids. parents: nodes, 0 for the root. entries: in the body's cache, behind
    the root's; -1 where a node was not read."""

    tokens: list[int]
    parents: list[int]
    entries: list[int]
