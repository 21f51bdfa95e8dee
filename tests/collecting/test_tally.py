"""What is counted while answers come, on ids small enough to follow by hand."""

from __future__ import annotations

import pytest

from vocabtrim.calibrate.tally import is_held_out
from vocabtrim.collecting import tally as module
from vocabtrim.collecting.answers import NOT_BACK, TARGET, Answer, Written
from vocabtrim.collecting.tally import HELD_OUT, Tally, Until
from vocabtrim.errors import InputError

HELD = next(f"key {n}" for n in range(1000) if is_held_out(f"key {n}", HELD_OUT))
CALIBRATION = next(f"key {n}" for n in range(1000) if not is_held_out(f"key {n}", HELD_OUT))


def answer(key: str, *ids: int, left_out: str | None = None) -> Answer:
    return Answer(key, "q", "all", 1, 1, "p", Written("t", ids, TARGET, "stop", 1.0), left_out)


def test_coverage_and_what_the_second_half_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held out: 1 1 2 3 9. Seen in the first four tokens: 1 and 2; in the second four also 3. 9 never."""
    monkeypatch.setattr(module, "_FEWEST", 8)
    tally = Tally(10)
    tally.add(answer(HELD, 1, 1, 2, 3, 9))
    assert tally.coverage == 0 and tally.gain is None
    tally.add(answer(CALIBRATION, 1, 2, 2))
    tally.add(answer(CALIBRATION, 1, 3, 3))
    assert tally.coverage == 4 / 5 and tally.gain is None  # six tokens are too few
    tally.add(answer(CALIBRATION, 3, 2))
    assert tally.coverage == 4 / 5 and tally.gain == pytest.approx(1 / 5)
    assert tally.enough(Until(gain=0.19)) is None and tally.tokens == 13
    tally.add(answer(CALIBRATION, *[1] * 8))  # 3 was the fifth token: now it is in the first half
    assert tally.gain == 0 and tally.enough(Until(gain=0.19)) == "flat"


def test_what_is_left_out_counts_nothing() -> None:
    tally = Tally(10)
    tally.add(answer(CALIBRATION, 1, 2, left_out=NOT_BACK))
    assert (tally.answers, tally.tokens, dict(tally.left_out)) == (1, 0, {NOT_BACK: 1})
    assert tally.enough(Until(tokens=1)) is None


def test_ids_beyond_the_tokenizer_are_passed_over() -> None:
    """A head may be wider than its tokenizer."""
    tally = Tally(10)
    tally.add(answer(CALIBRATION, 1, 12))
    tally.add(answer(HELD, 1, 13))
    assert tally.coverage == 1


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"gain": 0.0}, {"gain": 1.0}])
def test_limits_that_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"out of range|between 0 and 1"):
        Until(**wrong)  # type: ignore[arg-type]
