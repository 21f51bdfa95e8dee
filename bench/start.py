"""How long a user waits: for `vocabtrim --help`, and for the first token of `vocabtrim generate`, cold, warm and plain.

Physics: what is imported, what is read, what is compiled. The command line imports typer and nothing heavier; a verb
imports its needs when it runs, which for decoding are torch and transformers and cost seconds. The built-in target is
20 MB: its file is read once, and its weights by one pass over the prompt and one for the first token, all of which
would take a few milliseconds at the memory's bandwidth. Everything else is waiting for imports and, where code is
compiled, for the compiler: once, as what it made is cached between runs, and no longer than it pays, as it is begun
while weights are loaded, in a process of its own that lives on behind a short answer.

Every start is a process of its own. Cold: a cache folder that is empty (VOCABTRIM_CACHE). Warm: the same folder again,
once the compiler is done. Plain: `--plain`, which compiles nothing. Files lie in the page cache, and Python's own
compiled files are there, each time. Sides take turns; medians. Stages: python (until the first line runs), imports,
loading (tokenizer, weights, drafter), waiting for the compiler, and first token (the pass over the prompt and the first
round).

    python bench/start.py [--runs 15] [--generate-runs 3] [--tokens 32]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import certificate, floor_line
from vocabtrim.checkpoint.costs import drafter_cost
from vocabtrim.testbed.family import member

CACHE = Path(__file__).resolve().parent / "out" / "start"
COMMAND = ["-c", "from vocabtrim.cli import main; main()"]
SIDES = {
    "python alone": ["-c", "pass"],
    "vocabtrim --help": [*COMMAND, "--help"],
    "vocabtrim trim --help": [*COMMAND, "trim", "--help"],
    "import vocabtrim": ["-c", "import vocabtrim"],
}
PROMPT = "Why is the sky blue?"
WAYS = ("cold", "warm", "plain")
STAGES = ("python", "imports", "loading", "compiler", "first token")

# Prints how long each stage took; what `vocabtrim generate` does, in its order.
_STAGES = """
import sys, time
marks = [float(sys.argv[1]), time.perf_counter()]
import json
import vocabtrim as vt
from vocabtrim.cli.generate import quiet
from vocabtrim.decoding.lean.compiled import compilation
from vocabtrim.decoding.text import TargetText
load_target, load_drafter, decode = vt.load_target, vt.load_drafter, vt.decode
quiet()
marks.append(time.perf_counter())
prompt, target_folder, drafter_folder, tokens, plain = sys.argv[2:]
words = TargetText(target_folder)
target = load_target(target_folder, lean=not plain)
drafter = load_drafter(drafter_folder, target) if drafter_folder else None
rounds = decode(target, drafter, words.prompt(prompt), max_new_tokens=int(tokens), stop_ids=())
marks.append(time.perf_counter())
emitted = list(next(rounds).tokens)
marks.append(time.perf_counter())
for done in rounds:
    emitted += done.tokens
python, imports, loading, first = (end - begin for begin, end in zip(marks, marks[1:]))
waited = 0.0 if plain else compilation().seconds
print(json.dumps({"python": python, "imports": imports, "loading": loading, "compiler": waited,
    "first token": first - waited, "to first token": marks[-1] - marks[0],
    "whole answer": time.perf_counter() - marks[0]}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--generate-runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    arguments = parser.parse_args()
    medians = helps(arguments.runs)
    for side, median in medians.items():
        print(f"{side:24} {median:6.3f} s")
    stages, first_bytes = generating(arguments.generate_runs, arguments.tokens)
    print_stages(stages, first_bytes, arguments.tokens)
    pass_bytes = drafter_cost(member("independent"), member("target")).target_pass_bytes
    floors = {}
    for way in WAYS:
        of = "the target's file, and its weights for the prompt and the first round"
        line, floors[way] = floor_line(f"first token, {way}", 3 * pass_bytes, stages[way]["to first token"], of)
        print(line)
    result = {
        "bench": "start",
        "median_seconds": medians,
        "runs": arguments.runs,
        "generate": stages,
        "command_to_first_byte": first_bytes,
        "generate_runs": arguments.generate_runs,
        "tokens": arguments.tokens,
        "floors": floors,
    }
    print(json.dumps(result | certificate(0, ("typer", "torch", "transformers"))))


def helps(runs: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(runs):
        for side, arguments in SIDES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            seconds[side].append(time.perf_counter() - start)
    return {side: statistics.median(times) for side, times in seconds.items()}


def generating(runs: int, tokens: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Median seconds of each stage, without a drafter and with EAGLE's; and until the command wrote its first byte."""
    stages: dict[str, list[dict[str, float]]] = {}
    first_bytes: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(runs):
        for drafter in ("", str(member("eagle"))):
            shutil.rmtree(CACHE, ignore_errors=True)  # the cold start fills it for the warm one behind it
            for way in WAYS:
                name = f"{way}, EAGLE drafter" if drafter else way
                stages.setdefault(name, []).append(staged(way, drafter, tokens))
        shutil.rmtree(CACHE, ignore_errors=True)
        for way in WAYS:
            first_bytes[way].append(until_first_byte(way, tokens))
    shutil.rmtree(CACHE, ignore_errors=True)
    medians = {
        name: {stage: statistics.median(run[stage] for run in told) for stage in told[0]}
        for name, told in stages.items()
    }
    return medians, {way: statistics.median(times) for way, times in first_bytes.items()}


def staged(way: str, drafter: str, tokens: int) -> dict[str, float]:
    plain = "plain" if way == "plain" else ""
    command = [sys.executable, "-c", _STAGES, str(time.perf_counter())]  # one clock for all processes
    command += [PROMPT, str(member("target")), drafter, str(tokens), plain]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment())
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    done_after = await_compiler(start)
    return told | ({"compiler done": done_after} if way == "cold" else {})


def until_first_byte(way: str, tokens: int) -> float:
    """The command itself, up to when the first of its text can be read from a pipe."""
    command = [sys.executable, *COMMAND, "generate", PROMPT, "--target", str(member("target")), "--ignore-eos"]
    command += ["--max-new-tokens", str(tokens), *(["--plain"] if way == "plain" else [])]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) as process:
        assert process.stdout is not None
        said = process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.stdout.read()
    await_compiler(start)
    if not said or process.returncode:
        raise SystemExit(f"vocabtrim generate wrote nothing, exit code {process.returncode}")
    return seconds


def await_compiler(start: float) -> float:
    """Seconds from `start` until no compiler is at work that was begun for this cache; it outlives who began it."""
    while any((CACHE / "kernels").glob("unfinished-*")) and time.perf_counter() - start < 120:
        time.sleep(0.02)
    return time.perf_counter() - start


def environment() -> dict[str, str]:
    return os.environ | {"VOCABTRIM_CACHE": str(CACHE)}


def print_stages(stages: dict[str, dict[str, Any]], first_bytes: dict[str, float], tokens: int) -> None:
    columns = (*STAGES, "to first token", "whole answer")
    print(f"\n{f'seconds, {tokens} tokens':24}" + "".join(f"{column:>16}" for column in columns))
    for name, told in stages.items():
        print(f"{name:24}" + "".join(f"{told[column]:16.3f}" for column in columns))
    print(f"cold: the compiler was done {stages['cold']['compiler done']:.1f} s after the start")
    for way, seconds in first_bytes.items():
        print(f"vocabtrim generate, {way}: first byte after {seconds:.2f} s")


if __name__ == "__main__":
    main()
