"""`vocabtrim check`: lint a drafter, a map or an export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .screen import Json, print_json


def check(
    path: Annotated[Path, typer.Argument(help="A drafter's folder, a map of any dialect, or an export.")],
    *,
    target: Annotated[Path | None, typer.Option(help="The target's folder, for stop ids, width and head rows.")] = None,
    json: Json = False,
) -> None:
    """Find what is wrong with a drafter, a map or an export.

    That is, what would make an engine draft wrong ids, load wrong rows or refuse the folder. Of an export, found by
    its manifest, every engine that was written with it is proven to read the same kept ids. Exit 0 when nothing is
    wrong, 1 when something is; notes do not count.

    Example: vocabtrim check trimmed/ --target Llama-3.1-8B-Instruct/
    """
    from ..exports.check import check as check_path

    report = check_path(path, target)
    if json:
        print_json(
            {
                "ok": report.ok,
                "kind": report.kind,
                "problems": [problem._asdict() for problem in report.problems],
                "notes": [note._asdict() for note in report.notes],
            }
        )
    else:
        for problem in report.problems:
            print(f"{problem.rule}: {problem.message}; {problem.remedy}")
        for note in report.notes:
            print(f"note, {note.rule}: {note.message}; {note.remedy}")
        print(f"{path}: {report.kind}, {'sound' if report.ok else f'{len(report.problems)} problems'}")
    if not report.ok:
        raise typer.Exit(1)
