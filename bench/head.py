"""The head of a draft step alone, with the best of its rows, and a whole draft step with full and trimmed heads.

Physics: one row of hidden state meets every row of the head, two operations for each weight that is read, so the head
takes as long as its bytes take to come: kept x hidden x bytes of a number / bandwidth. The same ten times for ten rows
of a tree's level still read the weights once. What is looked for behind it, the best ids, reads logits, a number for
each hidden-wide row of weights. So a head that reaches the memory's bandwidth is done, and one cut to an eighth takes
an eighth of the time. To reach: 0.85 of the read bandwidth for one row.

A draft step reads one decoder layer and the head. If everything in it runs at the same bandwidth, a trimmed step over a
full one is the ratio of their bytes; what is slower than its bytes in one part shows there. To reach: within 10 %. The
steps are real ones, an EAGLE drafter's of that hidden size, by the decoding loop: of a chain of four, one row at a
time, and of the 60-node tree, ten rows at a time behind the first.

Heads that fit into the last-level cache may be read faster than memory gives; which side of it one is on stands beside
its share, and so does what a bare read of the very same weights (a sum) reached in the same turns. Sides: F.linear and
topk; a compiled multiply-and-sum and topk; oneDNN's linear with the weight laid out its own way and topk; and ours,
`Head.best`. Sides take turns; medians. On CUDA (--device cuda) without oneDNN; this has not been run on a GPU.

    python bench/head.py [--hidden 1024 3072 4096] [--kept 128256 32000 8000] [--dtypes bfloat16 float32] [--turns 5]
                         [--rounds 3] [--parts head step] [--device cpu]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import vocabtrim as vt
from machine import cache_bytes, certificate, duration, floor_line, read_bandwidth, take_turns
from vocabtrim.checkpoint.costs import drafter_cost
from vocabtrim.decoding.head import Head
from vocabtrim.decoding.lean.compiled import ready_kernels
from vocabtrim.decoding.lean.library import Kernels
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import LLAMA_3_1_8B, LLAMA_3_2_3B, ModelShape
from vocabtrim.vocabulary.kept import KeptVocabulary

OUT = Path(__file__).resolve().parent / "out" / "head"
VOCAB, WIDTH, ROWS = 128_256, 10, (1, 10)
# One layer is enough: a draft step reads none of the target's.
SHAPES: dict[int, ModelShape] = {
    1024: replace(LLAMA_3_1_8B, name="1k", hidden=1024, intermediate=4096, heads=16, kv_heads=4, head_dim=64),
    3072: LLAMA_3_2_3B,
    4096: LLAMA_3_1_8B,
}
PLAIN, COMPILED, LAID_OUT, OURS, BARE = "F.linear", "compiled", "oneDNN laid out", "ours", "bare read"
TO_REACH, WITHIN = 0.85, 0.10
PLANS: dict[str, Any] = {"chain of 4": vt.Chain(4), "60-node tree": vt.DynamicTree()}
STEPS = {"chain of 4": 4, "60-node tree": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--kept", type=int, nargs="+", default=[VOCAB, 32_000, 8_000])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["head", "step"], choices=["head", "step"])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(
        f"read bandwidth {read_bandwidth(arguments.device) / 1e9:.1f} GB/s, "
        f"last-level cache {cache_bytes() / 1e6:.0f} MB"
    )
    heads = (
        [one for hidden in arguments.hidden for one in heads_of(hidden, arguments)] if "head" in arguments.parts else []
    )
    steps = (
        [one for hidden in arguments.hidden for one in steps_of(hidden, arguments)] if "step" in arguments.parts else []
    )
    verdict = judged(heads, steps)
    result = {
        "bench": "head",
        "where": arguments.device,
        "kernels": compiled_kernels() is not None,
        "threads": torch.get_num_threads(),
        "read_bandwidth": read_bandwidth(arguments.device),
        "cache_bytes": cache_bytes(),
        "heads": heads,
        "steps": steps,
    }
    print(json.dumps(result | verdict | certificate(0, ("torch", "transformers"))))


def heads_of(hidden: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every size and dtype of one width. The largest weight is made once and the others are its first rows."""
    found = []
    for dtype in arguments.dtypes:
        weight = random_weight(max(arguments.kept), hidden, getattr(torch, dtype), arguments.device)
        for rows in ROWS:
            torch.compiler.reset()  # one compilation for each width, dtype and number of rows
            multiply_and_sum = torch.compile(_multiply_and_sum)
            for kept in arguments.kept:
                found.append(measured_head(weight[:kept], rows, multiply_and_sum, arguments))
                print_head(found[-1])
        del weight
    return found


def random_weight(rows: int, hidden: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Rows that all differ, drawn in a second: one row more than a power of two of numbers, laid end to end."""
    block = (torch.randn(2**22 + 1) / hidden**0.5).to(dtype)
    return block.repeat(-(-rows * hidden // block.numel()))[: rows * hidden].view(rows, hidden).to(device)


def measured_head(
    weight: torch.Tensor, rows: int, multiply_and_sum: Callable[..., torch.Tensor], arguments: argparse.Namespace
) -> dict[str, Any]:
    kept, hidden = weight.shape
    inputs = torch.randn(rows, hidden, generator=torch.Generator().manual_seed(rows)).to(weight)
    runs = sides(weight, inputs, multiply_and_sum)
    with torch.inference_mode():
        agreed = agreement(runs)
        words = weight.view(torch.int64)
        seconds = take_turns(runs | {BARE: words.sum}, arguments.turns, arguments.device)
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    _, floor = floor_line("", weight.nbytes, medians[OURS], f"{kept:,} rows", arguments.device)
    return {
        "kept": kept,
        "hidden": hidden,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "rows": rows,
        "fits_cache": weight.nbytes <= cache_bytes(),
        "seconds": medians,
        "share_of_bandwidth": {side: floor["floor_seconds"] / time for side, time in medians.items()},
        "share_of_bare_read": {side: medians[BARE] / time for side, time in medians.items()},
        "first_id_as_plain": agreed,
        "floor": floor,
    }


def sides(
    weight: torch.Tensor, inputs: torch.Tensor, multiply_and_sum: Callable[..., torch.Tensor]
) -> dict[str, Callable[[], torch.Tensor]]:
    """side -> what returns the best columns, (row, WIDTH). Whatever is prepared once for a weight is prepared here."""
    torch._dynamo.maybe_mark_dynamic(weight, 0)
    head = Head(weight)
    if weight.device.type == "cpu":
        head.kernels = compiled_kernels()
    found = {
        PLAIN: lambda: torch.nn.functional.linear(inputs, weight).topk(WIDTH).indices,
        COMPILED: lambda: multiply_and_sum(inputs, weight),
        OURS: lambda: head.best(head(inputs), WIDTH).ids,
    }
    if weight.device.type == "cpu":
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, inputs.shape[0])
        linear = torch.ops.mkldnn._linear_pointwise
        found[LAID_OUT] = lambda: linear(inputs, laid_out, None, "none", [], "").topk(WIDTH).indices
    return found


def compiled_kernels() -> Kernels | None:
    """Those that decoding has, waited for; None where they cannot be had, and ours is then the plain way."""
    return ready_kernels(1e13)  # so many bytes that any wait pays


def _multiply_and_sum(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """In float32, of bfloat16 weights too: the compiled loop widens what it has read."""
    return (inputs[:, None].float() * weight.float()).sum(-1).topk(WIDTH).indices


def agreement(runs: dict[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
    """Of each side the share of rows whose best id is the plain one; in bfloat16 near ties may change places."""
    best = {side: run()[:, 0] for side, run in runs.items()}
    return {side: float((ids == best[PLAIN]).float().mean()) for side, ids in best.items()}


def print_head(told: dict[str, Any]) -> None:
    floor = told["floor"]
    where = "within the cache" if told["fits_cache"] else "beyond the cache"
    print(
        f"\n{told['kept']:,} x {told['hidden']:,} {told['dtype']}, {told['rows']} rows: {floor['bytes'] / 1e6:,.0f} MB "
        f"({where}), floor {duration(floor['floor_seconds'])}"
    )
    for side, seconds in told["seconds"].items():
        share, bare = told["share_of_bandwidth"][side], told["share_of_bare_read"][side]
        print(f"  {side:18}{duration(seconds):>12}{share:8.2f} of bandwidth{bare:8.2f} of a bare read", flush=True)


def steps_of(hidden: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Draft steps of an EAGLE drafter of one width, its head full and cut, by the decoding loop."""
    folders = write_models(hidden, arguments.kept)
    found = []
    for dtype in arguments.dtypes:
        target = vt.load_target(folders["target"], dtype=dtype, device=arguments.device)
        for plan in PLANS:
            found.append(measured_steps(target, folders, plan, dtype, arguments))
            print_steps(found[-1])
        del target
    shutil.rmtree(OUT)
    return found


def write_models(hidden: int, kept_sizes: list[int]) -> dict[str, Path]:
    """A target of one layer, its EAGLE drafter, and that cut to each size; folders by name, drafters by kept size."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    shape = replace(SHAPES[hidden], layers=1, tie=True, rope_scaling=None, max_positions=2048)
    folders = {"target": shapes.write_target(OUT / "target", shape, seed=0)}
    folders[str(VOCAB)] = shapes.write_eagle(OUT / "eagle", shape, seed=1, embed=False)
    for size in kept_sizes:
        if size < VOCAB:
            kept = KeptVocabulary(shapes.draw_ids(shape, size, seed=2), VOCAB)
            cut = vt.trim(folders[str(VOCAB)], kept, target=folders["target"], out=OUT / f"cut-{size}")
            folders[str(size)] = cut.out
    return folders


def measured_steps(
    target: vt.Target, folders: dict[str, Path], plan: str, dtype: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of a draft step by kept size: what a round spends drafting over the steps of its plan. Random drafts
    are hardly ever accepted, so a round's first step reads one token, as the chain's others do."""
    sizes = [size for size in folders if size != "target"]
    drafters = {size: vt.load_drafter(folders[size], target, plan=PLANS[plan]) for size in sizes}
    spent: dict[str, list[float]] = {size: [] for size in sizes}
    for turn in range(-1, 2):  # the first turn warms up and does not count
        for size, drafter in drafters.items():
            # A token for each round, one for the round behind the prompt, and what lets the last draft as deep.
            wanted = 1 + (arguments.rounds if turn >= 0 else 1)
            rounds = vt.decode(target, drafter, list(range(10, 42)), max_new_tokens=16 * wanted, stop_ids=())
            for number, done in zip(range(wanted), rounds, strict=False):
                if turn >= 0 and number > 0:
                    spent[size].append(done.draft_seconds / STEPS[plan])
    costs = {size: drafter_cost(folders[size], folders["target"]) for size in sizes}
    width = getattr(torch, dtype).itemsize / 2  # the files hold bfloat16
    steps = {size: width * cost.draft_step_bytes(cost.full_head_rows) for size, cost in costs.items()}
    medians = {size: statistics.median(times) for size, times in spent.items()}
    full = str(VOCAB)
    told = {}
    for size in sizes:
        _, floor = floor_line(f"step with {size} rows", steps[size], medians[size], "body, head", arguments.device)
        by_time, by_bytes = medians[size] / medians[full], steps[size] / steps[full]
        told[size] = {"time_over_full": by_time, "bytes_over_full": by_bytes, "apart": by_time / by_bytes - 1} | floor
    return {
        "hidden": target.lm.hidden_size,
        "lean": target.lm.lean is not None,
        "dtype": dtype,
        "plan": plan,
        "kept": told,
    }


def print_steps(told: dict[str, Any]) -> None:
    print(f"\ndraft step, hidden {told['hidden']:,}, {told['dtype']}, {told['plan']}")
    for size, one in told["kept"].items():
        print(
            f"  {int(size):>8,} rows {one['bytes'] / 1e6:8,.0f} MB  floor {duration(one['floor_seconds']):>10}  "
            f"measured {duration(one['measured_seconds']):>10}  over the full one's: time {one['time_over_full']:.3f}, "
            f"bytes {one['bytes_over_full']:.3f} ({one['apart']:+.0%})",
            flush=True,
        )


def judged(heads: list[dict[str, Any]], steps: list[dict[str, Any]]) -> dict[str, Any]:
    """What was to be reached, and whether it was: the least share of one row, and the trimmed step farthest off."""
    single = [one["share_of_bandwidth"][OURS] for one in heads if one["rows"] == 1]
    apart = [cut["apart"] for one in steps if one["plan"] == "chain of 4" for cut in one["kept"].values()]
    told: dict[str, Any] = {"wanted": {"share_of_bandwidth": TO_REACH, "apart": WITHIN}}
    if single:
        told["least_share_of_one_row"] = min(single)
        print(f"\none row, ours: {min(single):.2f} of the read bandwidth at least (to reach {TO_REACH})")
    if apart:
        told["farthest_apart"] = max(apart, key=abs)
        print(f"draft step by time over by bytes: {told['farthest_apart']:+.0%} at most (within {WITHIN:.0%})")
    return told


if __name__ == "__main__":
    main()
