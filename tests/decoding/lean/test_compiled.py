"""Compiling: once, whole or not at all, and never in the way of an answer."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vocabtrim.decoding.lean import compiled
from vocabtrim.decoding.lean.compiled import Compilation, find_compiler


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "kernels").iterdir())


def test_once_for_all(tmp_path: Path) -> None:
    first = Compilation(tmp_path, find_compiler())
    assert isinstance(first.library(60), ctypes.CDLL) and first.seconds > 0 and first.why_not is None
    [name] = files(tmp_path)
    stamp = (tmp_path / "kernels" / name).stat().st_mtime_ns
    again = Compilation(tmp_path, find_compiler())
    assert not again.running and again.library(0) is not None and again.seconds == 0
    assert (tmp_path / "kernels" / name).stat().st_mtime_ns == stamp


def test_another_compiler_or_source_is_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = compiled._key("g++")
    assert compiled._key("clang++") != one
    for name in ("kernels.cpp", "matrix.h"):
        (tmp_path / name).write_text("// other")
    monkeypatch.setattr(compiled, "SOURCES", tmp_path)
    assert compiled._key("g++") != one


def test_nobody_waits_longer_than_it_is_worth(tmp_path: Path) -> None:
    slow = Compilation(tmp_path, script(tmp_path / "slow", f'sleep 2; exec {find_compiler()} "$@"'))
    began = time.monotonic()
    assert slow.library(0.1) is None and slow.running and slow.why_not is None
    assert time.monotonic() - began < 1.5
    assert slow.library(60) is not None


def test_what_is_compiled_serves_the_next_program_where_the_first_has_ended(tmp_path: Path) -> None:
    slow = script(tmp_path / "slow", f'sleep 1; exec {find_compiler()} "$@"')
    program = (
        "import sys; from pathlib import Path; from vocabtrim.decoding.lean.compiled import Compilation; "
        "assert Compilation(Path(sys.argv[1]), sys.argv[2]).library(0) is None"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path, slow], check=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "kernels").is_dir() or not any(name.endswith(".so") for name in files(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = Compilation(tmp_path, slow)
    assert not again.running and again.library(0) is not None


def test_killed_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed compiler leaves is never taken for a library, and is cleared away later."""
    slow = Compilation(tmp_path, script(tmp_path / "slow", 'for last; do :; done; echo half > "$last"; sleep 60'))
    time.sleep(0.5)
    assert slow._process is not None
    os.killpg(slow._process.pid, signal.SIGKILL)
    assert slow.library(5) is None and "failed" in str(slow.why_not)
    [left] = files(tmp_path)
    assert left.startswith("unfinished-")
    os.utime(tmp_path / "kernels" / left, (0, 0))
    assert Compilation(tmp_path, find_compiler()).library(60) is not None
    assert [name.rpartition(".")[2] for name in files(tmp_path)] == ["so"]


@pytest.mark.parametrize(
    ("text", "said"), [("echo no such flag >&2; exit 1", "no such flag"), ("exit 3", "the compiler failed")]
)
def test_a_compiler_that_fails(tmp_path: Path, text: str, said: str) -> None:
    failing = Compilation(tmp_path, script(tmp_path / "bad", text))
    assert failing.library(60) is None and said in str(failing.why_not)
    assert files(tmp_path) == []


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = Compilation(tmp_path, None)
    assert none.library(60) is None and "no C++ compiler" in str(none.why_not)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert find_compiler() is None
    monkeypatch.setenv("CXX", script(tmp_path / "mine", "exit 0"))
    assert find_compiler() == str(tmp_path / "mine")


def test_a_damaged_library_is_compiled_again(tmp_path: Path) -> None:
    assert Compilation(tmp_path, find_compiler()).library(60) is not None
    [name] = files(tmp_path)
    (tmp_path / "kernels" / name).write_bytes(b"\x7fELF cut off")
    assert Compilation(tmp_path, find_compiler()).library(60) is not None


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nowhere = Compilation(tmp_path / "file", find_compiler())
    assert nowhere.library(60) is None and "cannot be kept" in str(nowhere.why_not)
