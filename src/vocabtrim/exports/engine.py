"""What an engine's export is: a name, the versions that were read or run, what it writes, how that is served.

One module for each engine fills in an `Engine`; `engines.py` lists them. Knows no engine itself.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint.layouts import Drafter
from ..vocabulary.kept import Ids
from .source import Source

# A path is a word of the shell, or a string in double quotes: in a shell's JSON argument or in Python.
_PATH = re.compile(
    r"(?<!\S)\{(?P<word>out|target)\}(?P<rest>[\w./-]*)(?!\S)"
    r'|"\{(?P<string>out|target)\}(?P<end>[\w./-]*)"|\{(?P<inside>out|target)\}'
)


@dataclass(frozen=True)
class Serving:
    """What to do with what was written. `{out}` and `{target}` stand for the two paths.

    command: the lines that serve it, of a shell, whose JSON arguments stand in single quotes, or a Python program.
    acceptance: where the engine shows how many drafts were accepted.
    warnings: limits of that engine with this drafter, each with what to do.
    """

    command: str
    acceptance: str
    warnings: tuple[str, ...] = ()
    python: bool = False

    def at(self, out: Path, target: str) -> Serving:
        """The same with paths in it, quoted where a shell would take them apart."""
        paths = {"out": str(out), "target": target}

        def path(found: re.Match[str]) -> str:
            if found["word"]:
                return shlex.quote(paths[found["word"]] + found["rest"])
            if found["inside"]:
                return paths[found["inside"]]
            string = json.dumps(paths[found["string"]] + found["end"])
            return string if self.python else string.replace("'", "'\"'\"'")

        def told(text: str) -> str:
            return re.sub(r"\{(out|target)\}", lambda found: paths[found[1]], text)

        command = _PATH.sub(path, self.command)
        return replace(
            self, command=command, acceptance=told(self.acceptance), warnings=tuple(map(told, self.warnings))
        )


def _refuse_nothing(drafter: Drafter) -> None:
    """What is refused shows only when it is written."""


@dataclass(frozen=True)
class Engine:
    """One engine. tested: package -> newest version that this export was read against or run in.

    write: puts the files into an empty folder and says how they are served; raises UnsupportedError, before it writes,
    for a drafter that the engine cannot serve trimmed. read_ids: (kept,) int64, the kept ids as the engine's own loader
    takes them out of such a folder, in the order of the head's rows. refuse: the same refusal for a drafter that is not
    trimmed yet, where its kind tells, so that `trim --export` need not count for hours first.
    """

    name: str
    tested: Mapping[str, str]
    write: Callable[[Source, Path], Serving]
    read_ids: Callable[[Path], Ids]
    refuse: Callable[[Drafter], None] = _refuse_nothing
