"""The kernels as a shared library: compiled once on every kind of machine, kept in the cache, never waited for long.

Compiling takes some seconds and begins, in a process of its own, as soon as somebody is going to decode. Knows
compilers and files; knows nothing of what is compiled.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import monotonic, time

from ...cache import default_cache
from .library import Kernels

SOURCES = Path(__file__).parent
_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"),
    *("-fno-math-errno", "-fno-trapping-math"),  # no order of summation is changed by these
    # Else GCC multiplies and adds in two roundings in some loops and in one in others, where it takes that for faster.
    "--param=avoid-fma-max-bits=0",
)


_LONGEST = 120.0  # seconds; of a compiler that takes longer something is wrong
_NOTICED = 0.3  # seconds; who waits for longer is told why
_UNFINISHED = "unfinished-"

# Seconds that reading a byte of weights takes less by the kernels than by torch: 1 / 12 GB/s less 1 / 27 GB/s on the
# machine of docs/performance.md, rounded down.
_GAIN = 4e-11


# Into a file of its own that is renamed when it is whole, by a process that lives on where a short program ends, and
# stands back (nice) while that program computes.
_COMPILE = (
    'made=$1; file=$2; shift 2; if nice "$@" -o "$made"; then mv -f "$made" "$file"; else rm -f "$made"; exit 1; fi'
)

_log = logging.getLogger(__name__)


class Compilation:
    """A library that is being compiled, or lies in the cache. `why_not`: what stood in the way, None so far.

    seconds: for which somebody waited.
    """

    def __init__(self, cache_folder: Path, compiler: str | None) -> None:
        self.why_not: str | None = None
        self.seconds = 0.0
        self._library: ctypes.CDLL | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._file = cache_folder / "kernels" / f"{_key(compiler)}.so"
        try:
            if self._file.exists():
                self._open()
            if self._library is None and compiler is None:
                self.why_not = "no C++ compiler here (g++, clang++ or c++)"
            elif self._library is None and compiler is not None:
                self._begin(compiler)
        except OSError as error:  # a folder that may not be entered, no shell, no memory
            self.why_not = f"compiled code cannot be kept in {self._file.parent}: {error.strerror or error}"

    @property
    def running(self) -> bool:
        """Whether the compiler is at work."""
        return self._process is not None

    def library(self, patience: float) -> ctypes.CDLL | None:
        """The library, waited for `patience` seconds at most; None where it is not there by then, or cannot be."""
        with self._lock:  # of several threads that begin at once one waits, the others for it
            return self._awaited(patience)

    def _awaited(self, patience: float) -> ctypes.CDLL | None:
        if self._process is None:
            return self._library
        if patience > _NOTICED and self._process.poll() is None:
            _log.info("compiling for this processor, which is done once")
        began = monotonic()
        try:
            _, said = self._process.communicate(timeout=min(max(patience, 0.001), _LONGEST))
        except subprocess.TimeoutExpired:
            if patience >= _LONGEST:  # nobody waits so long twice
                self._process.kill()
                self._process, self.why_not = None, f"the compiler was not done in {_LONGEST:.0f} seconds"
            return None
        finally:
            self.seconds += monotonic() - began
        self._finish(self._process.returncode, said)
        return self._library

    def _begin(self, compiler: str) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(prefix=_UNFINISHED, dir=self._file.parent)
        os.close(handle)
        _clear(self._file.parent)
        command = ["sh", "-c", _COMPILE, "sh", made, str(self._file), compiler, *_FLAGS, str(SOURCES / "kernels.cpp")]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    def _finish(self, code: int, said: bytes) -> None:
        self._process = None
        if code == 0:
            self._open()
        else:
            first = next(iter(said.decode(errors="replace").splitlines()), f"exit code {code}")
            self.why_not = f"the compiler failed: {first}"
            _log.info("transformers' own modules compute, since %s", self.why_not)

    def _open(self) -> None:
        try:
            self._library = ctypes.CDLL(str(self._file))
        except OSError as error:
            self.why_not = f"compiled code could not be loaded: {error}"


def _clear(folder: Path) -> None:
    """Away with what compilers left that were killed."""
    for left in folder.glob(f"{_UNFINISHED}*"):
        with suppress(OSError):
            if time() - left.stat().st_mtime > _LONGEST:
                left.unlink()


@cache
def compilation() -> Compilation:
    """This process's one; begun when first asked for."""
    try:
        return Compilation(default_cache(), find_compiler())
    except RuntimeError:  # no home folder to have a cache in
        return Compilation(Path(tempfile.gettempdir()) / "vocabtrim", find_compiler())


@cache
def _kernels(library: ctypes.CDLL) -> Kernels:
    return Kernels(library)


def ready_kernels(weight_bytes: float) -> Kernels | None:
    """The kernels, if they are there or will be before they have paid for the wait; None for the plain path.

    weight_bytes: what is going to be read of weights, in all.
    """
    library = compilation().library(weight_bytes * _GAIN)
    return None if library is None else _kernels(library)


def find_compiler() -> str | None:
    """CXX where it is set, as torch takes it too; else the first of the usual names."""
    told = os.environ.get("CXX")
    return shutil.which(told) if told else next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)


def _key(compiler: str | None) -> str:
    """Names what was compiled, by what, for which processor: a cache may be shared by several machines."""
    digest = hashlib.sha256(repr((_FLAGS, compiler, platform.machine(), _processor())).encode())
    for source in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What this processor can do, as Linux tells it; elsewhere its name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        told = (line for line in info.read_text().splitlines() if line.startswith(("flags", "Features", "model name")))
        return "\n".join(sorted(set(told)))
    return platform.processor()
