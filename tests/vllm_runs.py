"""Running vLLM from a test or a bench: its python, and an environment in which it finds our plugin.

The plugin is found as an installed package's is, by an entry point: one with what pyproject.toml says, beside the
sources, so that nothing need be installed into that environment.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = "VOCABTRIM_VLLM_PYTHON"


def environment(scratch: Path) -> dict[str, str]:
    """The variables of an engine's process. scratch: where the entry point is put."""
    about = scratch / "site" / "vocabtrim-0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Name: vocabtrim\nVersion: 0\n")
    group, name, target = entry_point()
    (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    paths = os.pathsep.join([str(ROOT / "src"), str(scratch / "site")])
    told = {"PYTHONPATH": paths, "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
    threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return {**os.environ, **told, **threads}


def entry_point() -> tuple[str, str, str]:
    """Group, name and target of the one that pyproject.toml declares."""
    declared = r'\[project\.entry-points\."([\w.]+)"\].*\n(\w+) = "([\w.:]+)"'
    [found] = re.findall(declared, (ROOT / "pyproject.toml").read_text())
    group, name, target = found
    return group, name, target


def ask(python: str, script: str, job: Any, scratch: Path) -> Any:
    """Run one of tests/engines' scripts on a job; what it answers."""
    scratch.mkdir(parents=True, exist_ok=True)
    asked, answer = scratch / "job.json", scratch / "answer.json"
    asked.write_text(json.dumps(job))
    command = [python, str(ROOT / "tests" / "engines" / script), str(asked), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(scratch))
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(answer.read_text())


def answers(
    python: str,
    runs: Mapping[str, tuple[Path, Any]],
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    scratch: Path,
    *,
    dtype: str = "float32",
    repeat: int = 1,
) -> Any:
    """name -> what vLLM answered and counted. runs: name -> target, and its speculative_config or None."""
    listed = [{"name": name, "target": str(target), "speculative": config} for name, (target, config) in runs.items()]
    length = max(map(len, prompts)) + new_tokens + 16
    job = {"prompts": prompts, "new_tokens": new_tokens, "max_model_len": length, "dtype": dtype, "repeat": repeat}
    return ask(python, "vllm_answers.py", job | {"runs": listed}, scratch)


def speculative(serving_command: str) -> dict[str, Any]:
    """What an export's command gives as --speculative-config."""
    told: dict[str, Any] = json.loads(serving_command.split("--speculative-config ")[1].strip("'"))
    return told
