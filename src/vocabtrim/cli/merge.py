"""`vocabtrim merge`: several counts files -> one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .count import as_object, print_counts
from .screen import Json, print_json


def merge(
    files: Annotated[list[Path], typer.Argument(metavar="COUNTS...", help="Files that vocabtrim count wrote.")],
    *,
    out: Annotated[Path, typer.Option(help="Where to write the merged counts.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="Factor of each file, in their order; 1 each without it.")
    ] = None,
    json: Json = False,
) -> None:
    """Merge counts files, each with a weight.

    Sources and held-out parts stay apart.

    Example: vocabtrim merge chat.safetensors code.safetensors --weight 1 --weight 0.25 --out mixed.safetensors
    """
    from ..calibrate.counts import TokenCounts
    from ..calibrate.counts import merge as merge_counts
    from ..provenance import refuse_replacing

    refuse_replacing(out, "counts", files)
    merged = merge_counts([TokenCounts.load(file) for file in files], weight)
    merged.save(out)
    if json:
        print_json({"out": str(out), **as_object(merged)})
    else:
        print_counts(merged)
        print(f"\nwrote {out}")
