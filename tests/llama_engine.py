"""llama.cpp as the tests and the bench drive it: its converter, its tools, and its server behind a socket.

VOCABTRIM_LLAMA_CPP names the folder of its sources, built in `build/`, VOCABTRIM_LLAMA_CPP_PYTHON the Python of an
environment that its converter runs in; docs/engines/llama-cpp.md says how to make both.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

VARIABLE, PYTHON = "VOCABTRIM_LLAMA_CPP", "VOCABTRIM_LLAMA_CPP_PYTHON"
DRAFT = ("--spec-type", "draft-eagle3", "--spec-draft-n-max")
EXACT = ("-ctk", "f32", "-ctv", "f32", "-fa", "off")  # caches that round nothing
EXACT_DRAFT = ("-ctkd", "f32", "-ctvd", "f32")


def convert(engine: Path, folder: Path, out: Path, *arguments: object, rule: str = "qwen2") -> Path:
    """A Hugging Face folder by the engine's own converter."""
    convert_all(engine, [[rule, folder, "--outfile", out, *arguments]])
    return out


def convert_all(engine: Path, jobs: list[list[object]]) -> None:
    """Several in one process, which takes longer to begin than to convert."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([list(map(str, job)) for job in jobs], file)
        file.flush()
        script = Path(__file__).with_name("engines") / "llama_convert.py"
        run([os.environ[PYTHON], script, engine, file.name])


def tool(engine: Path, name: str, *arguments: object) -> str:
    """What a built tool says."""
    return run([engine / "build" / "bin" / name, *arguments])


def run(command: list[object], **variables: str) -> str:
    environment = os.environ | variables
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Answer:
    """tokens: emitted. drafted, accepted: by the engine's own count. seconds: of generating, by its own clock."""

    tokens: list[int]
    drafted: int
    accepted: int
    seconds: float


class Server:
    """llama-server with a model, and a drafter where the arguments name one; `with` starts and ends it."""

    def __init__(self, engine: Path, model: Path, *arguments: object, drafter: Path | None = None, length: int = 3):
        self.folder = tempfile.TemporaryDirectory()
        self.socket, self.log = Path(self.folder.name) / "llama.sock", Path(self.folder.name) / "log"
        draft = [] if drafter is None else ["-md", drafter, *DRAFT, length]
        command = [engine / "build" / "bin" / "llama-server", "-m", model, "--host", self.socket, "-np", "1"]
        self.command = [*command, *draft, *arguments]
        self.context = ["-c", "2048"] if "-c" not in arguments else []

    def __enter__(self) -> Server:
        with self.log.open("wb") as log:
            command = list(map(str, [*self.command, *self.context]))
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        for _ in range(1200):
            if self.process.poll() is not None:
                raise RuntimeError(f"llama-server ended with {self.process.returncode}: {self.said()[-3000:]}")
            try:
                if self.ask("GET", "/health", None).get("status") == "ok":
                    return self
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        raise TimeoutError(self.said()[-3000:])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.folder.cleanup()

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def ask(self, method: str, path: str, body: Any) -> dict[str, Any]:
        connection = _ThroughFile(self.socket)
        connection.request(method, path, None if body is None else json.dumps(body), {"Host": "engine"})
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        assert method == "GET" or answer.status == 200, said[:2000]
        return dict(json.loads(said))

    def complete(self, prompt: list[int], new_tokens: int) -> Answer:
        """The greedy answer to a prompt's ids, up to the model's own stop."""
        asked = {"prompt": prompt, "n_predict": new_tokens, "temperature": 0.0, "return_tokens": True}
        told = self.ask("POST", "/completion", asked | {"cache_prompt": False})
        times = told["timings"]
        drafted, accepted = times.get("draft_n", 0), times.get("draft_n_accepted", 0)
        return Answer(told["tokens"], drafted, accepted, times["predicted_ms"] / 1000)

    def tokenize(self, text: str) -> list[int]:
        return list(self.ask("POST", "/tokenize", {"content": text, "parse_special": True})["tokens"])


class _ThroughFile(http.client.HTTPConnection):
    """HTTP through a socket that is a file."""

    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=600)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def engine_folder() -> Path | None:
    """Where the engine is, or None where the two variables do not name it and its python."""
    told = os.environ.get(VARIABLE)
    return Path(told) if told and os.environ.get(PYTHON) else None
