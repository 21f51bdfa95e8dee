"""llama.cpp as the tests and the bench drive it: its converter, its tools, and its example of speculative decoding.

VOCABTRIM_LLAMA_CPP names the folder of its sources, built in `build/`, VOCABTRIM_LLAMA_CPP_PYTHON the Python of an
environment that its converter runs in; docs/engines/llama-cpp.md says how to make both.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

VARIABLE, PYTHON = "VOCABTRIM_LLAMA_CPP", "VOCABTRIM_LLAMA_CPP_PYTHON"
# Caches that round nothing; one thread, because several wait for each other in circles, which on a busy machine takes
# minutes.
EXACT = ("-ctk", "f32", "-ctv", "f32", "-fa", "off", "-ctkd", "f32", "-ctvd", "f32", "-t", 1, "-td", 1, "-c", 1024)


def engine_folder() -> Path | None:
    """Where the engine is, or None where the two variables do not name it and its python."""
    told = os.environ.get(VARIABLE)
    return Path(told) if told and os.environ.get(PYTHON) else None


def convert(engine: Path, folder: Path, out: Path, *arguments: object, rule: str = "qwen2") -> Path:
    """A Hugging Face folder by the engine's own converter."""
    convert_all(engine, [[rule, folder, "--outfile", out, *arguments]])
    return out


def convert_all(engine: Path, jobs: list[list[object]]) -> None:
    """Several in one process, which takes longer to begin than to convert."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([list(map(str, job)) for job in jobs], file)
        file.flush()
        under_python(engine, "llama_convert.py", engine, file.name)


def under_python(engine: Path, script: str, *arguments: object) -> None:
    """Run a script of tests/engines/ in the engine's environment, with the libraries of the build."""
    path = Path(__file__).with_name("engines") / script
    library = {"LLAMA_CPP_LIB_PATH": str(engine / "build" / "bin")}
    prove(_run([os.environ[PYTHON], path, *arguments], **library))


def tool(engine: Path, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A built tool, whatever comes of it."""
    return _run([engine / "build" / "bin" / name, *arguments])


def prove(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def _run(command: list[object], **variables: str) -> subprocess.CompletedProcess[str]:
    texts, around = list(map(str, command)), os.environ | variables
    return subprocess.run(texts, env=around, capture_output=True, text=True, errors="replace", check=False)


@dataclass(frozen=True)
class Drafted:
    """text: of prompt and output. read: tokens of the prompt. emitted, drafted, accepted: the engine's own counts.
    seconds: of generating, by its clock."""

    text: str
    read: int
    emitted: int
    drafted: int
    accepted: int
    seconds: float


def speculate(
    engine: Path, model: Path, drafter: Path, prompt: str, new_tokens: int, *arguments: object, length: int
) -> Drafted:
    """The greedy answer of llama-speculative-simple, which ends behind more than `new_tokens`."""
    drafts = ("-md", drafter, "--spec-type", "draft-eagle3", "--spec-draft-n-max", length)
    asked = ("-p", prompt, "--no-escape", "-n", new_tokens, "--temp", 0, "--seed", 1)
    done = prove(tool(engine, "llama-speculative-simple", "-m", model, *drafts, *asked, *arguments))
    return counted(done)


def alone(engine: Path, model: Path, prompt: str, new_tokens: int, *arguments: object) -> Drafted:
    """The greedy answer of llama-completion, the model by itself; its "eval time" is of all tokens but the first."""
    asked = ("-p", prompt, "--no-escape", "-no-cnv", "--special", "-n", new_tokens, "--temp", 0, "--ignore-eos")
    done = prove(tool(engine, "llama-completion", "-m", model, *asked, *arguments))
    read = re.search(r"prompt eval time = .* / +(\d+) tokens", done.stderr)
    spent = re.search(r"\beval time = +([\d.]+) ms / +(\d+) runs", done.stderr)
    assert read and spent, done.stderr[-3000:]
    return Drafted(done.stdout.strip("\n"), int(read[1]), int(spent[2]), 0, 0, float(spent[1]) / 1000)


def counted(done: subprocess.CompletedProcess[str]) -> Drafted:
    """What the program printed: the text on stdout, its counts as log lines."""
    lines = done.stdout + done.stderr

    def number(pattern: str) -> str:
        found = re.search(pattern, lines)
        assert found, lines[-3000:]
        return found[1]

    return Drafted(
        text=done.stdout.strip("\n"),
        read=int(number(r"encoded +(\d+) tokens")),
        emitted=int(number(r"decoded +(\d+) tokens")),
        drafted=int(number(r"n_drafted = (\d+)")),
        accepted=int(number(r"n_accept +=\s+(\d+)")),
        seconds=float(number(r"decoded +\d+ tokens in +([\d.]+) seconds")),
    )
