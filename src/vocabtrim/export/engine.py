"""What an engine's export is: a name, the versions that were read or run, what it writes, how that is served.

One module for each engine fills in an `Engine`; `engines.py` lists them. Knows no engine itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..vocabulary.kept import Ids
from .source import Source


@dataclass(frozen=True)
class Serving:
    """What to do with what was written. `{out}` and `{target}` stand for the two paths.

    command: the lines that serve it. acceptance: where the engine shows how many drafts were accepted.
    warnings: limits of that engine with this drafter, each with what to do.
    """

    command: str
    acceptance: str
    warnings: tuple[str, ...] = ()

    def at(self, out: Path, target: str) -> Serving:
        """The same with paths in it."""

        def filled(text: str) -> str:
            return text.replace("{out}", str(out)).replace("{target}", target)

        return Serving(filled(self.command), filled(self.acceptance), tuple(map(filled, self.warnings)))


@dataclass(frozen=True)
class Engine:
    """One engine. tested: package -> newest version that this export was read against or run in.

    write: puts the files into an empty folder and says how they are served; raises UnsupportedError, before it writes,
    for a drafter that the engine cannot serve trimmed. read_ids: (kept,) int64, the kept ids as the engine's own loader
    takes them out of such a folder, in the order of the head's rows.
    """

    name: str
    tested: Mapping[str, str]
    write: Callable[[Source, Path], Serving]
    read_ids: Callable[[Path], Ids]
