"""How long a user waits for `vocabtrim --help`, as a process of its own, against starting Python alone.

Physics: what is imported. The command line imports typer and nothing heavier; a verb imports its needs when it runs.

    python bench/start.py [--runs 15]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from machine import certificate

SIDES = {
    "python alone": ["-c", "pass"],
    "vocabtrim --help": ["-c", "from vocabtrim.cli import main; main()", "--help"],
    "vocabtrim trim --help": ["-c", "from vocabtrim.cli import main; main()", "trim", "--help"],
    "import vocabtrim": ["-c", "import vocabtrim"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(runs):
        for side, arguments in SIDES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            seconds[side].append(time.perf_counter() - start)
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    for side, median in medians.items():
        print(f"{side:24} {median:6.3f} s")
    print(json.dumps({"bench": "start", "median_seconds": medians, "runs": runs, **certificate(0, ("typer",))}))


if __name__ == "__main__":
    main()
