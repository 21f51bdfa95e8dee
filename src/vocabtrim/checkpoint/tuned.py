"""`tuned.json` beside a drafter: what tuning found out about it on one machine. Reading, proving and writing it.

Knows a small file; what is in it is measured by tuning/, and used by whoever drafts, measures or exports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError

SCHEMA = 1
TUNED_FILE = "tuned.json"
_NUMBERS = ("draft_length", "nodes", "branching")
_LARGEST = 4096


@dataclass(frozen=True)
class Tuned:
    """What tuning found out.

    speculate: whether drafting is faster than the target alone. verdict, reason: in words. kept_size: rows of the head.
    draft_length, nodes, branching: of the best shape, as `choose_plan` takes them; those that its kind has not are
    None. chain: draft length of the best chain, for engines that draft nothing else; None for Medusa.
    target: fingerprint of its weights. dtype, device, machine: where it was measured. figures: of what was measured.
    made: the birth certificate.
    """

    speculate: bool
    verdict: str
    reason: str
    kept_size: int
    target: str
    dtype: str
    device: str
    machine: Mapping[str, Any]
    draft_length: int | None = None
    nodes: int | None = None
    branching: int | None = None
    chain: int | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def numbers(self) -> dict[str, int]:
        """Draft length, nodes and branching, as far as they are there."""
        return {name: value for name in _NUMBERS if (value := getattr(self, name)) is not None}

    def filling(self, given: Mapping[str, int | None]) -> dict[str, int | None]:
        """The numbers that were given, and the tuned ones beside them that do not contradict them: a chain has no
        nodes."""
        taken: dict[str, int | None] = {**self.numbers}
        if given.get("branching") == 1 or (self.branching == 1 and given.get("branching") is not None):
            taken.pop("nodes", None)
        if given.get("nodes") is not None and self.branching == 1:
            taken.pop("branching", None)
        return taken | {name: value for name, value in given.items() if value is not None}

    def differs(self, *, target: str, dtype: str, device: str, machine: Mapping[str, Any]) -> list[str]:
        """What is not as it was when this was measured, in words; empty where all is."""
        found = []
        if target != self.target:
            found.append("for another target")
        if dtype != self.dtype:
            found.append(f"in {self.dtype}")
        if device.partition(":")[0] != self.device.partition(":")[0]:
            found.append(f"on {self.device}")
        elif dict(machine) != dict(self.machine):
            found.append("on another machine")
        return found


def read_tuned(folder: Path) -> Tuned | None:
    """What tuning found out about the drafter of a folder; None where it was not tuned. Raises InputError for a file
    that is damaged or of another schema version."""
    path = folder / TUNED_FILE
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        schema = told.pop("schema")
        if schema == SCHEMA:
            return _proven(Tuned(**told))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise InputError(
            f"{path} is damaged",
            found=f"{type(error).__name__}: {error}"[:200],
            remedy="tune again, or remove the file to draft as without it",
        ) from error
    raise InputError(
        f"{path} is of another schema version",
        expected=SCHEMA,
        found=repr(schema)[:40],
        remedy="tune again with this version of vocabtrim, or remove the file",
    )


def write_tuned(folder: Path, tuned: Tuned) -> None:
    """Put it into a folder that is not in its place yet (`provenance.atomic_directory`)."""
    told = {"schema": SCHEMA, **asdict(tuned)}
    (folder / TUNED_FILE).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _proven(tuned: Tuned) -> Tuned:
    for name in (*_NUMBERS, "chain", "kept_size"):
        value = getattr(tuned, name)
        if name == "kept_size":
            sound = type(value) is int and value > 0
        else:
            sound = value is None or (type(value) is int and 1 <= value <= _LARGEST)
        if not sound:
            raise ValueError(f"{name} {value!r}")
    words = (tuned.verdict, tuned.reason, tuned.target, tuned.dtype, tuned.device)
    if type(tuned.speculate) is not bool or not all(isinstance(word, str) for word in words):
        raise ValueError("an entry of another type")
    if not isinstance(tuned.machine, dict) or not isinstance(tuned.figures, dict) or not isinstance(tuned.made, dict):
        raise ValueError("an entry of another type")
    return tuned
