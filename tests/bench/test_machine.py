"""What benches measure with: least times, bandwidths that no cache flatters, memory peaks that begin anew."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
import limits
import machine


def test_a_floor_is_bytes_over_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "read_bandwidth", lambda device: 20e9)
    line, told = machine.floor_line("a pass", 100e6, 0.015, "its weights")
    assert told == {
        "bytes": 100_000_000,
        "floor_seconds": pytest.approx(0.005),
        "measured_seconds": 0.015,
        "ratio": pytest.approx(3.0),
        "bytes_of": "its weights",
    }
    assert line == "floor: a pass: 100.0 MB (its weights) take 5.00 ms at 20.0 GB/s, measured 15.00 ms: 3 times"


@pytest.mark.parametrize(
    ("seconds", "words"), [(2.5, "2.50 s"), (0.25, "250.00 ms"), (0.001, "1.00 ms"), (0.00025, "250.00 us")]
)
def test_durations_are_read_in_their_own_unit(seconds: float, words: str) -> None:
    assert machine.duration(seconds) == words


def test_bandwidths_are_measured_once_and_on_arrays_that_no_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum that stayed in the cache, or never ran, would be faster than any memory; a unit's slip 1000 times off."""
    machine.read_bandwidths.cache_clear()
    assert machine._array_bytes() >= 4 * machine.cache_bytes()
    monkeypatch.setattr(machine, "_MOST_BYTES", 64 << 20)  # a quick one here
    first = machine.read_bandwidth()
    assert 0.5e9 < first < 1e12
    monkeypatch.setattr(machine, "_by_threads", None)
    assert machine.read_bandwidth() == first
    machine.read_bandwidths.cache_clear()


def test_sides_take_turns_and_the_first_turn_does_not_count() -> None:
    calls: list[str] = []
    seconds = machine.take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_threads_are_as_many_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), machine.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_a_forgotten_peak_begins_anew() -> None:
    large = torch.ones(64 << 20, dtype=torch.uint8)
    with_it = machine.peak_bytes()
    del large
    machine.forget_peak()
    assert machine.peak_bytes() < with_it - (32 << 20)


def test_rows_are_free_until_arithmetic_takes_as_long_as_reading() -> None:
    """4 bytes of a weight at 20 GB/s last 0.2 ns: at 100 GFLOP/s that is 20 operations, of which a row needs two."""
    assert limits.free_rows(100e9, 20e9, itemsize=4) == pytest.approx(10)
    weights, rows = 1000, 10
    assert limits.operations(rows, weights) / 100e9 == pytest.approx(4 * weights / 20e9)


def test_flat_rows_end_at_the_first_that_takes_longer() -> None:
    assert limits.flat_until({1: 1.0, 2: 1.2, 4: 1.3, 8: 1.1}) == 2
    assert limits.flat_until({1: 1.0, 2: 2.0}) == 1
