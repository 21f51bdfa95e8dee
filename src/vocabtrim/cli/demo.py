"""`vocabtrim demo`: the whole job, offline, on the built-in models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .screen import Json, print_json, print_table, size

if TYPE_CHECKING:
    from ..testbed.demo import Trimmed


def demo(
    *,
    out: Annotated[
        Path | None, typer.Option(help="Keep everything in this new folder; without it nothing is kept.")
    ] = None,
    json: Json = False,
) -> None:
    """Trim one drafter of every kind, offline.

    The built-in models have random weights: they show the job, its files and its sizes, not a speed-up.

    Example: vocabtrim demo --out demo/
    """
    from tempfile import TemporaryDirectory

    from ..testbed.demo import run_demo

    def say(step: str) -> None:
        print(step, file=sys.stderr)

    with TemporaryDirectory() as scratch:
        trims = list(run_demo(out or Path(scratch) / "demo", say))
    if json:
        print_json({"out": None if out is None else str(out), "trims": [_as_object(trim) for trim in trims]})
        return
    print_table(
        "One drafter of every kind, head cut to what the calibration text uses",
        ["drafter", "kind", "head rows", "kept", "head bytes", "after", "draft step", "after", "held-out", "check"],
        [_row(trim) for trim in trims],
    )
    print("Weights are random here: the files and sizes are real, a speed-up would need trained drafters.")
    if out is None:
        print("Nothing was kept; --out DIR keeps models, trimmed drafters and a token map to look at.")
    else:
        print(f"Look at {out}/trimmed/eagle/README.md, or run: vocabtrim inspect {out}/trimmed/eagle3")


def _row(trim: Trimmed) -> list[str]:
    report = trim.job.report
    return [
        trim.name,
        trim.before.kind,
        f"{trim.before.head_rows:,}",
        f"{trim.after.head_rows:,}",
        size(trim.before.head_bytes),
        size(trim.after.head_bytes),
        size(trim.before.draft_step_bytes),
        size(trim.after.draft_step_bytes),
        f"{_heldout_coverage(trim):.3f}",
        "sound" if report is not None and report.ok else "fails",
    ]


def _as_object(trim: Trimmed) -> dict[str, Any]:
    report = trim.job.report
    return {
        "name": trim.name,
        "kind": trim.before.kind,
        "kept_size": trim.after.head_rows,
        "head_bytes_before": trim.before.head_bytes,
        "head_bytes_after": trim.after.head_bytes,
        "draft_step_bytes_before": trim.before.draft_step_bytes,
        "draft_step_bytes_after": trim.after.draft_step_bytes,
        "heldout_coverage": _heldout_coverage(trim),
        "ok": report is not None and report.ok,
    }


def _heldout_coverage(trim: Trimmed) -> float:
    assert trim.job.choice is not None  # the demo counts and chooses
    rows = {row.kept_size: row.heldout_coverage for row in trim.job.choice.sizes}
    return rows.get(trim.after.head_rows) or 0.0
