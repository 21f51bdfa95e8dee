"""Where a file comes from, and how it comes into being whole or not at all.

Hashes, the birth certificate that every artefact carries, and writing through a temporary sibling that is renamed
once it is complete. Knows files and git; knows nothing of tokens or tensors.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import OutputError

PARTIAL = ".partial-"  # out/ is built as .out.partial-<host>-<pid> beside it


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in constant memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def birth_certificate(arguments: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """Tool version, git state, time, machine kind, the arguments and the hashes of the inputs, ready for JSON."""
    return {
        "tool": "vocabtrim",
        "version": metadata.version("vocabtrim"),
        **_git_state(),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "arguments": dict(arguments),
        "inputs": dict(inputs),
    }


@cache
def _git_state() -> dict[str, Any]:
    """Commit and dirty flag of the checkout vocabtrim runs from; empty for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {}
    try:
        commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            ["git", "-C", root, "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"git_commit": commit.stdout.strip(), "git_dirty": bool(status.stdout.strip())}


def write_file(out: Path, content: bytes) -> None:
    """Write a file by way of a temporary sibling that is renamed once it is whole.

    A killed run leaves `out` as it was. The bytes are flushed to disk before the rename: these files are small. They
    come as bytes, because what libraries raise when a disk is full tells neither the file nor the reason.
    """
    with _partial_sibling(out) as partial:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(out)


@contextlib.contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder of `out`; rename it to `out` when the block ends well, delete it otherwise.

    Raises OutputError when `out` exists (an empty folder is taken over). Checkpoints run to gigabytes, so the bytes
    are not flushed to disk before the rename: the promise holds for a killed process, not for a power cut.
    """
    refuse_existing(out)
    with _partial_sibling(out) as partial:
        partial.mkdir()
        yield partial
        partial.rename(out)


def refuse_existing(out: Path) -> None:
    """Raise OutputError where `out` holds something, or cannot be made; an empty folder is taken over."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"output {out} exists already", remedy="choose another --out, or remove it first")
    refuse_unwritable(out)


def refuse_unwritable(out: Path) -> None:
    """Raise OutputError where nothing can be written beside `out`: said before hours of work, not after."""
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write {out}",
            found=f"{'Permission denied in' if place.is_dir() else 'Not a directory:'} {place}",
            remedy="fix permissions there, or choose another --out",
        )


@contextlib.contextmanager
def _partial_sibling(out: Path) -> Iterator[Path]:
    refuse_unwritable(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        partial = out.parent / f".{out.name}{PARTIAL}{socket.gethostname()}-{os.getpid()}"
        try:
            yield partial
        finally:
            _remove(partial)  # already renamed when all went well
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(out.parent)):
            raise  # an input's fault, not the output's
        raise OutputError(
            f"cannot write {out}",
            found=error.strerror or str(error),
            remedy="free space or fix permissions there, or choose another --out; nothing was left behind",
        ) from error


def _remove_leftovers(out: Path) -> None:
    """Delete what a killed run of this machine left beside `out`."""
    prefix = f".{out.name}{PARTIAL}{socket.gethostname()}-"
    for sibling in out.parent.iterdir():
        pid = sibling.name.removeprefix(prefix)
        if sibling.name.startswith(prefix) and pid.isdigit() and not _alive(int(pid)):
            _remove(sibling)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
