"""Conversion by libraries that live in an environment of their own: which python has them, and running a script there.

Engines pin versions of torch and transformers that do not go together with others', so none is a dependency here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from ..errors import CheckpointError, InputError

_ASK = (
    "import json, sys\n"
    "from importlib import metadata\n"
    "def version(name):\n"
    "    try: return metadata.version(name)\n"
    "    except metadata.PackageNotFoundError: return None\n"
    "print(json.dumps({name: version(name) for name in sys.argv[1:]}))\n"
)


@dataclass(frozen=True)
class Environment:
    """variable: names the python; without it the one that runs now is asked. packages: what it must hold.

    install: how such an environment is made, for the message where there is none.
    """

    variable: str
    packages: Sequence[str]
    install: str

    def python(self) -> str:
        """The python that holds the packages. Raises InputError where none does."""
        named = os.environ.get(self.variable)
        python = named or sys.executable
        missing = [name for name, version in self._versions(python, self.packages).items() if version is None]
        if missing:
            raise InputError(
                "converting needs libraries that are not installed here"
                if named is None
                else f"{self.variable} names a python without the libraries that convert",
                expected=", ".join(self.packages),
                found=f"{python} without {', '.join(missing)}",
                remedy=f"{self.install}, and set {self.variable} to its python",
            )
        return python

    def newer(self, tested: Mapping[str, str]) -> tuple[str, ...]:
        """A warning for each package there that is newer than the one that was tested."""
        found = self._versions(self.python(), tuple(tested))
        return tuple(
            f"{name} {version} of {self.variable} is newer than {tested[name]}, with which this export was tested: "
            "check what it drafts"
            for name, version in found.items()
            if version is not None and Version(version) > Version(tested[name])
        )

    def _versions(self, python: str, packages: Sequence[str]) -> dict[str, str | None]:
        try:
            return versions(python, packages)
        except InputError as error:
            raise InputError(
                f"{self.variable} names no python", expected=error.expected, found=python, remedy="correct the variable"
            ) from error

    def run(self, script: Path, *arguments: str | Path, what: str) -> Any:
        """What the script prints as its last line, from JSON. Raises CheckpointError with the last line of its errors.

        what: what is done, to be followed by "failed".
        """
        command = [self.python(), "-I", str(script), *map(str, arguments)]  # modules beside it have libraries' names
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_quiet())
        lines = done.stdout.splitlines()
        if done.returncode or not lines:
            said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise CheckpointError(
                f"{what} failed",
                found=said[:300],
                remedy="use the versions that docs/engines names, or another drafter",
            )
        return json.loads(lines[-1])


def versions(python: str, packages: Sequence[str]) -> dict[str, str | None]:
    """Package -> version in that python's environment, None where it is not there. Raises InputError for no python."""
    try:
        done = subprocess.run([python, "-c", _ASK, *packages], capture_output=True, text=True, check=True)
        found: dict[str, str | None] = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise InputError(
            "no python of an environment",
            expected="a path of an executable",
            found=python,
            remedy="correct the variable",
        ) from error
    return found


def _quiet() -> dict[str, str]:
    """Nothing is fetched from outside while it works, and what it says is an error or the answer."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
