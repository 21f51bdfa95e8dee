"""Counting: a whole `count` from file to counts against the bare tokenisation of `tokenizers`; and memory.

Physics: nearly all the time goes into tokenising. `tokenizers` keeps offsets and builds a Python object per text;
tiktoken returns bare ids, so about four times the tokens per second are there to be had on the same cores, of which
reading, splitting off the held-out part, hashing and adding up may take a quarter. Where a tokenizer cannot go through
tiktoken nothing is to be had, and the same overheads may take a tenth. Memory should not know how long the text is.

Sides take turns (A B A B), each in a process of its own, on one file of shuffled paragraphs of the real corpora.
Against us: the count's time is all of `count()`, loading the tokenizer and comparing both ways included; the other
side's is `encode_batch` alone, on documents that were read before.

    python bench/count.py [--runs 3] [--megabytes 100] [--memory-megabytes 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import certificate, floor_line

OUT = Path(__file__).resolve().parent / "out" / "count"
DATA = Path(os.environ.get("VOCABTRIM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

# Tokenizer -> how many times the bare throughput is asked of it.
WANTED = {"llama3_2": 3.0, "qwen2_5": 3.0, "mistral-v0.1": 0.9}

_COUNT = """
import json, sys, time
from machine import peak_bytes
from vocabtrim import count
start = time.perf_counter()
counts = count([sys.argv[2]], tokenizer=sys.argv[1])
print(json.dumps({"seconds": time.perf_counter() - start, "tokens": counts.tokens, "peak": peak_bytes(),
    "encoder": counts.sources[0].details["encoder"]}))
"""

_BARE = """
import json, sys, time
from vocabtrim.calibrate.text import text_documents
from vocabtrim.calibrate.tokenizer import load_tokenizer
tokenizer = load_tokenizer(sys.argv[1])
with open(sys.argv[2], "rb") as file:
    texts = list(text_documents(file, print))
seconds = tokens = 0
for start in range(0, len(texts), 1000):
    began = time.perf_counter()
    encodings = tokenizer.encode_batch(texts[start : start + 1000], add_special_tokens=False)
    seconds += time.perf_counter() - began
    tokens += sum(len(encoding) for encoding in encodings)
print(json.dumps({"seconds": seconds, "tokens": tokens}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--memory-megabytes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    try:
        corpus = make_text(OUT / "corpus.txt", arguments.megabytes, arguments.seed)
        speeds = {name: compare(name, corpus, arguments.runs) for name in WANTED}
        memory = measure_memory(arguments.memory_megabytes, arguments.seed)
    finally:
        shutil.rmtree(OUT)
    versions = ("numpy", "tokenizers", "tiktoken")
    print(json.dumps({"bench": "count", "speed": speeds, "memory": memory, **certificate(arguments.seed, versions)}))


def make_text(file: Path, megabytes: int, seed: int) -> Path:
    """Paragraphs of prose, plays, web pages, mathematics and code, shuffled anew until the size is reached."""
    paragraphs = [
        paragraph
        for name in ("wikitext2_valid.txt", "wikitext2_test.txt", "tinyshakespeare.txt")
        for paragraph in (DATA / "text" / name).read_text(encoding="utf-8").split("\n\n")
    ]
    for name, field in (("text/c4_demo", "text"), ("text/gsm8k_train", "answer"), ("code/mbpp", "code")):
        lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        paragraphs += [json.loads(line)[field] for line in lines]
    generator = random.Random(seed)
    with file.open("w", encoding="utf-8", newline="") as out:
        while out.tell() < megabytes * 1_000_000:
            generator.shuffle(paragraphs)
            out.write("\n\n".join(paragraphs) + "\n\n")
    with file.open("r+b") as out:
        out.truncate(out.seek(0) + megabytes * 1_000_000)
    return file


def compare(name: str, corpus: Path, runs: int) -> dict[str, Any]:
    """Throughputs of both sides in tokens per second, and the median of the pairs' ratios."""
    ours, bare = [], []
    for _ in range(runs):
        ours.append(in_process(_COUNT, name, corpus))
        bare.append(in_process(_BARE, name, corpus))
    assert ours[0]["tokens"] == bare[0]["tokens"], (ours[0], bare[0])
    rates = [[run["tokens"] / run["seconds"] for run in side] for side in (ours, bare)]
    ratio = statistics.median(one / other for one, other in zip(*rates, strict=True))
    print(
        f"{name:14} count {statistics.median(rates[0]) / 1e6:5.2f}M tokens/s through {ours[0]['encoder']:10}  "
        f"bare tokenizers {statistics.median(rates[1]) / 1e6:5.2f}M   ratio {ratio:.2f} (to reach {WANTED[name]})",
        flush=True,
    )
    seconds = statistics.median(run["seconds"] for run in ours)
    line, floor = floor_line(f"count, {name}", corpus.stat().st_size, seconds, "the text, read once")
    print(line, flush=True)
    return {
        "tokens": ours[0]["tokens"],
        "encoder": ours[0]["encoder"],
        "count_tokens_per_second": rates[0],
        "bare_tokens_per_second": rates[1],
        "ratio_median": ratio,
        "wanted": WANTED[name],
        "floor": floor,
    }


def measure_memory(megabytes: int, seed: int) -> dict[str, int]:
    """Peak resident bytes of a count of 10 MB and of `megabytes`, and the growth between them."""
    peaks = {}
    for label, size in (("short", 10), ("long", megabytes)):
        file = make_text(OUT / f"{label}.txt", size, seed)
        peaks[label] = in_process(_COUNT, "llama3_2", file)["peak"]
        print(f"peak memory over {size:,} MB of text: {peaks[label] / 1e6:.0f} MB", flush=True)
    return {f"peak_bytes_{label}": peak for label, peak in peaks.items()} | {
        "growth_bytes": peaks["long"] - peaks["short"],
        "long_megabytes": megabytes,
    }


def in_process(code: str, name: str, corpus: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", code, str(DATA / "tokenizers" / name), str(corpus)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()
