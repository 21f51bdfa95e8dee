"""`vocabtrim inspect`: what a drafter is, what its head costs, and what a trim would save."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .screen import Json, print_json, print_table, size


def inspect(
    path: Annotated[Path, typer.Argument(help="The drafter's folder.")],
    *,
    target: Annotated[
        Path | None, typer.Option(help="The target's folder; needed where the head is the target's.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what a drafter is and what a trim would save.

    Reads independent causal LMs, EAGLE-1/2, EAGLE-3, Medusa and MTP modules (DeepSeek, Qwen3-Next, MiMo). Only headers
    are read.

    Example: vocabtrim inspect eagle/ --target Llama-3.1-8B-Instruct/
    """
    from ..checkpoint.inspect import inspect as inspect_drafter

    found = inspect_drafter(path, target)
    if json:
        print_json(found.as_dict())
        return
    head = f"{found.head_rows:,} x {found.hidden:,} {'+'.join(found.head_dtypes)}"
    if found.head_format != "unquantized":
        head += f", {found.head_format}"
    rows = [
        ("kind", found.kind),
        ("head", f"{found.heads} x {head}" if found.heads > 1 else head),
        ("head belongs to", f"{found.head_owner}{', tied to the embedding' if found.tied else ''}"),
        ("target's head rows", f"{found.target_rows:,}"),
        ("tokenizer ids", "unknown" if found.tokenizer_ids is None else f"{found.tokenizer_ids:,}"),
        ("trimmed", "yes" if found.trimmed else "no"),
        ("bytes per draft step", size(found.draft_step_bytes)),
        ("of which the head", f"{size(found.head_bytes)} ({found.head_share:.0%})"),
    ]
    if found.cost_ratio is not None:
        rows.append(("cost ratio to a target pass", f"{found.cost_ratio:.4f}"))
    print_table(str(path), ["", ""], rows)
    print_table(
        "What a trim would save",
        ["kept ids", "draft step", "saved"],
        [(f"{kept:,}", size(step), f"{1 - step / found.draft_step_bytes:.0%}") for kept, step in found.savings.items()],
    )
