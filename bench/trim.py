"""Trimming an EAGLE drafter of Llama-3.1-8B's shape: time against `cp` of the output, and peak memory.

Physics: a trim must read and write every byte of its output once, which is what `cp` does; the proof afterwards reads
source and output once more and hashes them. Both sides run on files that are in the page cache, on the same disk, in
turn (A B A B), each into a fresh place. The trim's time is that of the call in a process of its own, beyond starting
Python; its memory is that process's peak beyond what it had when everything was imported.

    python bench/trim.py [--runs 5] [--keep 32768] [--tokenizer FOLDER]

--tokenizer: Llama 3's, put beside the target, so that comparing it with the kept vocabulary's is part of the trim.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import certificate, floor_line

OUT = Path(__file__).resolve().parent / "out" / "trim"

_CHILD = """
import json, sys, time
import vocabtrim.checkpoint.trim as module
from machine import peak_bytes as peak
from vocabtrim.vocabulary.kept import KeptVocabulary
kept = KeptVocabulary.load(module.Path(sys.argv[2]))
imported = peak()
start = time.perf_counter()
module.trim(sys.argv[1], kept, target=sys.argv[3], out=sys.argv[4])
print(json.dumps({"seconds": time.perf_counter() - start, "bytes": peak() - imported}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--keep", type=int, default=32_768)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path)
    arguments = parser.parse_args()
    drafter, target, kept = make_inputs(arguments.keep, arguments.seed, arguments.tokenizer)
    trims, copies, peaks = [], [], []
    trimmed, copy = OUT / "trimmed", OUT / "copy"
    out_bytes = 0
    for run in range(-1, arguments.runs):  # the first pair warms the page cache and does not count
        for place in (trimmed, copy):
            shutil.rmtree(place, ignore_errors=True)
        seconds, peak = run_trim(drafter, kept, target, trimmed)
        copy_seconds = run_cp(trimmed, copy)
        out_bytes = sum(path.stat().st_size for path in trimmed.iterdir())
        if run >= 0:
            trims.append(seconds)
            copies.append(copy_seconds)
            peaks.append(peak)
    ratio = statistics.median(one / other for one, other in zip(trims, copies, strict=True))
    print(f"output {out_bytes / 1e9:.2f} GB, {arguments.runs} pairs, medians")
    print(f"  trim  {statistics.median(trims):6.2f} s   (copy, cut, open again, compare, hash)")
    print(f"  cp    {statistics.median(copies):6.2f} s")
    print(f"  ratio {ratio:6.2f}     (to stay under 1.5)")
    print(f"  peak  {max(peaks) / 1e6:6.0f} MB beyond imports (to stay under 400)")
    what = "of the output: read, written, and source and output read again by the proof"
    line, floor = floor_line("trim", 4 * out_bytes, statistics.median(trims), what)
    print(line)
    result = {
        "bench": "trim",
        "out_bytes": out_bytes,
        "with_tokenizer": arguments.tokenizer is not None,
        "trim_seconds": trims,
        "cp_seconds": copies,
        "ratio_median": ratio,
        "peak_bytes_beyond_imports": max(peaks),
        "floor": floor,
        **certificate(arguments.seed),
    }
    shutil.rmtree(OUT)
    print(json.dumps(result))


def make_inputs(keep: int, seed: int, tokenizer: Path | None) -> tuple[Path, Path, Path]:
    """The drafter, its target (the head is real, the rest holes) and a kept vocabulary spread like a real one."""
    import numpy as np

    from vocabtrim.testbed.shapes import LLAMA_3_1_8B, write_eagle, write_target
    from vocabtrim.vocabulary.kept import KeptVocabulary

    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    write_eagle(OUT / "eagle", LLAMA_3_1_8B, seed=seed)
    write_target(OUT / "target", LLAMA_3_1_8B, seed=seed, sparse=True, tokenizer=tokenizer)
    # Frequent ids are mostly low ones: draw with a density that falls off along the merge order.
    generator = np.random.default_rng(seed)
    weights = 1 / (np.arange(LLAMA_3_1_8B.vocab) + 2_000)
    ids = np.sort(generator.choice(LLAMA_3_1_8B.vocab, keep, replace=False, p=weights / weights.sum()))
    KeptVocabulary(ids.astype(np.int64), LLAMA_3_1_8B.vocab).save(OUT / "kept.safetensors")
    return OUT / "eagle", OUT / "target", OUT / "kept.safetensors"


def run_trim(drafter: Path, kept: Path, target: Path, out: Path) -> tuple[float, int]:
    command = [sys.executable, "-c", _CHILD, str(drafter), str(kept), str(target), str(out)]
    here = Path(__file__).parent
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=here).stdout)
    return done["seconds"], done["bytes"]


def run_cp(source: Path, out: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(out)], check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
