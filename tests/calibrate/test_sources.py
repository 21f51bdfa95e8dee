"""What SOURCE arguments mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vocabtrim.calibrate.sources import Source, find_sources
from vocabtrim.errors import InputError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.txt, b.jsonl, sub/{a.txt, c.txt, .hidden}, .git/x; the working directory."""
    for name in ("a.txt", "b.jsonl", "sub/a.txt", "sub/c.txt", "sub/.hidden", ".git/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(source: Source) -> list[str]:
    return [str(file) for file in source.files]


def test_a_file(tree: Path) -> None:
    (source,) = find_sources(["sub/a.txt"], "raw")
    assert (source.name, source.origin, source.argument, files(source)) == ("a.txt", "raw", "sub/a.txt", ["sub/a.txt"])
    assert source.known_bytes == len("sub/a.txt")


def test_a_path_object_and_a_default_origin(tree: Path) -> None:
    assert find_sources([tree / "a.txt"], "drafter-generated")[0].origin == "drafter-generated"


def test_an_origin_in_front(tree: Path) -> None:
    (source,) = find_sources(["target-generated:b.jsonl"], "raw")
    assert (source.name, source.origin, files(source)) == ("b.jsonl", "target-generated", ["b.jsonl"])


def test_a_file_whose_name_looks_like_an_origin(tree: Path) -> None:
    Path("raw:x").write_text("")
    assert files(find_sources(["raw:x"], "target-generated")[0]) == ["raw:x"]


def test_a_folder_is_taken_whole_but_for_hidden_names(tree: Path) -> None:
    (source,) = find_sources(["."], "raw")
    assert source.name == tree.name
    assert files(source) == ["a.txt", "b.jsonl", "sub/a.txt", "sub/c.txt"]


def test_a_folder_that_links_to_itself(tree: Path) -> None:
    Path("sub/loop").symlink_to(tree)
    assert files(find_sources(["sub"], "raw")[0]) == ["sub/a.txt", "sub/c.txt"]


def test_globs(tree: Path) -> None:
    flat, deep = find_sources(["*.txt", "**/*.txt"], "raw")
    assert files(flat) == ["a.txt"]
    assert files(deep) == ["a.txt", "sub/a.txt", "sub/c.txt"]
    assert deep.name == "**/*.txt"


def test_a_file_with_pattern_characters_in_its_name(tree: Path) -> None:
    Path("a[1].txt").write_text("")
    assert files(find_sources(["a[1].txt"], "raw")[0]) == ["a[1].txt"]


def test_names_stay_unique(tree: Path) -> None:
    found = find_sources(["a.txt", "sub/a.txt", "a.txt", "a.txt"], "raw")
    assert [source.name for source in found] == ["a.txt", "sub/a.txt", "a.txt (2)", "a.txt (3)"]


def test_standard_input() -> None:
    (source,) = find_sources(["target-generated:-"], "raw")
    assert (source.name, source.origin, source.files, source.known_bytes) == ("stdin", "target-generated", (None,), 0)


def test_a_pipe_is_a_file_without_a_known_size(tree: Path) -> None:
    os.mkfifo("pipe")
    assert find_sources(["pipe"], "raw")[0].known_bytes == 0


@pytest.mark.parametrize(
    ("arguments", "origin", "message"),
    [
        ([], "raw", "no calibration text"),
        (["nothing.txt"], "raw", "nothing.txt does not exist"),
        (["target-generated:nothing.txt"], "raw", "nothing.txt does not exist"),
        (["*.parquet"], "raw", r"no file matches \*.parquet"),
        (["empty"], "raw", "folder empty holds no file"),
        (["-", "raw:-"], "raw", "standard input is named twice"),
        (["a.txt"], "web", "expected raw or target-generated or drafter-generated, found 'web'"),
    ],
)
def test_bad_sources(tree: Path, arguments: list[str], origin: str, message: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(InputError, match=message):
        find_sources(arguments, origin)
