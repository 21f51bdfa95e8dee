"""The command line: one file per verb, each of which parses, calls one function and prints.

Only typer is imported here; a verb imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import (
    bench,
    check,
    choose,
    collect,
    convert,
    count,
    cross,
    demo,
    export,
    generate,
    inspect,
    merge,
    replay,
    report,
    spec_bench,
    trim,
    tune,
)
from .screen import print_version, run

app = typer.Typer(
    name="vocabtrim",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(epilog="With --debug, anywhere on the line, an error shows its traceback.")
def vocabtrim(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Make a speculative-decoding drafter cheaper: keep only the LM-head rows that the target really uses.

    Nothing is trained and the output does not change. Start with: vocabtrim demo
    """


# The demo, the main job, its stages in pipeline order, then what to do with the result.
app.command()(demo.demo)
app.command()(trim.trim)
app.command()(collect.collect)
app.command()(count.count)
app.command()(merge.merge)
app.command()(choose.choose)
app.command()(cross.cross)
app.command()(inspect.inspect)
app.command()(check.check)
app.command()(convert.convert)
app.command()(export.export)
app.command()(generate.generate)
app.command()(bench.bench)
app.command()(tune.tune)
app.command()(replay.replay)
app.command()(report.report)
app.command("spec-bench")(spec_bench.spec_bench)


def main() -> None:
    """Entry point of the `vocabtrim` command: run the verb, turn errors into one line and an exit code."""
    sys.exit(run(app))
