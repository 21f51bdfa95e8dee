"""The stand-in for a CUDA graph can fail: it bakes in what a recording bakes in, and refuses what CUDA refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from replayed import Recorder, RefusedError
from vocabtrim.decoding.graphs.program import Program, Programs


def test_a_replay_reads_memory_and_not_python() -> None:
    told, baked = torch.tensor([1.0, 2.0]), [10.0]
    record = Recorder()
    program: Program[torch.Tensor] = Program(lambda: (told * 2).cumsum(0) + baked[0], record)
    assert program().tolist() == [12, 16] and record.recorded == 0
    assert program().tolist() == [12, 16] and record.recorded == 1
    told.copy_(torch.tensor([5.0, 0.0]))
    baked[0] = 20.0
    out = program()
    assert out.tolist() == [20, 20]  # the new tensor, the old number
    told.zero_()
    assert out.tolist() == [20, 20] and program() is out and out.tolist() == [10, 10]


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.tensor([1.0, 2.0]) + x,
        lambda x: x.repeat_interleave(torch.tensor([1, 2])),
    ],
)
def test_what_cuda_refuses(step: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(RefusedError):
        Recorder()(lambda: step(torch.ones(2)))


def test_what_cannot_be_recorded_runs_plainly_and_says_so() -> None:
    def refuse(step: Callable[[], object]) -> tuple[Callable[[], object], object]:
        raise RuntimeError("operation not permitted when stream is capturing")

    told = torch.ones(1)
    program: Program[torch.Tensor] = Program(lambda: told + 1, refuse)
    assert program().item() == 2
    with pytest.warns(UserWarning, match="could not be recorded and runs operator by operator: operation not perm"):
        assert program().item() == 2
    told.fill_(5)
    assert program().item() == 6


def test_programs_are_made_once_for_a_key_and_anew_when_what_they_rest_on_changed() -> None:
    made: list[int] = []

    def make(key: int) -> int:
        made.append(key)
        return len(made)

    programs = Programs(make)
    assert [programs.get(1, "here"), programs.get(2, "here"), programs.get(1, "here")] == [1, 2, 1]
    assert programs.get(1, "there") == 3
    assert [programs.get(key, "there") for key in range(100, 140)] == list(range(4, 44))
    assert programs.get(1, "there") == 44  # the oldest went
