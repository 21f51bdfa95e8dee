"""`vocabtrim demo` as a new user runs it: what it prints, what it keeps, and what stops it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vocabtrim as package
from vocabtrim.vocabulary.kept import KeptVocabulary

PACKAGE = Path(package.__file__).parent
FEW = ("--prompts", "2", "--max-new-tokens", "12")


def test_it_tells_all_steps_and_ends_with_the_user_s_own_command(tmp_path: Path, vocabtrim: Any) -> None:
    run = vocabtrim("demo", *FEW, "--out", tmp_path / "demo")
    assert run.code == 0, run.err
    order = [
        "target-generated.jsonl",  # counted
        "By kept size",  # the coverage table
        "Verdict: trim",
        "EAGLE-1/2: what is cut",
        "every tensor compared with its source",
        "plain: ",
        "2 held-out prompts, eagle drafter",
        "All three wrote the same",
        "report.html: open it in a browser",
        "The same for your own drafter",
        "vocabtrim trim DRAFTER --target TARGET",
    ]
    places = [run.out.find(words) for words in order]
    assert -1 not in places and places == sorted(places), dict(zip(order, places, strict=True))
    kept = KeptVocabulary.load(tmp_path / "demo" / "trimmed" / "kept.safetensors").size
    assert f"{kept:,} ids" in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    # What is kept can be gone on with.
    again = vocabtrim("report", tmp_path / "demo" / "run", "--out", tmp_path / "again.html", "--json")
    assert again.json["runs"][0]["kept_size"] == kept


def test_as_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocabtrim: Any) -> None:
    monkeypatch.chdir(tmp_path)
    told = vocabtrim("demo", *FEW, "--drafter", "independent", "--json").json
    assert [path.name for path in tmp_path.iterdir()] == [told["page"]] == ["vocabtrim-demo.html"]
    assert told["ok"] and told["different_answers"] == 0 and told["out"] is None
    assert list(told["sides"]) == ["plain", "full head", "trimmed head"]
    assert told["sides"]["trimmed head"]["head_rows"] == told["kept_size"] < 16_384
    assert {side["tokens"] for side in told["sides"].values()} == {told["sides"]["plain"]["tokens"]}


def test_a_drafter_that_is_not_carried(vocabtrim: Any) -> None:
    run = vocabtrim("demo", "--drafter", "llama")
    assert run.code == 2
    assert "expected eagle, eagle3, independent, medusa, found llama" in run.err


def test_a_folder_that_stands_is_left_alone(tmp_path: Path, vocabtrim: Any) -> None:
    (tmp_path / "mine").write_text("x")
    run = vocabtrim("demo", *FEW, "--out", tmp_path)
    assert run.code == 2 and [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_page_that_is_not_a_report_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocabtrim: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vocabtrim-demo.html").write_text("<p>mine</p>")
    run = vocabtrim("demo", *FEW)
    assert run.code == 2 and "exists already" in run.err and not run.out
    assert (tmp_path / "vocabtrim-demo.html").read_text() == "<p>mine</p>"


def test_without_a_plotting_library_all_else_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocabtrim: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run = vocabtrim("demo", *FEW)
    assert run.code == 0 and "All three wrote the same" in run.out
    assert "No report: " in run.out and "pip install 'vocabtrim[report]'" in run.out
    assert not list(tmp_path.iterdir())
    (tmp_path / "vocabtrim-demo.html").write_text("")  # of an earlier run: empty files are replaced
    assert vocabtrim("demo", *FEW, "--json").json["page"] is None


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the package, to be damaged."""
    left_out = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PACKAGE, tmp_path / "site" / "vocabtrim", ignore=left_out))


def run_installed(installed: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "from vocabtrim.cli import main; main()"
    # Without bytecode: a package that cannot be written to is read as it is.
    environment = os.environ | {"PYTHONPATH": str(installed.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= options.pop("env", {})
    command = [sys.executable, "-c", code, "demo", *FEW, *arguments]
    options.setdefault("cwd", installed.parent.parent)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("change", ["one bit", "shorter", "gone"])
def test_a_model_file_that_is_not_the_trained_one(installed: Path, change: str) -> None:
    file = installed / "testbed" / "data" / "family" / "target" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(content if change == "one bit" else content[:-5])
    run = run_installed(installed)
    assert run.returncode == 2
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("vocabtrim: ")]
    said = {"one bit": "SHA-256", "shorter": "bytes, found", "gone": "is missing"}[change]
    assert "target/model.safetensors" in line and said in line and "install vocabtrim again" in line


def test_a_package_that_cannot_be_written_to(installed: Path, tmp_path: Path) -> None:
    """Installed for all users, run by one of them: nothing is written beside the code."""
    everything = [installed, *installed.rglob("*")]
    for path in everything:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    before = {path: path.stat().st_mtime_ns for path in everything}
    cache = tmp_path / "cache"
    try:
        run = run_installed(installed, "--drafter", "medusa", env={"VOCABTRIM_CACHE": str(cache)})
    finally:
        for path in everything:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert run.returncode == 0, run.stderr
    assert {path: path.stat().st_mtime_ns for path in [installed, *installed.rglob("*")]} == before
    assert any(cache.iterdir())


def test_no_space_for_the_cache(tmp_path: Path, vocabtrim_process: Any, tiny_disk: Path) -> None:
    environment = os.environ | {"VOCABTRIM_CACHE": str(tiny_disk / "cache")}
    run = vocabtrim_process("demo", *FEW, "--drafter", "medusa", "--out", tmp_path / "demo", env=environment)
    assert run.code == 2
    assert "cannot put Medusa together" in run.err and "VOCABTRIM_CACHE" in run.err
    assert not list((tiny_disk / "cache").glob("medusa*"))
