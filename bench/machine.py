"""What every bench says of itself and of the machine: device, versions, commit, seed; bandwidths; what is the least
time that so many bytes take.

Knows nothing of models. Whatever a bench runs, its bytes go through memory at most as fast as a bare read does, so
`floor_line` puts the time of that read beside the measured one. Bandwidths are measured once per process. Imports are
late, so that benches may run this in environments that hold torch alone.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_LEAST_BYTES, _MOST_BYTES = 256 << 20, 4 << 30


def certificate(seed: int, packages: tuple[str, ...] = ("numpy", "safetensors")) -> dict[str, Any]:
    """Processor and cores, package versions, commit, time and seed."""
    from vocabtrim.provenance import birth_certificate

    born = birth_certificate({}, {})
    return {
        "device": f"{_processor()}, {os.cpu_count()} cores",
        "versions": {"vocabtrim": born["version"], "python": born["python"]}
        | {name: metadata.version(name) for name in packages},
        "commit": born.get("git_commit"),
        "dirty": born.get("git_dirty"),
        "created": born["created"],
        "seed": seed,
    }


def floor_line(name: str, size: float, seconds: float, of: str, device: str = "cpu") -> tuple[str, dict[str, Any]]:
    """A line to print, and its fields for the JSON line: the bytes, the least time for them, the measured one.

    size: bytes. of: what they are, in words. ratio: measured over least time. Bytes that are written are charged as if
    they were read, which is no slower, so the floor stays one.
    """
    bandwidth = read_bandwidth(device)
    least = size / bandwidth
    told: dict[str, Any] = {"bytes": round(size)}
    told |= {"floor_seconds": least, "measured_seconds": seconds, "ratio": seconds / least, "bytes_of": of}
    line = (
        f"floor: {name}: {size / 1e6:,.1f} MB ({of}) take {duration(least)} at {bandwidth / 1e9:.1f} GB/s, "
        f"measured {duration(seconds)}: {told['ratio']:.3g} times"
    )
    return line, told


def duration(seconds: float) -> str:
    """As people read it: 1.23 s, 4.56 ms, 78.90 us."""
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.2f} {unit}"
    return f"{seconds * 1e6:.2f} us"


def read_bandwidth(device: str = "cpu") -> float:
    """Bytes per second that the best way of reading a large array reaches; see `read_bandwidths`."""
    return max(read_bandwidths(device).values())


def copy_bandwidth(device: str = "cpu") -> float:
    """Bytes per second of a copy, those read and those written both counted; the best number of threads."""
    return max(copy_bandwidths(device).values())


@cache
def read_bandwidths(device: str = "cpu") -> dict[str, float]:
    """way -> bytes per second, the median of repeats: sums and the largest element, by one thread and by all.

    None of them is best on every machine, and none does more than read: what is best of them is a lower bound of what
    the memory gives.
    """
    import torch

    words = torch.ones(_array_bytes() // 8, dtype=torch.int64, device=device)
    numbers = words.view(torch.float32)
    ways: dict[str, Callable[[], Any]] = {
        "sum of int64": words.sum,
        "sum of float32": numbers.sum,
        "largest float32": numbers.amax,
    }
    return _by_threads(ways, words.nbytes, device)


@cache
def copy_bandwidths(device: str = "cpu") -> dict[str, float]:
    """Number of threads -> bytes per second, read and written, the median of repeats."""
    import torch

    source = torch.ones(_array_bytes() // 8, dtype=torch.int64, device=device)
    out = torch.empty_like(source)
    return _by_threads({"copy": lambda: out.copy_(source)}, 2 * source.nbytes, device)


def take_turns(
    sides: dict[str, Callable[[], Any]], turns: int, device: str = "cpu", warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each side's turns, A B A B ...; the first `warm` turns do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-warm, turns):
        for name, run in sides.items():
            spent = seconds_of(run, device)
            if turn >= 0:
                seconds[name].append(spent)
    return seconds


def seconds_of(run: Callable[[], Any], device: str = "cpu") -> float:
    """Of one call, up to when the device has done what it was asked."""
    wait = _waits_for(device)
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads of torch inside, as many as before behind it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_counts(device: str = "cpu") -> list[int]:
    """One, and as many as this process may use; on other devices their number means nothing."""
    return sorted({1, len(os.sched_getaffinity(0))}) if device == "cpu" else [1]


def cache_bytes() -> int:
    """Of the last-level cache; 0 where the machine does not say."""
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]])
    return max(sizes)


def peak_bytes() -> int:
    """Peak resident memory of this process since it was executed, or since `forget_peak`.

    Linux's own high-water mark: getrusage's would still hold the peak of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak() -> None:
    """Let `peak_bytes` begin anew with what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def _by_threads(ways: dict[str, Callable[[], Any]], size: int, device: str) -> dict[str, float]:
    found = {}
    for number in thread_counts(device):
        with threads(number):
            for name, seconds in take_turns(ways, 7, device).items():
                found[f"{name}, threads: {number}"] = size / statistics.median(seconds)
    return found


def _array_bytes() -> int:
    """Well beyond the last-level cache, so that nearly nothing of a turn is left in it for the next."""
    return min(max(8 * cache_bytes(), _LEAST_BYTES), _MOST_BYTES) // 8 * 8


def _waits_for(device: str) -> Callable[[], None]:
    if device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
