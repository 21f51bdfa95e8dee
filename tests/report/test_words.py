"""Numbers as people read them."""

from __future__ import annotations

import pytest

from vocabtrim.report.words import change, interval, milliseconds, number, printable, share, size


@pytest.mark.parametrize(
    ("part", "digits", "shown"),
    [
        (0.5, 1, "50.0 %"),
        (0.0, 1, "0.0 %"),
        (1.0, 2, "100.00 %"),
        (0.99999, 2, "99.99 %"),  # not all
        (0.00001, 1, "0.1 %"),  # not nothing
        (0.996, 0, "99 %"),
        (None, 1, "–"),
    ],
)
def test_share(part: float | None, digits: int, shown: str) -> None:
    assert share(part, digits) == shown


def test_others() -> None:
    assert [size(n) for n in (999, 1000, 1.5e6, 2e15)] == ["999 B", "1.0 kB", "1.5 MB", "2000.0 TB"]
    assert [change(ratio) for ratio in (0.981, 1.02, 1.0004, 0.9996)] == ["1.9 % fewer", "2.0 % more", *["as many"] * 2]
    assert interval((1.078, 1.149)) == "1.08 to 1.15"
    assert [milliseconds(s) for s in (0.00273, 0.0431)] == ["2.73 ms", "43.1 ms"]
    assert [number(n, "question") for n in (1, 1200)] == ["1 question", "1,200 questions"]
    assert printable("a\nb\x1b") == "a�b�"
