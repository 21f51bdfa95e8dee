"""A command's output in a terminal, colours included, as an SVG.

    python docs/picture.py OUT.svg [--lines N] COMMAND...

Runs the command in a terminal of its own, so that it prints what a user sees.
"""

from __future__ import annotations

import io
import os
import pty
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

_WIDTH = 132


def shown(command: list[str]) -> str:
    """What the command prints in a terminal of `_WIDTH` columns. Raises SystemExit where it fails."""
    chunks: list[bytes] = []

    def keep(terminal: int) -> bytes:
        chunk = os.read(terminal, 4096)
        chunks.append(chunk)
        return chunk

    os.environ |= {"COLUMNS": str(_WIDTH), "TERM": "xterm-256color"}
    if status := pty.spawn(command, keep):
        raise SystemExit(f"{command[0]} failed: {os.waitstatus_to_exitcode(status)}")
    return b"".join(chunks).decode()


def main(out: Path, lines: int | None, command: list[str]) -> None:
    """Draw the first `lines` lines, or all."""
    text = Text.from_ansi(shown(command).replace("\r\n", "\n"))
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text("\n").join(text.split("\n")[:lines]))
    out.write_text(console.export_svg(title=" ".join([Path(command[0]).name, *command[1:]])), encoding="utf-8")


if __name__ == "__main__":
    _, told, *rest = sys.argv
    first = int(rest[1]) if rest[0] == "--lines" else None
    main(Path(told), first, rest[2:] if first else rest)
