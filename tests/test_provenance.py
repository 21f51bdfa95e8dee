"""What a file may be written over, whose fault a failure is, and runs that share one output."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import assert_bad_input
from tiny_tokenizer import train
from vocabtrim.calibrate.counts import SourceCounts, TokenCounts
from vocabtrim.calibrate.tokenizer import TokenizerFacts
from vocabtrim.checkpoint import safetensors_file
from vocabtrim.errors import OutputError
from vocabtrim.provenance import atomic_directory, refuse_replacing, write_file
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary


def write_counts(path: Path) -> Path:
    tally = np.arange(1, 101)
    facts = TokenizerFacts("a" * 64, 100, 100)
    TokenCounts(facts, (SourceCounts("text", "raw", tally, tally),), documents=1).save(path)
    return path


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Path]:
    """One of everything that a verb reads."""
    folder = tmp_path / "world"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "hello"}\n' * 50)
    (folder / "empty.txt").touch()
    KeptVocabulary(np.array([2, 3, 7]), 10).save(folder / "kept.safetensors")
    torch.save([1, 2], folder / "map.pt")
    shapes.write_eagle3(folder / "drafter", TINY, seed=1, draft_vocab=8)
    return {
        "texts": folder / "a.jsonl",
        "empty": folder / "empty.txt",
        "tokenizer": train(folder / "t"),
        "counts": write_counts(folder / "c.safetensors"),
        "others": write_counts(folder / "c2.safetensors"),
        "kept": folder / "kept.safetensors",
        "map": folder / "map.pt",
        "drafter": folder / "drafter",
        "weights": folder / "drafter" / "model.safetensors",
    }


@pytest.mark.parametrize(
    "line",
    [
        "count {texts} --tokenizer {tokenizer} --out {texts}",
        "count {texts} {empty} --tokenizer {tokenizer} --out {empty}",
        "count {texts} --tokenizer {tokenizer} --out {tokenizer}/tokenizer.json",
        "count {texts} --tokenizer {tokenizer} --out {kept}",
        "count {texts} --tokenizer {tokenizer} --out {tokenizer}",
        "choose {counts} --keep 10 --out {counts}",
        "choose {counts} --keep 10 --out {map}",
        "merge {counts} {others} --out {others}",
        "merge {counts} {others} --out {weights}",
        "convert {weights} --to d2t-t2d --out {weights}",
        "convert {drafter} --to d2t --out {weights}",
        "convert {kept} --target-vocab 10 --to ids --out {kept}",
        "convert {kept} --to d2t --out {counts}",
        "convert {kept} --to token-map --out {map}",
    ],
)
def test_an_output_never_replaces_an_input_or_anything_foreign(
    vocabtrim: Any, world: dict[str, Path], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these would leave the file destroyed and exit 0; and it is said before the text is read."""
    monkeypatch.setattr("vocabtrim.calibrate.count.open_tokenizer", None)
    files = [path for path in world["texts"].parent.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    assert_bad_input(vocabtrim(*line.format(**world).split()), "--out")
    assert {path: path.read_bytes() for path in world["texts"].parent.rglob("*") if path.is_file()} == before


def test_the_same_kind_of_file_and_an_empty_one_are_replaced(tmp_path: Path) -> None:
    kept, out = KeptVocabulary(np.array([2, 3]), 10), tmp_path / "kept.safetensors"
    out.touch()
    kept.save(out)
    KeptVocabulary(np.array([1, 4]), 10).save(out)
    assert KeptVocabulary.load(out).ids.tolist() == [1, 4]
    with pytest.raises(OutputError, match="no counts file that vocabtrim wrote; choose another --out, or remove"):
        write_counts(out)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "c", tmp_path / "link"
    for target in (real, real):  # a link into nothing, then to the file
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        write_counts(link)
        assert link.is_symlink() and TokenCounts.load(real).documents == 1
    with pytest.raises(OutputError, match="is an input"):
        refuse_replacing(link, "counts", [real])


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("pipe", "null"):
        with pytest.raises(OutputError, match="expected a file, found a device"):
            write_counts(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()


def in_two_threads(work: Callable[[threading.Barrier], None]) -> list[BaseException]:
    barrier = threading.Barrier(2, timeout=20)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work(barrier)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_of_two_runs_with_one_output_the_later_one_is_refused_and_the_first_stays_whole(tmp_path: Path) -> None:
    """Both began while the output was not there. With one temporary name, the loser removed the winner's folder."""

    def build(barrier: threading.Barrier) -> None:
        barrier.wait()
        with atomic_directory(tmp_path / "out") as folder:
            (folder / "file").write_text("whole")
            barrier.wait()

    (raised,) = in_two_threads(build)
    assert isinstance(raised, OutputError) and "exists already" in str(raised) and "space" not in str(raised)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "whole"


def test_two_threads_write_one_file(tmp_path: Path) -> None:
    def write(barrier: threading.Barrier) -> None:
        for _ in range(20):
            barrier.wait()
            write_counts(tmp_path / "c")

    assert in_two_threads(write) == []
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_what_dead_runs_left_is_removed(tmp_path: Path) -> None:
    """A process that has ended and was waited for has no id any more; this one's parent lives."""
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    prefix = f".out.partial-{socket.gethostname()}-"
    for ending in (f"{dead}", f"{dead}-0badcafe", f"{os.getppid()}-0badcafe"):
        (tmp_path / (prefix + ending)).mkdir()
    with atomic_directory(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"out", f"{prefix}{os.getppid()}-0badcafe"}


@pytest.mark.parametrize("out", [Path("out"), Path("folder/out")])
def test_the_fault_of_an_input_below_the_same_folder_is_not_the_outputs(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"), atomic_directory(out):
        (out.parent / "missing").read_bytes()
    with pytest.raises(OutputError, match="cannot write"), atomic_directory(out) as folder:
        (folder / "none" / "file").write_bytes(b"")
    assert not out.exists() and [path.name for path in out.parent.iterdir()] == []


def test_a_header_is_written_whole_however_little_a_write_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, block: real(fd, bytes(block)[:7]))
    with (tmp_path / "t.safetensors").open("wb") as file:
        safetensors_file.write_header(file.fileno(), {"a": ("I64", (0,))}, {"format": "pt"})
    monkeypatch.undo()
    tensors, metadata = safetensors_file.read_header(tmp_path / "t.safetensors")
    assert [tensor.name for tensor in tensors] == ["a"] and metadata == {"format": "pt"}


def test_write_file_leaves_the_old_one_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write_counts(tmp_path / "c")
    before = out.read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_file(out, b"new", "counts")
    assert out.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["c"]
