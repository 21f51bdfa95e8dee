"""What every bench says of itself in its JSON line: device, versions, commit, seed."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from vocabtrim.provenance import birth_certificate


def certificate(seed: int, packages: tuple[str, ...] = ("numpy", "safetensors")) -> dict[str, Any]:
    """Processor and cores, package versions, commit, time and seed."""
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


def peak_bytes() -> int:
    """Peak resident memory of this process since it was executed.

    Linux's own high-water mark: getrusage's would still hold the peak of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
