"""Counting on Ray Data against the local engine, on the same cores; and memory while it counts.

Physics: both engines run the same code on the same bytes, so per core the same tokens per second are there to be had.
The local engine reads in one thread and tokenises in others, within one process; on Ray each task does both by itself,
on one core. Ray pays for starting (some seconds, whatever the corpus), for a task per 32 MB, for checking the encoder
on the beginning of each piece, and for one pass over large files beforehand; it saves Python's lock. Memory should
not know how long the corpus is: a worker holds an encoder and two vectors per piece, the driver two per source.

Engines take turns (A B A B), bound to as many cores as there are workers, Ray's own processes included, each run in a
process of its own. A run's time is all of `count()`, from starting Ray to stopping it; beside it stands the processor
time of all its processes, which other work on the machine changes less. The corpus is real text repeated in shuffled
order, in JSON lines, Parquet, compressed JSON lines and plain text.

    python bench/ray_count.py [--megabytes 1000] [--runs 1] [--workers 1 2]

Needs `pip install 'vocabtrim[ray]'`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as arrow
from pyarrow import parquet

from machine import certificate, floor_line

DATA = Path(os.environ.get("VOCABTRIM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
WANTED = 0.7  # of the local engine's throughput

_COUNT = """
import json, os, sys, time
engine, workers, tokenizer, corpus = sys.argv[1:]
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(workers)])
from vocabtrim import count
start = time.perf_counter()
counts = count([corpus], tokenizer=tokenizer, engine=engine, workers=int(workers))
print(json.dumps({"seconds": time.perf_counter() - start, "tokens": counts.tokens, "hash": counts.hash}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokenizer", default="llama3_2")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="ray-count-"))
    try:
        corpus = make_corpus(place / "corpus", arguments.megabytes, arguments.seed)
        stored = sum(file.stat().st_size for file in corpus.iterdir())
        print(
            f"{arguments.megabytes:,} MB of text in {len(list(corpus.iterdir()))} files, {stored / 1e6:,.0f} MB stored"
        )
        results = {n: compare(corpus, n, arguments.runs, arguments.tokenizer) for n in arguments.workers}
    finally:
        shutil.rmtree(place)
    floors = {}
    for number, told in results.items():
        seconds = statistics.median(run["seconds"] for run in told["ray"])
        line, floors[number] = floor_line(f"count, {number} workers", stored, seconds, "the files as stored, read once")
        print(line)
    about = {"megabytes": arguments.megabytes, "stored_bytes": stored, "wanted": WANTED, "floors": floors}
    versions = ("ray", "numpy", "tokenizers", "tiktoken", "pyarrow")
    print(json.dumps({"bench": "ray_count", **about, "workers": results, **certificate(arguments.seed, versions)}))


def make_corpus(folder: Path, megabytes: int, seed: int) -> Path:
    """About so many MB of text: half of it in JSON lines, the rest Parquet, gzip and one plain file."""
    folder.mkdir()
    texts = real_texts()
    draw = random.Random(seed)
    share = megabytes * 1_000_000 // 8
    for number in range(4):
        with (folder / f"lines-{number}.jsonl").open("w", encoding="utf-8") as out:
            out.writelines(json.dumps({"text": text}) + "\n" for text in drawn(texts, share, draw))
    for number in range(2):
        table = arrow.table({"text": list(drawn(texts, share, draw))})
        parquet.write_table(table, folder / f"rows-{number}.parquet", row_group_size=10_000, compression="zstd")
    with gzip.open(folder / "packed.jsonl.gz", "wt", encoding="utf-8", compresslevel=1) as packed:
        packed.writelines(json.dumps({"text": text}) + "\n" for text in drawn(texts, share, draw))
    with (folder / "plain.txt").open("w", encoding="utf-8") as out:
        out.writelines(text + "\n\n" for text in drawn(texts, share, draw))
    return folder


def real_texts() -> list[str]:
    """Paragraphs of prose, plays, web pages, mathematics and code."""
    texts = [
        paragraph
        for name in ("wikitext2_valid.txt", "wikitext2_test.txt", "tinyshakespeare.txt")
        for paragraph in (DATA / "text" / name).read_text(encoding="utf-8").split("\n\n")
    ]
    for name, field in (("text/c4_demo", "text"), ("text/gsm8k_train", "answer"), ("code/mbpp", "code")):
        lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        texts += [json.loads(line)[field] for line in lines]
    return [text for text in texts if text.strip()]


def drawn(texts: list[str], size: int, draw: random.Random) -> Iterator[str]:
    """All texts in shuffled order, again and again, until so many characters are reached."""
    reached = 0
    while True:
        for text in draw.sample(texts, len(texts)):
            if reached >= size:
                return
            reached += len(text)
            yield text


def compare(corpus: Path, workers: int, runs: int, tokenizer: str) -> dict[str, Any]:
    """Both engines in turn; the medians of the pairs' ratios, and the memory of the runs on Ray."""
    sides: dict[str, list[dict[str, Any]]] = {"local": [], "ray": []}
    for _ in range(runs):
        for engine, done in sides.items():
            done.append(measured(engine, workers, tokenizer, corpus))
    assert len({run["hash"] for done in sides.values() for run in done}) == 1, sides
    pairs = list(zip(sides["ray"], sides["local"], strict=True))
    result = {
        "throughput_ratio": statistics.median(local["seconds"] / ray["seconds"] for ray, local in pairs),
        "processor_ratio": statistics.median(local["processor"] / ray["processor"] for ray, local in pairs),
    }
    print(f"{workers} at once: throughput on Ray {result['throughput_ratio']:.2f} of the local one ({WANTED} wanted)")
    for engine, done in sides.items():
        for run in done:
            rate, per_core = run["tokens"] / run["seconds"], run["tokens"] / run["processor"]
            print(
                f"  {engine:5} {run['seconds']:6.1f} s  {rate / 1e6:5.2f}M tokens/s  "
                f"{per_core / 1e6:5.2f}M per second of a core  MB at the thirds of the run: {shown(run['memory'])}",
                flush=True,
            )
    return result | sides


def shown(memory: dict[str, list[float]]) -> str:
    return ", ".join(
        f"{kind} {'/'.join(f'{megabytes:.0f}' for megabytes in thirds)}" for kind, thirds in memory.items()
    )


def measured(engine: str, workers: int, tokenizer: str, corpus: Path) -> dict[str, Any]:
    """One count in a process of its own: seconds, tokens, processor time of all its processes, and memory."""
    command = [sys.executable, "-c", _COUNT, engine, str(workers), str(DATA / "tokenizers" / tokenizer), str(corpus)]
    before = os.times()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watch = Watch(process.pid)
    out, _ = process.communicate()
    watch.stop()
    assert process.returncode == 0, command
    after = os.times()
    ours = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(out) | {"processor": max(ours, watch.processor), "memory": watch.thirds()}


class Watch(threading.Thread):
    """Samples, each second, the resident memory and processor time of a process, the driver, and of those below it."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._ended = threading.Event()
        self._seconds: dict[int, float] = {}
        self._samples: list[dict[str, float]] = []
        self.start()

    def run(self) -> None:
        while not self._ended.wait(1):
            sample = {"driver": 0.0, "largest worker": 0.0}
            try:
                everyone = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in everyone:
                self._look(process, sample)
            self._samples.append(sample)

    def _look(self, process: psutil.Process, sample: dict[str, float]) -> None:
        try:
            used = process.cpu_times()
            self._seconds[process.pid] = used.user + used.system
            memory = process.memory_info()
            megabytes = (memory.rss - memory.shared) / 1e6  # Ray's shared object store is counted nowhere
            if process.pid == self._root.pid:
                sample["driver"] = megabytes
            elif "ray::" in " ".join(process.cmdline()):
                sample["largest worker"] = max(sample["largest worker"], megabytes)
        except psutil.Error:
            return

    def stop(self) -> None:
        self._ended.set()
        self.join()

    @property
    def processor(self) -> float:
        """Seconds of processor time of all processes that were seen, up to when each was last seen."""
        return sum(self._seconds.values())

    def thirds(self) -> dict[str, list[float]]:
        """The largest sample of each third of the run, in MB; workers only where there were any."""
        third = -(-len(self._samples) // 3) or 1
        parts = [self._samples[start : start + third] for start in range(0, len(self._samples), third)]
        kinds = {
            kind: [max(sample[kind] for sample in part) for part in parts] for kind in ("driver", "largest worker")
        }
        return {kind: peaks for kind, peaks in kinds.items() if any(peaks)}


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s in all", file=sys.stderr)
