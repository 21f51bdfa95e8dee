"""`vocabtrim cross`: each source's own list on each source's text, before any of them is served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .screen import Json, print_json, print_table


def cross(
    counts: Annotated[list[Path], typer.Argument(metavar="COUNTS...", help="Counts files with held-out parts.")],
    *,
    keep: Annotated[int, typer.Option(min=1, help="Ids in every list.")],
    json: Json = False,
) -> None:
    """Show what each source's own list covers of every source's held-out text.

    The lists: each source alone with merge order, all of them mixed as `choose` does by default, and the lowest ids. A
    star marks a list that loses much more of a work's text than the work's own list does.

    Example: vocabtrim cross by-language.safetensors --keep 8192
    """
    from dataclasses import asdict

    from ..calibrate.counts import TokenCounts
    from ..vocabulary.cross import WORST, cross_coverage

    table = cross_coverage([TokenCounts.load(file) for file in counts], keep)
    failing = {
        workload: [row.name for row in table.rows if table.fails(row, column)]
        for column, workload in enumerate(table.workloads)
    }
    if json:
        print_json(asdict(table) | {"failing": failing})
        return
    cells = [
        [
            row.name,
            *(
                "-" if share is None else f"{share:.4f}{' *' if table.fails(row, column) else ''}"
                for column, share in enumerate(row.coverage)
            ),
        ]
        for row in table.rows
    ]
    print_table(f"Held-out coverage of lists of {keep:,} ids", ["list", *table.workloads], cells)
    print(f"* loses more than {WORST:.0%} of the text beyond what the work's own list loses.")
    for workload, names in failing.items():
        if names:
            print(f"{workload} fails with: {', '.join(names)}.")
