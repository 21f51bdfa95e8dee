"""`vocabtrim spec-bench` on small files in Spec-Bench's form, with figures that were added up by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import assert_bad_input
from vocabtrim.testbed.builtin import TOKENIZER


def line(
    question: int, category: str, texts: list[str], tokens: list[int], seconds: list[float], passes: list[int]
) -> str:
    steps = [number for number in passes if number]
    choice: dict[str, Any] = {"index": 0, "turns": texts, "new_tokens": tokens, "wall_time": seconds}
    choice |= {"decoding_steps": [len(steps)], "accept_lengths": steps}
    return json.dumps({"question_id": question, "category": category, "model_id": "m", "choices": [choice]}) + "\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    method, plain = tmp_path / "eagle.jsonl", tmp_path / "vanilla.jsonl"
    method.write_text(
        line(1, "writing", ["Once upon"], [6], [1.0], [4, 2])
        + line(2, "rag", ["a b"], [4], [1.0], [4])
        + line(3, "rag", ["ERROR"], [4], [1.0], [4])
    )
    plain.write_text(
        line(1, "writing", ["Once upon"], [6], [3.0], [1] * 6)
        + line(2, "rag", ["a c"], [4], [2.0], [1] * 4)
        + line(3, "rag", ["d"], [4], [2.0], [1] * 4)
    )
    return method, plain


def test_figures_for_programs(files: tuple[Path, Path], vocabtrim: Any) -> None:
    method, plain = files
    run = vocabtrim("spec-bench", method, "--baseline", plain, "--cost-ratio", 0.1, "--steps", 5, "--json")
    assert run.code == 0, run.err
    found = run.json
    assert (found["turns"], found["failed"], found["new_tokens"], found["decoding_steps"]) == (2, 1, 10, 3)
    assert found["block_efficiency"] == pytest.approx(10 / 3) and found["mbsu"] == pytest.approx(10 / 3 / 1.5)
    assert (found["pairs"], found["same_text"]) == (2, 1)
    assert found["speedup"] == pytest.approx((10 / 2) / (10 / 5))
    assert found["acceptance_by_depth"] == pytest.approx([1, 2 / 3, 2 / 3])
    assert set(found["categories"]) == {"mt_bench", "rag"} and found["upstream"] is None
    assert found["categories"]["rag"]["speedup"] == pytest.approx(2)


def test_its_own_script_s_figures(files: tuple[Path, Path], vocabtrim: Any) -> None:
    method, plain = files
    told = vocabtrim("spec-bench", method, "--baseline", plain, "--tokenizer", TOKENIZER, "--json").json["upstream"]
    assert told["mean_accepted_tokens"] == pytest.approx(14 / 4)  # the failed one counts there
    assert told["tokens_per_second"] == pytest.approx((6 + 4 + 4) / 3)


def test_a_table_for_people(files: tuple[Path, Path], vocabtrim: Any) -> None:
    method, plain = files
    run = vocabtrim("spec-bench", method, "--baseline", plain, "--tokenizer", TOKENIZER, "--cost-ratio", 0.1)
    assert run.code == 0, run.err
    for words in ("mt_bench", "overall", "3.33", "2.22", "2.50", "Accepted so deep", "mean accepted tokens 3.50"):
        assert words in run.out, words
    assert "speed-up" not in vocabtrim("spec-bench", method).out


def test_bad_input(files: tuple[Path, Path], vocabtrim: Any, tmp_path: Path) -> None:
    alone = vocabtrim("spec-bench", files[0], "--tokenizer", tmp_path)
    assert alone.code == 2 and "--baseline" in alone.err
    free = vocabtrim("spec-bench", files[0], "--steps", 5)
    assert free.code == 2 and "--cost-ratio" in free.err
    method, _ = files
    assert_bad_input(vocabtrim("spec-bench", tmp_path / "none.jsonl"), "none.jsonl")
    assert_bad_input(vocabtrim("spec-bench", method, "--cost-ratio", -1), "cost ratio", "expected 0 or more")
    other = tmp_path / "other.jsonl"
    other.write_text(line(9, "rag", ["a"], [1], [1.0], [1]))
    assert_bad_input(vocabtrim("spec-bench", method, "--baseline", other), "different questions")
    (tmp_path / "cut.jsonl").write_text(method.read_text()[:-30])
    assert_bad_input(vocabtrim("spec-bench", tmp_path / "cut.jsonl"), "line 3")
