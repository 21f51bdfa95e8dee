"""README's commands and its Python lines are run as they stand, on the built-in models under the names it uses."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from vocabtrim.testbed.builtin import write_builtin

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# README's names of a user's own files -> what stands for them here.
STAND_INS = {
    "EAGLE-LLaMA3.1-Instruct-8B": "eagle",
    "EAGLE": "eagle",
    "Llama-3.1-8B-Instruct": "target",
    "answers.jsonl": "chat.jsonl",
    "web.txt": "text.txt",
}


def code_lines() -> list[str]:
    """The indented lines of README, with continued lines joined and comments taken off."""
    joined = README.replace(" \\\n", " ")
    return [line.strip().partition("  #")[0].strip() for line in joined.splitlines() if line.startswith("    ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = write_builtin(tmp_path_factory.mktemp("readme") / "models")
    for name, stand_in in STAND_INS.items():
        (models.parent / name).symlink_to(models / stand_in)
    questions = [{"prompt": "Why is the sky blue?"}, {"prompt": "Name three rivers."}]
    (models.parent / "question.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in questions))
    return models.parent


def test_the_commands_run(place: Path, vocabtrim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In README's order, each building on the files of those before it."""
    monkeypatch.chdir(place)
    commands = [line for line in code_lines() if line.startswith("vocabtrim ") and "VERB" not in line]
    assert {shlex.split(command)[1] for command in commands} >= {
        "trim",
        "count",
        "choose",
        "inspect",
        "check",
        "convert",
        "export",
        "generate",
        "replay",
        "tune",
    }
    for command in commands:
        run = vocabtrim(*shlex.split(command)[1:])
        assert run.code == 0, f"{command}\n{run.err}"
    assert (place / "trimmed" / "kept.safetensors").exists() and (place / "hot_tokens.pt").exists()


def test_the_python_lines_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    shutil.rmtree(place / "trimmed", ignore_errors=True)
    lines = [line for line in code_lines() if re.match(r"import |\w+ = vt\.|vt\.", line)]
    assert lines[0] == "import vocabtrim as vt" and len(lines) >= 4
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    assert names["numbers"].emitted == 32 and names["numbers"].rounds <= 32
    assert (place / "trimmed" / "model.safetensors").exists()


def test_the_make_targets_exist() -> None:
    for target in re.findall(r"^    make ([\w-]+)", README, re.MULTILINE):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_page_that_is_linked_exists() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links {link}"
