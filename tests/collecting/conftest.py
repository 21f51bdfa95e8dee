"""What the tests of collecting share: a small trained model that answers, and prompts for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from answering_server import Model
from vocabtrim.collecting.answers import Answer, AnswerFile
from vocabtrim.collecting.collect import collect
from vocabtrim.decoding.text import TargetText
from vocabtrim.measure.methods import Settings
from vocabtrim.testbed.family import held_out_prompts, member

LENGTH = 16


@pytest.fixture(scope="session")
def folder() -> Path:
    return member("independent")


@pytest.fixture(scope="session")
def model(folder: Path) -> Model:
    return Model(folder)


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """24 short prompts of all categories; two of them have two turns."""
    words = TargetText(folder)
    short = [held for held in held_out_prompts() if len(words.conversation(held.messages)) < 90]
    records: list[dict[str, Any]] = [
        {"id": f"q{number}", "category": held.category, "messages": list(held.messages)}
        for number, held in enumerate(short[:: len(short) // 22][:22])
    ]
    records += [{"id": f"two{n}", "turns": [f"Name {n} animals.", "And their colours?"]} for n in (2, 3)]
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


WANTED = 26  # answers


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings(max_new_tokens=LENGTH, dtype="float32")


@pytest.fixture(scope="session")
def expected(
    prompts: Path, folder: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, ...]]:
    """key -> ids, as the model itself answers in this process."""
    out = tmp_path_factory.mktemp("expected") / "completions.jsonl"
    state = collect([prompts], out=out, target=folder, settings=settings, loop_ratio=0)
    assert (state.tally.answers, state.ended, state.failed) == (WANTED, "prompts", [])
    found = by_key(read(out))
    assert len(found) == WANTED
    return {key: answer.written.token_ids for key, answer in found.items()}


def read(out: Path) -> list[Answer]:
    """All answers of a file, in order."""
    return list(AnswerFile(out, {}, "").answers())


def by_key(answers: list[Answer]) -> dict[str, Answer]:
    """Proves on the way that nothing was answered twice."""
    found = {answer.key: answer for answer in answers}
    assert len(found) == len(answers)
    return found


@pytest.fixture
def ask(prompts: Path, folder: Path, settings: Settings, tmp_path: Path) -> Callable[..., Any]:
    """Collect from a server into tmp_path/completions.jsonl, impatiently."""

    def call(url: str, **how: Any) -> Any:
        fixed: dict[str, Any] = {"endpoint": url, "tokenizer": folder, "out": tmp_path / "completions.jsonl"}
        fixed |= {"settings": settings, "loop_ratio": 0, "concurrency": 4, "first_wait": 0.01, "timeout": 20}
        return collect(how.pop("prompts", [prompts]), **fixed | how)

    return call
