"""What this machine can do, before anything is asked of it: read bandwidth, copy bandwidth, matrix throughput.

Physics: a pass over one sequence reads every weight once and multiplies it with as many rows as the pass has. Reading
takes bytes / bandwidth however many rows there are; multiplying takes 2 x rows x weights / throughput. Few rows wait
for memory, many for arithmetic, and where both take as long lies the number of rows that a pass gets for nearly
nothing: throughput / bandwidth x bytes of a weight / 2. A tree of more nodes costs more than a single row does. What
of that `F.linear` reaches is measured row by row: its time over that of the floor, and over that of its own single
row, which also shows where a library's single row is far from the memory's bandwidth.

Arrays lie well beyond the last-level cache. Reads and copies: the best of several ways and thread counts, each the
median of seven. Linears: medians, row counts in turn. On CUDA (--device cuda) the same by torch.cuda; this has not
been run on a GPU.

    python bench/limits.py [--device cpu] [--turns 5] [--dtypes float32 bfloat16] [--megabytes 256]
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch
from torch.nn.functional import linear

from machine import (
    cache_bytes,
    certificate,
    copy_bandwidth,
    copy_bandwidths,
    duration,
    read_bandwidth,
    read_bandwidths,
    take_turns,
)

ROWS = (1, 2, 4, 8, 16, 32, 64)
MANY = 512  # rows at which arithmetic is all that counts
HIDDEN = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--megabytes", type=int, default=256, help="of the weight that rows are multiplied with")
    arguments = parser.parse_args()
    device = arguments.device
    print_bandwidths(device)
    linears = {name: rows_of(name, arguments.megabytes << 20, arguments.turns, device) for name in arguments.dtypes}
    for name, told in linears.items():
        print_rows(name, told)
    result = {
        "bench": "limits",
        "where": device,
        "threads": torch.get_num_threads(),
        "cache_bytes": cache_bytes(),
        "read_bandwidth": read_bandwidth(device),
        "copy_bandwidth": copy_bandwidth(device),
        "read_bandwidths": read_bandwidths(device),
        "copy_bandwidths": copy_bandwidths(device),
        "linear": linears,
    }
    print(json.dumps(result | certificate(0, ("torch",))))


def rows_of(dtype_name: str, weight_bytes: int, turns: int, device: str) -> dict[str, Any]:
    """One weight times 1 to 64 rows, and times many."""
    dtype = getattr(torch, dtype_name)
    outputs = weight_bytes // (HIDDEN * dtype.itemsize)
    weight = torch.randn(outputs, HIDDEN, device=device).to(dtype)
    inputs = {rows: torch.randn(rows, HIDDEN, device=device).to(dtype) for rows in (*ROWS, MANY)}
    with torch.inference_mode():
        few = take_turns({str(rows): lambda rows=rows: linear(inputs[rows], weight) for rows in ROWS}, turns, device)
        many = take_turns({str(MANY): lambda: linear(inputs[MANY], weight)}, min(turns, 3), device)
    floor = weight.nbytes / read_bandwidth(device)
    medians = {int(rows): statistics.median(times) for rows, times in (few | many).items()}
    throughput = max(operations(rows, weight.numel()) / seconds for rows, seconds in medians.items())
    return {
        "weight": list(weight.shape),
        "bytes": weight.nbytes,
        "floor_seconds": floor,
        "operations_per_second": throughput,
        "free_rows": free_rows(throughput, read_bandwidth(device), dtype.itemsize),
        "flat_until": flat_until(medians),
        "rows": {
            rows: {
                "seconds": seconds,
                "bytes_per_second": weight.nbytes / seconds,
                "operations_per_second": operations(rows, weight.numel()) / seconds,
                "over_floor": seconds / floor,
                "over_one_row": seconds / medians[1],
            }
            for rows, seconds in medians.items()
        },
    }


def operations(rows: int, weights: int) -> int:
    """Of a product: one multiplication and one addition for each weight and row."""
    return 2 * rows * weights


def free_rows(throughput: float, bandwidth: float, itemsize: int) -> float:
    """How many rows take as long to multiply as the weights take to be read."""
    return throughput / bandwidth * itemsize / 2


def flat_until(seconds: dict[int, float], slack: float = 1.25) -> int:
    """The most rows that, as all fewer ones, take no longer than a single row and a quarter of it."""
    flat = 1
    for rows in sorted(seconds):
        if seconds[rows] > slack * seconds[1]:
            break
        flat = rows
    return flat


def print_bandwidths(device: str) -> None:
    print(f"{'GB/s, medians':32}(last-level cache: {cache_bytes() / 2**20:.0f} MiB)")
    for name, bandwidth in read_bandwidths(device).items():
        print(f"  read, {name:24} {bandwidth / 1e9:7.2f}")
    for name, bandwidth in copy_bandwidths(device).items():
        print(f"  {name:30} {bandwidth / 1e9:7.2f}   read and written")


def print_rows(dtype: str, told: dict[str, Any]) -> None:
    outputs, hidden = told["weight"]
    print(
        f"\nF.linear, {dtype}, {outputs:,} x {hidden:,}: {told['bytes'] / 1e6:.0f} MB, "
        f"floor {duration(told['floor_seconds'])}"
    )
    print(f"{'rows':>6}{'time':>12}{'GB/s':>8}{'GFLOP/s':>10}{'over floor':>12}{'over one row':>14}")
    for rows, one in told["rows"].items():
        print(
            f"{rows:6}{duration(one['seconds']):>12}{one['bytes_per_second'] / 1e9:8.2f}"
            f"{one['operations_per_second'] / 1e9:10.1f}{one['over_floor']:12.2f}{one['over_one_row']:14.2f}"
        )
    print(
        f"at {told['operations_per_second'] / 1e9:.0f} GFLOP/s multiplying {told['free_rows']:.1f} rows takes as long "
        "as reading the weights: from there on a pass is bound by arithmetic\n"
        f"F.linear's own time stays within 1.25 of its single row's up to {told['flat_until']} rows"
    )


if __name__ == "__main__":
    main()
