"""`vocabtrim report` from the command line, on a real run: what it writes, what it refuses, what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import assert_bad_input
from hand_runs import header, method, run_of, three_way, write_run
from measured import KEPT, Measured, write_measured
from vocabtrim.calibrate.counts import SourceCounts, TokenCounts
from vocabtrim.calibrate.tokenizer import TokenizerFacts
from vocabtrim.measure.records import ROUNDS


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return write_measured(tmp_path_factory.mktemp("measured"))


@pytest.fixture
def report(vocabtrim: Any, measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def call(*more: object, runs: tuple[Path, ...] = (measured.greedy,)) -> Any:
        return vocabtrim("report", *runs, *more)

    return call


def test_everything_that_can_be_asked_for(report: Any, measured: Measured, tmp_path: Path) -> None:
    told = ["--counts", measured.counts, "--tokenizer", measured.target, "--plots", "plots", "--markdown", "r.md"]
    run = report(*told, "--out", "page.html", "--json")
    assert run.code == 0, run.err
    found = run.json
    page = (tmp_path / "page.html").read_text()
    assert found["out"] == "page.html" and found["bytes"] == len(page.encode()) < 3_000_000
    (only,) = found["runs"]
    assert only["questions"] == 12 and only["kept_size"] in KEPT and set(only["over_full"]) == {"cut-128", "cut-320"}
    assert only["sentence"] in page.replace("\u00a0", " ")
    assert only["sentence"] in (tmp_path / "r.md").read_text()
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {
        f"{name}.{form}"
        for name in ("coverage", "block-efficiency", "mbsu", "speed-up", "draft-step", "acceptance")
        for form in ("svg", "png")
    }
    for link in re.findall(r"\]\(<([^>]*)>\)", (tmp_path / "r.md").read_text()):
        assert (tmp_path / link).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "plots", "r.md"]


def test_lines_for_people(report: Any, measured: Measured) -> None:
    run = report(runs=(measured.greedy, measured.sampled))
    assert run.code == 0, run.err
    greedy, sampled, written = run.out.splitlines()
    assert greedy.startswith("greedy: Trimmed to ") and sampled.startswith("temperature 1: Trimmed to ")
    assert written.startswith("Wrote report.html (")


def test_two_runs_of_one_temperature_go_by_their_folders(report: Any, measured: Measured, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / ROUNDS).write_bytes((measured.greedy / ROUNDS).read_bytes())
    run = report("--json", runs=(measured.greedy, tmp_path / "again"))
    assert [told["label"] for told in run.json["runs"]] == ["greedy, greedy", "again, greedy"]


def test_its_own_page_and_pictures_are_replaced(report: Any, measured: Measured, tmp_path: Path) -> None:
    assert report("--plots", "plots").code == 0
    names = ("report.html", "plots/mbsu.svg", "plots/mbsu.png")
    before = [(tmp_path / name).read_bytes() for name in names]
    assert report("--plots", "plots", "--counts", measured.counts).code == 0
    assert all((tmp_path / name).read_bytes() != was for name, was in zip(names, before, strict=True))


@pytest.mark.parametrize("option", ["--out", "--markdown"])
def test_another_file_is_not_replaced(report: Any, tmp_path: Path, option: str) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<h1>my notes on vocabtrim report</h1>")
    assert_bad_input(report(option, mine), "mine.html exists already")
    assert mine.read_text() == "<h1>my notes on vocabtrim report</h1>" and list(tmp_path.iterdir()) == [mine]


def test_markdown_is_never_replaced(report: Any, tmp_path: Path) -> None:
    """Not even its own: whoever pasted it into a README has gone on by hand."""
    assert report("--markdown", "README.md").code == 0
    before = (tmp_path / "README.md").read_bytes()
    assert_bad_input(report("--markdown", "README.md"), "README.md exists already", "may be anyone's")
    assert (tmp_path / "README.md").read_bytes() == before


def test_a_picture_of_another_is_not_replaced(report: Any, tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "mbsu.png").write_bytes(b"\x89PNG of a cat")
    assert_bad_input(report("--plots", "plots"), "mbsu.png exists already", "no plot file")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["plots", "plots/mbsu.png"]


def test_outputs_that_are_inputs_or_each_other(report: Any, measured: Measured, tmp_path: Path) -> None:
    before = (measured.greedy / ROUNDS).read_bytes()
    assert_bad_input(report("--out", measured.greedy / ROUNDS), "is an input")
    assert_bad_input(report("--counts", measured.counts, "--out", measured.counts), "is an input")
    assert_bad_input(report("--out", "a.md", "--markdown", "a.md"), "two outputs go into one file")
    assert (measured.greedy / ROUNDS).read_bytes() == before and not list(tmp_path.iterdir())


def test_bad_runs(report: Any, measured: Measured, tmp_path: Path) -> None:
    def refused(*facts: str, runs: tuple[Path, ...]) -> None:
        assert_bad_input(report(runs=runs), *facts)
        assert not (tmp_path / "report.html").exists()

    refused("nowhere holds no run", "rounds.jsonl", runs=(tmp_path / "nowhere",))
    refused("holds no run", runs=(measured.target,))
    refused("is named twice", runs=(measured.greedy, measured.greedy))
    other = write_run(tmp_path / "other", three_way())
    refused("other was measured on another target", runs=(measured.greedy, other))
    empty = write_run(tmp_path / "empty", run_of(header(method("full")), *list(three_way().generated.values())[:1]))
    refused("no question that every method answered", runs=(empty,))
    lines = (other / ROUNDS).read_bytes().splitlines(keepends=True)
    (other / ROUNDS).write_bytes(lines[0])
    refused("no question that every method answered, found 0 answers", runs=(other,))
    (other / ROUNDS).write_bytes(b"not json\n")
    refused("line 1 of", "no record of a run", runs=(other,))
    (other / ROUNDS).write_bytes(b"")
    refused("is empty", runs=(other,))


def test_what_does_not_belong_to_the_run(report: Any, measured: Measured, tmp_path: Path) -> None:
    tally = np.ones(10, np.int64)
    other = TokenCounts(TokenizerFacts("u" * 64, 10, 10), (SourceCounts("text", "raw", tally, tally),), documents=1)
    other.save(tmp_path / "other.safetensors")
    assert_bad_input(report("--counts", tmp_path / "other.safetensors"), "another tokenizer than the run")
    assert_bad_input(report("--counts", measured.greedy / ROUNDS), "holds no token counts")
    assert_bad_input(report("--counts", tmp_path / "none.safetensors"), "do not exist")
    assert_bad_input(report("--tokenizer", tmp_path), "no tokenizer at")
    assert not (tmp_path / "report.html").exists()


def test_the_tokenizer_of_another_target(report: Any, measured: Measured, tmp_path: Path) -> None:
    said = json.loads((measured.target / "tokenizer.json").read_text())
    said["added_tokens"][-1]["content"] = "<|renamed|>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(said))
    assert_bad_input(report("--tokenizer", tmp_path / "tokenizer.json"), "--tokenizer is not the one of the runs")


def test_without_matplotlib(report: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what an import of a package that is not there meets
    assert_bad_input(report(), "need the matplotlib package", "pip install 'vocabtrim[report]'")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_written(vocabtrim_process: Any, measured: Measured, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = vocabtrim_process("report", measured.greedy, "--out", "file/report.html", cwd=tmp_path, env={**os.environ})
    assert_bad_input(run, "cannot write", "Not a directory")


def test_a_full_disk(report: Any, tiny_disk: Path) -> None:
    run = report("--out", tiny_disk / "report.html")
    assert_bad_input(run, "cannot write", "No space left")
    assert not list(tiny_disk.iterdir())
