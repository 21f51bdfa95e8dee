"""What tells answers that end in circles, on real answers and on what people wrote."""

from __future__ import annotations

import json
import random
from pathlib import Path

from vocabtrim.calibrate.loops import ends_in_circles


def lines(file: Path, field: str) -> list[str]:
    return [json.loads(line)[field] for line in file.read_text().splitlines()]


def test_recorded_answers_and_human_text(data: Path) -> None:
    """The figures of docs/collect.md: a wide gap between answers that loop and all others."""
    answers = [
        record["output"][0]
        for name in ("gsm", "crux")
        for record in json.loads((data / "recorded" / f"zeroeval_{name}_llama3.1-8b.json").read_text())
    ]
    assert len(answers) == 2119
    assert [sum(ends_in_circles(text, ratio) for text in answers) for ratio in (4.1, 4.2, 8, 11.8, 12)] == [
        *(12, 11, 11, 11, 10)
    ]
    human = lines(data / "text" / "c4_demo.jsonl", "text") + lines(data / "code" / "mbpp.jsonl", "code")
    human += lines(data / "code" / "humaneval.jsonl", "canonical_solution")
    assert not any(ends_in_circles(text, 6.6) for text in human)


def test_a_loop_behind_a_long_good_beginning() -> None:
    """The whole answer compresses like prose; its last half does not."""
    draw = random.Random(0)
    prose = " ".join("".join(draw.choices("abcdefghij", k=5)) for _ in range(400))
    answer = prose + " and so on" * 300
    assert ends_in_circles(answer) and not ends_in_circles(answer, 0.9 * len(answer)) and not ends_in_circles(prose)


def test_short_text_is_no_loop() -> None:
    assert not any(ends_in_circles(text) for text in ("", "a", "no no no no", "ha" * 20, "\ud800"))
