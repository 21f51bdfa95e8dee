"""An export appears whole or not at all: killed at every stage, on a full disk, as a trim does."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trimmed_drafters import EAGLE3, trimmed
from vocabtrim.errors import OutputError
from vocabtrim.exports.check import check
from vocabtrim.exports.export import export_all

ENGINES = ["sglang", "model-optimizer"]

# Exports in a process of its own and, just before `stage`, is killed.
CHILD = """
import os, signal, sys
from pathlib import Path
from vocabtrim.exports import drafter_folder, export, manifest, model_optimizer

drafter, out, stage = sys.argv[1:4]

def strike(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if stage == "before the first byte": drafter_folder.write_files = strike
elif stage == "before the proof": drafter_folder.prove_files = strike
elif stage == "before the second engine": model_optimizer.eagle3_tensors = strike
elif stage == "before reading back": export.np.array_equal = strike
elif stage == "before the manifest": export.write_manifest = strike
elif stage == "inside the manifest": manifest.birth_certificate = strike
elif stage == "just before the rename": Path.rename = strike
export.export_all(drafter, ["sglang", "model-optimizer"], out=out)
"""
STAGES = [
    "before the first byte",
    "before the proof",
    "before the second engine",
    "before reading back",
    "before the manifest",
    "inside the manifest",
    "just before the rename",
]


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    drafter, _ = trimmed(tmp_path, EAGLE3)
    (tmp_path / "place").mkdir()
    return drafter, tmp_path / "place" / "out"


@pytest.mark.parametrize("stage", STAGES)
def test_kill_9_leaves_nothing_and_the_next_run_cleans_up(stage: str, inputs: tuple[Path, Path]) -> None:
    drafter, out = inputs
    done = subprocess.run([sys.executable, "-c", CHILD, drafter, out, stage], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    export_all(drafter, ENGINES, out=out)
    assert [path.name for path in out.parent.iterdir()] == ["out"] and check(out).ok


def test_a_full_disk_is_one_line_and_leaves_nothing(inputs: tuple[Path, Path], tiny_disk: Path) -> None:
    with pytest.raises(OutputError, match="No space left on device; free space"):
        export_all(inputs[0], ENGINES, out=tiny_disk / "out")
    assert list(tiny_disk.iterdir()) == []


def test_a_file_that_grows_beyond_the_limit_leaves_nothing(inputs: tuple[Path, Path]) -> None:
    """The same as a full disk, for every machine: the process may write no file beyond 64 kB."""
    drafter, out = inputs
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n" + CHILD
    )
    run = subprocess.run([sys.executable, "-c", limited, drafter, out, ""], capture_output=True, text=True, check=False)
    assert "OutputError: cannot write" in run.stderr and "File too large" in run.stderr
    assert list(out.parent.iterdir()) == []
