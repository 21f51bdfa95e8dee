"""A run file is whole lines: cut off it goes on, changed it is refused, and nobody else's run is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vocabtrim.errors import InputError, OutputError
from vocabtrim.measure.records import (
    ROUNDS,
    SCHEMA,
    Difference,
    Failed,
    Generated,
    RecordedRound,
    RunWriter,
    read_run,
)

HEADER = {"identity": {"target": "a", "temperature": 0.0}, "methods": [{"name": "autoregressive"}]}
ANSWER = Generated(
    "q1", "math", 0, "autoregressive", (5, 6), (7, 8, 9), "length", 0.25, (RecordedRound(3, 2, 4, 4, 0.1, 0.2, 0.4),)
)
FAILED = Failed("q2", "math", 0, "autoregressive", "too long")
DIFFERENCE = Difference("q1", 0, "full", 2, 9, None, None)


def written(folder: Path, *records: Any, header: Any = HEADER) -> Path:
    with RunWriter(folder, header) as writer:
        for record in records:
            writer.append(record)
    return folder


def test_nothing_is_made_before_there_is_a_record(tmp_path: Path) -> None:
    assert not written(tmp_path / "run").exists()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run = read_run(written(tmp_path / "run", ANSWER, FAILED, DIFFERENCE))
    assert run.generated == {("q1", 0, "autoregressive"): ANSWER}
    assert run.failed == {("q2", 0, "autoregressive"): FAILED}
    assert run.differences == {("q1", 0, "full"): DIFFERENCE}
    assert run.methods == ["autoregressive"] and run.header["schema"] == SCHEMA


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_line_that_was_cut_off_is_forgotten_and_written_over(tmp_path: Path, left: int) -> None:
    file = written(tmp_path, ANSWER, FAILED) / ROUNDS
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]) + lines[-1][:left])
    assert read_run(tmp_path).failed == {}
    written(tmp_path, DIFFERENCE)
    run = read_run(tmp_path)
    assert run.generated and run.differences and not run.failed
    assert file.read_bytes().splitlines(keepends=True)[:-1] == lines[:-1]


def test_an_answer_that_failed_may_be_given_later(tmp_path: Path) -> None:
    written(tmp_path, Failed("q1", "math", 0, "autoregressive", "no memory"))
    run = read_run(written(tmp_path, ANSWER))
    assert run.generated and not run.failed


@pytest.mark.parametrize(("name", "value"), [("target", "b"), ("temperature", 1.0), ("threads", 4)])
def test_another_run_is_not_gone_on_with(tmp_path: Path, name: str, value: object) -> None:
    before = (written(tmp_path, ANSWER) / ROUNDS).read_bytes()
    other = HEADER | {"identity": HEADER["identity"] | {name: value}}  # type: ignore[operator]
    with pytest.raises(InputError, match=f"a run of (an)?other {name}"):
        written(tmp_path, FAILED, header=other)
    assert (tmp_path / ROUNDS).read_bytes() == before


@pytest.mark.parametrize(
    ("line", "content", "said"),
    [
        (1, "{", "line 1 of .* is no record"),
        (1, '{"schema": 1}', "line 1 of .* no identity"),
        (1, '{"schema": 99, "identity": {}, "methods": []}', "another schema version: expected 1, found 99"),
        (2, "[]", "line 2 of .* is no record"),
        (2, '{"record": "generated"}', "line 2"),
        (2, '{"record": "poem"}', "line 2"),
        (2, "[" * 100_000, "line 2"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_overwritten(tmp_path: Path, line: int, content: str, said: str) -> None:
    file = written(tmp_path, ANSWER, FAILED) / ROUNDS
    lines = file.read_text().splitlines()
    lines[line - 1] = content
    file.write_text("\n".join(lines) + "\n")
    before = file.read_bytes()
    with pytest.raises(InputError, match=said):
        read_run(tmp_path)
    with pytest.raises(InputError, match=said):
        written(tmp_path, FAILED)
    assert file.read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no run"):
        written(tmp_path, ANSWER)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(OutputError, match="is no folder"):
        written(tmp_path / "thesis.txt")
    with pytest.raises(InputError, match="holds no run"):
        read_run(tmp_path)


def test_two_at_once(tmp_path: Path) -> None:
    with RunWriter(tmp_path, HEADER) as first:
        first.append(ANSWER)
        with pytest.raises(OutputError, match="another process writes"):
            written(tmp_path, FAILED)
    assert read_run(tmp_path).generated and not read_run(tmp_path).failed


def test_a_full_disk_leaves_whole_lines(tiny_disk: Path) -> None:
    long = Generated("q1", "math", 0, "autoregressive", tuple(range(2000)), (7,), "length", 0.25, ())
    with RunWriter(tiny_disk / "run", HEADER) as writer, pytest.raises(OutputError, match=r"cannot write .* goes on"):
        for _ in range(10):
            writer.append(long)
    content = (tiny_disk / "run" / ROUNDS).read_bytes()
    assert content.endswith(b"\n") and [json.loads(line) for line in content.splitlines()]
    assert read_run(tiny_disk / "run").generated


def test_no_header_on_a_full_disk_is_no_run(tiny_disk: Path) -> None:
    header = HEADER | {"methods": [{"name": "x" * 40_000}]}
    with pytest.raises(OutputError, match="cannot write"):
        written(tiny_disk / "run", FAILED, header=header)
    assert (tiny_disk / "run" / ROUNDS).read_bytes() == b""
    assert read_run(written(tiny_disk / "run", FAILED)).methods == ["autoregressive"]  # with less to say it begins


def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        written(Path("/proc/run"), FAILED)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot write .*Not a directory"):
        written(tmp_path / "file" / "run", FAILED)
