"""The command line: one file per verb, each of which parses, calls one function and prints.

Only typer is imported here; a verb imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys

import typer

from . import check, choose, convert, count, inspect, merge, trim
from .screen import run

app = typer.Typer(
    name="vocabtrim",
    help="Make a speculative-decoding drafter cheaper: keep only the LM-head rows that the target really uses.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# The main job, then its stages in pipeline order.
app.command()(trim.trim)
app.command()(count.count)
app.command()(merge.merge)
app.command()(choose.choose)
app.command()(inspect.inspect)
app.command()(check.check)
app.command()(convert.convert)


def main() -> None:
    """Entry point of the `vocabtrim` command: run the verb, turn errors into one line and an exit code."""
    sys.exit(run(app))
