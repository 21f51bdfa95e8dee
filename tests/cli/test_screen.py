"""What goes wrong in the command line is one line, memory that is not there included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import assert_bad_input


def more_than_there_is() -> None:
    torch.empty(10**15)


def no_room_on_the_device() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has a total of 10 GiB")


def no_room_in_python() -> None:
    raise MemoryError


def a_bug() -> None:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.fixture
def failing(vocabtrim: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a verb in whose middle something happens."""

    def call(happens: Any, *options: str) -> Any:
        monkeypatch.setattr("vocabtrim.decoding.generate.generate", lambda *_, **__: happens())
        return vocabtrim("generate", "Hello", "--target", Path("target"), *options)

    return call


@pytest.mark.parametrize("happens", [more_than_there_is, no_room_on_the_device, no_room_in_python])
def test_memory_that_is_not_there_is_one_line(happens: Any, failing: Any) -> None:
    assert_bad_input(failing(happens), "out of memory")
    with pytest.raises((RuntimeError, MemoryError)):
        failing(happens, "--debug")


def test_a_bug_is_not_hidden(failing: Any) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        failing(a_bug)
