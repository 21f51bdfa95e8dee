"""Where a file comes from, and how it comes into being whole or not at all.

Hashes, the birth certificate that every artefact carries, and writing through a temporary sibling that is renamed
once it is complete. Knows files and git; knows nothing of tokens or tensors.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from .errors import OutputError

PARTIAL = ".partial-"  # out/ is built as .out.partial-<host>-<pid>-<random> beside it

# The files that vocabtrim writes, and what tells each: of safetensors an entry of the metadata, of pages and plots a
# mark among their first bytes. A torch file carries none, and Markdown is there to be gone on with by hand: what
# stands there is never replaced.
Kind = Literal["counts", "kept", "map", "torch", "page", "plot", "markdown"]
_TOLD_BY: Mapping[Kind, str] = {"counts": "counts_hash", "kept": "kept_hash", "map": "dialect"}
MARKS: Mapping[Kind, str] = {"page": "vocabtrim report page", "plot": "vocabtrim report plot"}
_MARKED_WITHIN = 1024  # bytes


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


def this_machine() -> dict[str, Any]:
    """Processor and cores: what a measured time holds for."""
    return {"processor": _processor(), "cores": os.cpu_count()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


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


def write_file(out: Path, content: bytes, kind: Kind) -> None:
    """Write a file by way of a temporary sibling that is renamed once it is whole.

    kind: what is written; an existing file is replaced only by the same kind. A link is followed, not replaced.
    A killed run leaves `out` as it was. The bytes are flushed to disk before the rename: these files are small. They
    come as bytes, because what libraries raise when a disk is full tells neither the file nor the reason.
    """
    refuse_replacing(out, kind)
    out = _followed(out)
    with _partial_sibling(out) as partial:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(out)


@contextlib.contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder of `out`; rename it to `out` when the block ends well, delete it otherwise.

    Raises OutputError when `out` exists (an empty folder is taken over). Checkpoints run to gigabytes, so the bytes
    are not flushed to disk before the rename: the promise holds for a killed process, not for a power cut.
    """
    refuse_existing(out)
    out = _followed(out)
    with _partial_sibling(out) as partial:
        partial.mkdir()
        yield partial
        try:
            partial.rename(out)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:  # another run was quicker
                raise _exists_already(out) from error
            raise


def refuse_existing(out: Path) -> None:
    """Raise OutputError where `out` holds something, or cannot be made; an empty folder is taken over."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise _exists_already(out)
    refuse_unwritable(out)


def _exists_already(out: Path, found: str | None = None) -> OutputError:
    return OutputError(f"output {out} exists already", found=found, remedy="choose another --out, or remove it first")


def refuse_replacing(out: Path, kind: Kind, inputs: Iterable[str | Path] = ()) -> None:
    """Raise OutputError where writing a file of this kind to `out` would destroy another, or cannot be done.

    inputs: what is read for it; none of them is ever replaced. An existing file may be replaced where it is empty, or
    where its metadata say that vocabtrim wrote the same kind of file.
    """
    followed = _followed(out)
    for path in map(Path, inputs):
        if followed.exists() and path.exists() and followed.samefile(path):
            raise OutputError(
                f"output {out} is an input",
                expected="a file of its own",
                found=f"the same file as {path}",
                remedy="choose another --out",
            )
    if (followed.exists() or followed.is_symlink()) and not followed.is_file():
        found = "a folder" if followed.is_dir() else "a device, a pipe or a broken link"
        raise OutputError(f"cannot write {out}", expected="a file", found=found, remedy="choose another --out")
    if followed.exists() and followed.stat().st_size and not _is_of_kind(followed, kind):
        tells = kind in _TOLD_BY or kind in MARKS
        found = f"no {kind} file that vocabtrim wrote" if tells else "a file that may be anyone's"
        raise _exists_already(out, found)
    refuse_unwritable(followed)


def _is_of_kind(path: Path, kind: Kind) -> bool:
    """Whether the file says, by its mark or in its safetensors header, that vocabtrim wrote it as this kind."""
    if kind in MARKS:
        with path.open("rb") as marked:
            return MARKS[kind].encode() in marked.read(_MARKED_WITHIN)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            story = json.loads((file.metadata() or {})["vocabtrim"])
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError):
        return False
    return isinstance(story, dict) and _TOLD_BY.get(kind) in story


def _followed(out: Path) -> Path:
    """The file that a link leads to: renaming onto the link itself would replace the link."""
    return Path(os.path.realpath(out)) if out.is_symlink() else out


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
    """A name beside `out` that no other run, process or thread has; what was made under it is removed at the end."""
    refuse_unwritable(out)
    partial = out.parent / f"{_prefix(out)}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
    except OSError as error:
        raise _cannot_write(out, error) from error
    try:
        yield partial
    except OSError as error:
        if not _fault_of_output(error, partial, out):
            raise
        raise _cannot_write(out, error) from error
    finally:
        _remove(partial)  # already renamed when all went well


def _cannot_write(out: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write {out}",
        found=error.strerror or str(error),
        remedy="free space or fix permissions there, or choose another --out; nothing was left behind",
    )


def _fault_of_output(error: OSError, partial: Path, out: Path) -> bool:
    """Whether the failing path is the output's; a failed write to an open file names none."""
    named = [name for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, os.PathLike))]
    paths = [Path(os.fsdecode(name)).absolute() for name in named]
    ours = {partial.absolute(), out.absolute()}
    return not paths or any(not ours.isdisjoint((path, *path.parents)) for path in paths)


def _prefix(out: Path) -> str:
    return f".{out.name}{PARTIAL}{socket.gethostname()}-"


def _remove_leftovers(out: Path) -> None:
    """Delete what a killed run of this machine left beside `out`."""
    prefix = _prefix(out)
    for sibling in out.parent.iterdir():
        pid = sibling.name.removeprefix(prefix).partition("-")[0]
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
