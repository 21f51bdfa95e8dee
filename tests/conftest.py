"""What all tests share: running the command line in-process, and the real material beside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# The models of tests are too small for a second thread, which only waits for the first; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Real tokenizers, corpora and a small model. Not part of the repository: VOCABTRIM_DATA names the folder.
DATA = Path(os.environ.get("VOCABTRIM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real material; a test that needs it is skipped, saying so, where it is not there."""
    if not (DATA / "PROVENANCE.md").exists():
        pytest.skip(f"real material not found at {DATA}; set VOCABTRIM_DATA")
    return DATA


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    """Compiled before anything is decoded, so that no test goes the plain way because it was done sooner."""
    from vocabtrim.decoding.lean.compiled import ready_kernels

    ready_kernels(float("inf"))


@dataclass(frozen=True)
class Finished:
    """A finished run of the command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def vocabtrim(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `vocabtrim ARGS...` in this process; returns code, stdout and stderr."""
    from vocabtrim.cli import app
    from vocabtrim.cli.screen import run

    def call(*args: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["vocabtrim", *map(str, args)])
        capfd.readouterr()
        code = run(app)
        out, err = capfd.readouterr()
        return Finished(code, out, err)

    return call


@pytest.fixture
def vocabtrim_process() -> Any:
    """Run `vocabtrim ARGS...` as a process of its own, as a user does."""

    def call(*args: object, **kwargs: Any) -> Finished:
        command = [sys.executable, "-c", "from vocabtrim.cli import main; main()", *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)
        return Finished(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 kB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small file system here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def assert_bad_input(run: Finished, *facts: str) -> None:
    """One clear line on stderr naming each of `facts`, exit code 2, no traceback, nothing on stdout."""
    assert run.code == 2, run.err
    assert run.out == ""
    lines = run.err.strip().splitlines()
    assert len(lines) == 1, run.err
    assert lines[0].startswith("vocabtrim: ") and ";" in lines[0], lines[0]
    for fact in facts:
        assert fact in lines[0], lines[0]
