"""The examples run as they stand, offline and from any folder, and print what their docstrings promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def printed(example: str, folder: Path) -> list[str]:
    """The lines an example prints, run as a reader runs it; it must leave nothing behind."""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, EXAMPLES / example], cwd=folder, env=offline, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert not list(folder.iterdir())
    return run.stdout.splitlines()


def test_trim_a_drafter(tmp_path: Path) -> None:
    counted, verdict, head, checked = printed("trim_a_drafter.py", tmp_path)
    assert re.fullmatch(r"counted [\d,]+ tokens, [\d,]+ of 16,384 ids among them", counted)
    assert verdict.startswith("trim: ") and "predicted MBSU" in verdict
    before, after = (int(number.replace(",", "")) for number in re.findall(r"[\d,]+", head))
    assert before == 16_448 * 256 * 2 and after < before / 2
    assert checked == "sound"


def test_back_off_sources(tmp_path: Path) -> None:
    """At every size what the answers never showed is covered better by prose first than by merge order alone."""
    header, alone, backed_off = printed("back_off_sources.py", tmp_path)
    assert header.split()[-4:] == ["1,024", "2,048", "4,096", "8,192"]
    coverage = [[float(share) for share in line.split()[-4:]] for line in (alone, backed_off)]
    assert all(shares == sorted(shares) and 0.5 < shares[0] < shares[-1] <= 1 for shares in coverage)
    assert all(more >= less for less, more in zip(*coverage, strict=True)) and coverage[1][2] > coverage[0][2]


def test_token_map_for_sglang(tmp_path: Path) -> None:
    written, same, forced = printed("token_map_for_sglang.py", tmp_path)
    assert written.startswith("hot_tokens.pt: 4,096 ids from 0 to ")
    assert same == "the kept ids: True"
    assert "16370 (stop token)" in forced and "16368 (stop token)" in forced


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_say_how_to_use_them(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert f"python examples/{example.name}" in text and "On your own" in text
    assert f"def test_{example.stem}(" in Path(__file__).read_text(encoding="utf-8")
