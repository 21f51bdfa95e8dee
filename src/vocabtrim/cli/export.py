"""`vocabtrim export`: a trimmed drafter as an engine takes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .screen import Json, print_json

if TYPE_CHECKING:
    from ..exports.export import Export


def export(
    drafter: Annotated[str, typer.Argument(help="A trimmed drafter's folder.")],
    *,
    engine: Annotated[
        list[str],
        typer.Option(
            help="sglang, vllm, llama-cpp, ...; an unknown name lists them. May be repeated, or several with commas "
            "between them: then each gets a folder of its own in OUT."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")],
    target: Annotated[str | None, typer.Option(help="The target it drafts for: local folder or hub id.")] = None,
    engine_version: Annotated[
        str | None, typer.Option(help="Of the engine that will serve it; what is installed here by default.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a trimmed drafter in an engine's own form, and say how that engine serves it.

    Refuses, with the reason, what the engine cannot serve trimmed. What was written is read back as the engine does,
    and a manifest beside it lets `vocabtrim check` prove later that it is what was written.

    Example: vocabtrim export trimmed/ --engine sglang --target Llama-3.1-8B-Instruct/ --out served/
    """
    from ..exports.engines import engines_named
    from ..exports.export import export as write
    from ..exports.export import export_all

    names = list(engines_named(engine))
    if len(names) == 1:
        written = [write(drafter, names[0], out=out, target=target, engine_version=engine_version)]
    elif engine_version is not None:
        raise InputError(
            "a version is one engine's", found=", ".join(names), remedy="export for one at a time with --engine-version"
        )
    else:
        written = export_all(drafter, names, out=out, target=target)
    if json:
        objects = [as_object(one) for one in written]
        print_json(objects[0] if len(objects) == 1 else {"out": str(out), "exports": objects})
        return
    for one in written:
        tell(one)


def tell(written: Export) -> None:
    """How it is served, for people; for export and trim alike."""
    how = "In Python" if written.serving.python else "Use it with"
    print(f"\n{written.out}: for {written.engine}. {how}:\n")
    print(written.serving.command)
    print(f"\nAcceptance: {written.serving.acceptance}")
    for warning in written.serving.warnings:
        print(f"warning: {warning}")


def as_object(written: Export) -> dict[str, object]:
    """The same for programs."""
    return {
        "out": str(written.out),
        "engine": written.engine,
        "command": written.serving.command,
        "language": "python" if written.serving.python else "shell",
        "acceptance": written.serving.acceptance,
        "warnings": list(written.serving.warnings),
    }
