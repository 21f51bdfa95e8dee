"""`vocabtrim export`: a trimmed drafter as an engine takes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .screen import Json, print_json

if TYPE_CHECKING:
    from ..export.export import Export


def export(
    drafter: Annotated[Path, typer.Argument(help="A trimmed drafter's folder.")],
    *,
    engine: Annotated[str, typer.Option(help="sglang, llama-cpp")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")],
    target: Annotated[str | None, typer.Option(help="The target it drafts for: local folder or hub id.")] = None,
    engine_version: Annotated[
        str | None, typer.Option(help="Of the engine that will serve it; what is installed here by default.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a trimmed drafter in an engine's own form, and say how that engine serves it.

    Refuses, with the reason, what the engine cannot serve trimmed. What was written is read back as the engine does.

    Example: vocabtrim export trimmed/ --engine sglang --target Llama-3.1-8B-Instruct/ --out served/
    """
    from ..export.export import export as write

    written = write(drafter, engine, out=out, target=target, engine_version=engine_version)
    if json:
        print_json(as_object(written))
    else:
        tell(written)


def tell(written: Export) -> None:
    """How it is served, for people; for export and trim alike."""
    print(f"{written.out}: for {written.engine}. Serve it with:\n")
    print("\n".join(f"    {line}" for line in written.serving.command.splitlines()))
    print(f"\nAcceptance: {written.serving.acceptance}")
    for warning in written.serving.warnings:
        print(f"warning: {warning}")


def as_object(written: Export) -> dict[str, object]:
    """The same for programs."""
    return {
        "out": str(written.out),
        "engine": written.engine,
        "command": written.serving.command,
        "acceptance": written.serving.acceptance,
        "warnings": list(written.serving.warnings),
    }
