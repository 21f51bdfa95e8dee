"""The whole job on the built-in models: one trim of every drafter kind, each checked, offline.

Puts the public functions in order; knows no stage from inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.inspect import Inspection, inspect
from ..job import Job, calibrate_and_trim
from ..vocabulary.dialects import convert
from .builtin import write_builtin

DRAFTERS = ("independent", "eagle", "eagle3", "medusa", "mtp")


@dataclass(frozen=True, eq=False)
class Trimmed:
    """One drafter before and after."""

    name: str
    before: Inspection
    after: Inspection
    job: Job


def run_demo(out: Path, say: Callable[[str], None]) -> Iterator[Trimmed]:
    """Make the built-in models in out/models, trim each drafter into out/trimmed, and write a token map beside them.

    say: hears a line before each step. Raises OutputError where `out` holds something.
    """
    say("making a target, five drafters and calibration text")
    models = write_builtin(out / "models")
    target, trimmed = models / "target", out / "trimmed"
    for name in DRAFTERS:
        say(f"trimming {name}")
        job = calibrate_and_trim(
            models / name,
            target=target,
            calibrate=[f"target-generated:{models / 'chat.jsonl'}", f"raw:{models / 'text.txt'}"],
            out=trimmed / name,
        )
        yield Trimmed(name, inspect(models / name, target), inspect(trimmed / name, target), job)
    convert(trimmed / "eagle" / "kept.safetensors", "token-map", trimmed / "eagle.token-map.pt")
