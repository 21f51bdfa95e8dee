"""What every verb shares of the terminal: tables for people, one JSON object for programs, one line for errors.

Results go to stdout, progress and errors to stderr; with `--json` stdout holds one JSON object and nothing else.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import VocabTrimError
from ..report import words

if TYPE_CHECKING:
    from rich.progress import Progress

size = words.size  # pages and terminals say it alike

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]

# What torch says of devices, and of the machine's own memory.
_OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator: can't allocate memory", "not enough memory")


def run(app: typer.Typer) -> int:
    """Run the command line and return the exit code: 0 done, 1 unsafe, 2 bad input, 130 interrupted.

    `--debug`, anywhere on the line, shows the traceback of an error.
    """
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        code = app(prog_name="vocabtrim", standalone_mode=False)
    except SystemExit as stop:
        code = stop.code
    except KeyboardInterrupt:
        code = 130
    except (VocabTrimError, OSError, MemoryError) as error:
        if debug:
            raise
        print(f"vocabtrim: {_one_line(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, VocabTrimError) else 2
    except Exception as error:
        usage = hasattr(error, "format_message")  # typer's usage errors; where their class lives has changed
        if debug or not (usage or _is_out_of_memory(error)):
            raise
        print(_usage(error) if usage else f"vocabtrim: {_one_line(error)}", file=sys.stderr)
        return 2
    if code == 130:
        print("vocabtrim: interrupted; nothing was half-written", file=sys.stderr)
    return code if isinstance(code, int) else int(code is not None)


def _usage(error: Any) -> str:
    """What is wrong with the command line, in one line; the help itself where there was nothing but the program."""
    context = getattr(error, "ctx", None)
    if len(sys.argv) == 1 and context is not None:
        return str(context.get_help())
    command = "vocabtrim" if context is None else context.command_path
    return f"vocabtrim: {' '.join(error.format_message().split()).rstrip('.')}; see {command} --help"


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; check the path, its permissions and the space there"
    if _is_out_of_memory(error):
        return "out of memory; close other programs or use a machine with more"
    return str(error)


def _is_out_of_memory(error: BaseException) -> bool:
    """Python's, a device's, or that of torch's CPU allocator, which has no class of its own."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
    return said or isinstance(error, MemoryError)


def print_version(wanted: bool) -> None:
    """`--version`: the version of the installed package."""
    if wanted:
        from importlib.metadata import version

        print(f"vocabtrim {version('vocabtrim')}")
        raise typer.Exit


def print_json(result: Any) -> None:
    """The one object of `--json`, on one line."""
    print(json.dumps(result, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout; every column but the first is aligned to the right. Never cut, however narrow the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if position == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # as text: names of files and tensors may look like markup
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress display on stderr; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


class _Lines(logging.Handler):
    """What is being done, a line each, on standard error as it is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


def tell_what_is_done() -> None:
    """From now on say on standard error what takes time behind the scenes."""
    logger = logging.getLogger("vocabtrim")
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
        logger.setLevel(logging.INFO)
