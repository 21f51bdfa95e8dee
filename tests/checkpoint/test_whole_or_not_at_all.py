"""A trim appears whole or not at all: killed at every stage, on a full disk, without permission."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vocabtrim.checkpoint.trim import trim
from vocabtrim.errors import OutputError
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

# Runs a trim in a process of its own and, just before `stage`, does what the test wants done there.
CHILD = """
import os, signal, sys
from pathlib import Path
import vocabtrim.checkpoint.trim as trim, vocabtrim.checkpoint.write as write, vocabtrim.provenance as provenance
from vocabtrim.vocabulary.kept import KeptVocabulary

drafter, kept, out, stage = sys.argv[1:5]

def strike(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def after_first(function):
    calls = []
    def wrapped(*args, **kwargs):
        if calls:
            strike()
        calls.append(1)
        return function(*args, **kwargs)
    return wrapped

if stage == "before the first byte": trim.write_files = strike
elif stage == "inside the weights": write._write_tensor = after_first(write._write_tensor)
elif stage == "before the proof": trim.prove_files = strike
elif stage == "inside the proof": write._prove_tensor = after_first(write._prove_tensor)
elif stage == "between proof and copies": trim.shutil.copyfile = strike
elif stage == "before the config": trim.birth_certificate = strike
elif stage == "before the card": trim.model_card = strike
elif stage == "just before the rename": Path.rename = strike
elif stage == "just after the rename":
    rename = Path.rename
    def renamed(self, to):
        rename(self, to)
        if str(to) == out:
            strike()
    Path.rename = renamed
trim.trim(drafter, KeptVocabulary.load(Path(kept)), out=out)
"""
STAGES = [
    "before the first byte",
    "inside the weights",
    "before the proof",
    "inside the proof",
    "between proof and copies",
    "before the config",
    "before the card",
    "just before the rename",
    "just after the rename",
]


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path, Path]:
    drafter = shapes.write_independent(tmp_path / "drafter", TINY, seed=2)
    (drafter / "tokenizer_config.json").write_text("{}")
    KeptVocabulary(np.arange(0, 512, 7), TINY.vocab).save(tmp_path / "kept.safetensors")
    (tmp_path / "place").mkdir()
    return drafter, tmp_path / "kept.safetensors", tmp_path / "place" / "out"


def run_child(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CHILD, *map(str, args)], capture_output=True, text=True, check=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


@pytest.mark.parametrize("stage", STAGES)
def test_kill_9_leaves_the_old_state_or_the_new_one(stage: str, inputs: tuple[Path, Path, Path]) -> None:
    """After the kill `out` is absent or whole; the next run cleans up what was left and gives the whole result."""
    drafter, kept, out = inputs
    sources = contents(drafter)
    assert run_child(drafter, kept, out, stage).returncode == -signal.SIGKILL, stage
    assert contents(drafter) == sources
    trim(drafter, kept, out=out.with_name("reference"))
    if stage == "just after the rename":
        assert contents(out) == contents(out.with_name("reference"))
        return
    assert not out.exists()
    trim(drafter, kept, out=out)
    assert contents(out) == contents(out.with_name("reference"))
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "reference"]  # no leftovers


def test_a_run_beside_it_is_not_cleaned_up(inputs: tuple[Path, Path, Path]) -> None:
    """Only what a dead process left is removed: this test's own process is alive."""
    import socket

    drafter, kept, out = inputs
    theirs = out.parent / f".out.partial-{socket.gethostname()}-{os.getppid()}"
    theirs.mkdir()
    trim(drafter, kept, out=out)
    assert theirs.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(inputs: tuple[Path, Path, Path], tiny_disk: Path) -> None:
    drafter, kept, _ = inputs
    with pytest.raises(OutputError, match="No space left on device; free space"):
        trim(drafter, kept, out=tiny_disk / "out")
    assert list(tiny_disk.iterdir()) == []


def test_a_file_that_grows_beyond_the_limit_leaves_nothing(inputs: tuple[Path, Path, Path]) -> None:
    """The same as a full disk, for every machine: the process may write no file beyond 64 kB."""
    drafter, kept, out = inputs
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n" + CHILD
    )
    run = subprocess.run(
        [sys.executable, "-c", limited, drafter, kept, out, ""], capture_output=True, text=True, check=False
    )
    assert "OutputError: cannot write" in run.stderr and "File too large" in run.stderr
    assert list(out.parent.iterdir()) == []


def test_no_write_permission_is_one_line(inputs: tuple[Path, Path, Path]) -> None:
    """As a user who may not write there; root may write everywhere, so the process gives its rights up first."""
    drafter, kept, out = inputs
    out.parent.chmod(0o555)
    for parent in [out.parent, *out.parent.parents]:
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    give_up = "import os\nif os.geteuid() == 0: os.setuid(65534)\n"
    body = CHILD.replace("drafter, kept, out, stage", give_up + "drafter, kept, out, stage", 1)
    run = subprocess.run(
        [sys.executable, "-c", body, drafter, kept, out, ""], capture_output=True, text=True, check=False
    )
    assert "OutputError: cannot write" in run.stderr and "Permission denied" in run.stderr
    assert list(out.parent.iterdir()) == []
