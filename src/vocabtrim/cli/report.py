"""`vocabtrim report`: one page that says whether to ship the trimmed drafter, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .screen import Json, print_json, size


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders that `vocabtrim bench --out` wrote, of one target.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    counts: Annotated[
        list[Path] | None,
        typer.Option("--counts", help="Counts file, for predictions of every size and the slider; may be repeated."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="The target's tokenizer (folder, tokenizer.json or hub id), to show tokens as text."),
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for SVG and PNG of every plot.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Markdown file to write, for a README.")] = None,
    json: Json = False,
) -> None:
    """Write what runs measured as one self-contained page, with the verdict on top.

    Several runs of one target stand side by side, say greedy and at temperature 1. An existing page is replaced; any
    other file is not.

    Example: vocabtrim report run/ --counts counts.safetensors --tokenizer Llama/ --out report.html
    """
    from ..report.write import write

    written = write(runs, out, counts=counts or (), tokenizer=tokenizer, plots=plots, markdown=markdown)
    if json:
        print_json(written.as_object())
        return
    for line in written.verdict_lines():
        print(line)
    beside = "".join(f", {path}" for path in written.beside)
    print(f"Wrote {out} ({size(out.stat().st_size)}){beside}.")
