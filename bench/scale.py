"""How a round's time and memory grow with context length, tree size and kept size, beside the least they could be.

Physics: a target pass reads its weights and the keys and values of every token so far; each draft step reads the
drafter's layer, its head's kept rows and its own keys and values. So a round's floor is a line over context length,
with one slope for the target's layers and one for each draft step, and a line over kept size. Over tree size it is
flat but for draft steps: nodes share one reading of weights and cache. What rises there is arithmetic (bench/limits.py
says from how many rows on) and our own work. Memory is the weights and, for each token, the keys and values of every
layer; more than that at the peak is what reading the prompt needs for a while.

A random target of 48 million parameters and its EAGLE drafter (--model 443M for a larger one). Plans take turns round
by round behind one reading of the prompt, so that all see the same machine; random drafts are hardly ever accepted, so
a round reads one new token. Medians over rounds. On CUDA (--device cuda) peak memory is the host's; this has not been
run on a GPU.

    python bench/scale.py [--model 48M|443M] [--dtype bfloat16] [--device cpu] [--contexts 128 512 2048 8192]
                          [--nodes 1 2 4 8 16 32 64] [--kept 32000 16000 8000 4000 2000] [--rounds 7]
                          [--plain]

--plain: transformers' own modules instead of our kernels.

Draws bench/out/scale.svg and .png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vocabtrim as vt
from decode import TARGET
from machine import certificate, floor_line, forget_peak, peak_bytes, read_bandwidth
from vocabtrim.checkpoint.costs import drafter_cost
from vocabtrim.cost import Cost
from vocabtrim.decoding.chance import Chance
from vocabtrim.decoding.drafters.protocol import Draft
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import ModelShape
from vocabtrim.vocabulary.kept import KeptVocabulary

OUT = Path(__file__).resolve().parent / "out"
MODELS: dict[str, ModelShape] = {
    "48M": replace(TARGET, max_positions=32_768),
    "443M": ModelShape(
        "443M", 1024, 4096, 20, 16, 4, 128_256, 128_256, 1, (2,), tie=True, head_dim=64, max_positions=32_768
    ),
}
MIDDLE = 512  # the context at which tree and kept size vary
NO_DRAFT, CHAIN, TREE = "no draft", "chain of 4", "60-node tree"
Plans = dict[str, Any]  # name -> a plan, None for drafting nothing
PLANS: Plans = {NO_DRAFT: None, CHAIN: vt.Chain(4), TREE: vt.DynamicTree()}
Point = dict[str, Any]


class TakingTurns:
    """A drafter that drafts by one plan after the other, round by round; `by` says which plan the last round had.

    A round that drafts nothing leaves its token for the next to read: the round behind it is not any plan's.
    """

    def __init__(self, drafter: Any, plans: Plans) -> None:
        self._drafter, self._plans = drafter, plans
        self._turns = [(name, plan) for name, plan in plans.items() if plan is not None]
        if None in plans.values():
            idle = next(name for name, plan in plans.items() if plan is None)
            self._turns += [(idle, None), ("", self._turns[0][1] if self._turns else None)]
        self._turn, self.by = -1, ""
        self.states, self.context = drafter.states, drafter.context

    @property
    def turns(self) -> int:
        """Rounds until a plan has its turn again."""
        return len(self._turns)

    @property
    def nodes(self) -> int:
        return max(1 if plan is None else int(plan.nodes) for _, plan in self._turns)

    def begin(self, prompt: Sequence[int], length: int, hidden: torch.Tensor | None) -> None:
        self._drafter.plan = max((plan for _, plan in self._turns if plan is not None), key=lambda plan: plan.reads)
        self._drafter.begin(prompt, length, hidden)
        self._turn = -1

    def propose(self, depth: int, chance: Chance) -> Draft:
        self._turn = (self._turn + 1) % len(self._turns)
        self.by, plan = self._turns[self._turn]
        if plan is not None:
            self._drafter.plan = plan
        return self._drafter.propose(0 if plan is None else depth, chance)

    def commit(self, draft: Draft, path: Sequence[int], emitted: Sequence[int], hidden: torch.Tensor | None) -> None:
        self._drafter.commit(draft, path, emitted, hidden)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="48M")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 512, 2048, 8192])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--kept", type=int, nargs="+", help="default: all ids, a half, a quarter, ... a sixteenth")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    shape = MODELS[arguments.model]
    sizes = sorted(arguments.kept or [shape.vocab >> halvings for halvings in range(5)], reverse=True)
    folders = write_models(shape, sizes)
    target = vt.load_target(folders["target"], dtype=arguments.dtype, device=arguments.device, lean=not arguments.plain)
    scale = Scale(shape, target, folders, arguments)
    middle = sizes[len(sizes) // 2]
    contexts = sorted(arguments.contexts)  # caches and peaks only grow
    scale.measure(PLANS, contexts[0], middle)  # warms up
    by_context = [scale.measure(PLANS, context, middle) for context in contexts]
    by_nodes = scale.measure({str(nodes): tree_of(nodes) for nodes in arguments.nodes}, MIDDLE, middle)
    by_kept = {size: scale.measure({CHAIN: PLANS[CHAIN], TREE: PLANS[TREE]}, MIDDLE, size) for size in sizes}
    shutil.rmtree(OUT / "scale")
    result = {
        "bench": "scale",
        "model": arguments.model,
        "dtype": arguments.dtype,
        "where": arguments.device,
        "lean": target.lm.lean is not None,
        "threads": torch.get_num_threads(),
        "read_bandwidth": read_bandwidth(arguments.device),
        "bytes_per_token": scale.token_bytes,
        "by_context": by_context,
        "by_nodes": by_nodes,
        "by_kept": by_kept,
    }
    print_tables(result)
    draw(result, OUT / "scale")
    print(json.dumps(result | certificate(0, ("torch", "transformers"))))


class Scale:
    """One target, its drafters by kept size, and what was asked for."""

    def __init__(
        self, shape: ModelShape, target: vt.Target, folders: dict[str, Path], arguments: argparse.Namespace
    ) -> None:
        self._shape, self._target, self._folders, self._arguments = shape, target, folders, arguments
        item = target.lm.dtype.itemsize
        self._width = item / 2  # the files hold bfloat16
        layer = 2 * shape.key_value * item
        self.token_bytes = {"target": layer * shape.layers, "drafter": layer}  # keys and values

    def measure(self, plans: Plans, context: int, kept: int) -> Point:
        """Rounds behind a prompt of `context` tokens, plans in turn; what memory that took."""
        drafter = vt.load_drafter(self._folders[str(kept)], self._target)
        taking_turns = TakingTurns(drafter, plans)
        spent: dict[str, list[vt.Round]] = {name: [] for name in plans}
        wanted = taking_turns.turns * (self._arguments.rounds + 1)
        prompt = np.random.default_rng(0).integers(3, self._shape.vocab, context).tolist()
        forget_peak()
        rounds = vt.decode(self._target, taking_turns, prompt, max_new_tokens=4 * wanted + 16, stop_ids=())
        for number, done in zip(range(wanted), rounds, strict=False):
            if number >= taking_turns.turns and taking_turns.by:  # each plan's first round warms up
                spent[taking_turns.by].append(done)
        rounds.close()
        cost = drafter_cost(self._folders[str(kept)], self._folders["target"])
        told = {name: self._figures(done, cost, plans[name], context) for name, done in spent.items()}
        caches = {"target": self._target.lm.cache, "drafter": drafter.body.cache}
        memory = {name: allocated(cache) for name, cache in caches.items()}
        return {"context": context, "kept": kept, "plans": told, "cache_bytes": memory, "peak_bytes": peak_bytes()}

    def _figures(self, rounds: list[vt.Round], cost: Cost, plan: Any, context: int) -> Point:
        """Medians of a plan's rounds, in seconds, and the floor: weights and cache of one pass and of its steps."""
        seconds = statistics.median(done.seconds for done in rounds)
        steps = 0 if plan is None else plan.length if isinstance(plan, vt.Chain) else plan.depth
        pass_bytes = self._width * cost.target_pass_bytes + context * self.token_bytes["target"]
        step_bytes = self._width * cost.draft_step_bytes(cost.full_head_rows) + context * self.token_bytes["drafter"]
        of = f"a target pass and {steps} draft steps, weights and cache"
        _, floor = floor_line("round", pass_bytes + steps * step_bytes, seconds, of, self._arguments.device)
        return floor | {
            "nodes": 1 + max(done.drafted for done in rounds),
            "draft_seconds": statistics.median(done.draft_seconds for done in rounds),
            "target_seconds": statistics.median(done.target_seconds for done in rounds),
            "target_floor_seconds": pass_bytes / read_bandwidth(self._arguments.device),
        }


def tree_of(nodes: int) -> Any:
    """A plan whose tree has so many nodes, the root among them."""
    if nodes <= 2:
        return None if nodes == 1 else vt.Chain(1)
    return vt.DynamicTree(nodes, depth=min(5, nodes - 1), branching=min(10, nodes - 1))


def allocated(cache: Any) -> int:
    """Bytes of a cache's keys and values, entries that are only reserved among them."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def write_models(shape: ModelShape, kept_sizes: list[int]) -> dict[str, Path]:
    """The target, and its EAGLE drafter with a head of each size; folders by name, drafters by kept size."""
    place = OUT / "scale"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    folders = {"target": shapes.write_target(place / "target", shape, seed=0)}
    whole = folders[str(shape.vocab)] = shapes.write_eagle(place / "eagle", shape, seed=1, embed=False)
    for size in kept_sizes:
        if size < shape.vocab:
            kept = KeptVocabulary(shapes.draw_ids(shape, size, seed=2), shape.vocab)
            folders[str(size)] = vt.trim(whole, kept, target=folders["target"], out=place / f"cut-{size}").out
    return folders


def print_tables(result: dict[str, Any]) -> None:
    columns = f"{'round':>10}{'floor':>10}{'times':>7}{'drafting':>10}{'target':>10}"
    print(f"{'milliseconds, medians':34}{columns}")
    for point in result["by_context"]:
        for name, told in point["plans"].items():
            print_row(f"context {point['context']:,}, {name}", told)
    for told in result["by_nodes"]["plans"].values():
        print_row(f"nodes {told['nodes']}, context {MIDDLE}", told)
    for size, point in result["by_kept"].items():
        for name, told in point["plans"].items():
            print_row(f"kept {size:,}, {name}", told)
    print(f"\n{'memory, MB':34}{'target':>10}{'drafter':>10}{'peak resident':>16}")
    for point in result["by_context"]:
        target, drafter = (point["cache_bytes"][name] / 1e6 for name in ("target", "drafter"))
        peak = point["peak_bytes"] / 1e6
        print(f"{point['context']:>7,} tokens, keys and values{target:12.1f}{drafter:10.1f}{peak:16.0f}")


def print_row(name: str, told: Point) -> None:
    numbers = (told[key] * 1e3 for key in ("measured_seconds", "floor_seconds"))
    parts = (told[key] * 1e3 for key in ("draft_seconds", "target_seconds"))
    print(
        f"{name:34}"
        + "".join(f"{number:10.2f}" for number in numbers)
        + f"{told['ratio']:7.1f}"
        + "".join(f"{number:10.2f}" for number in parts)
    )


def draw(result: dict[str, Any], out: Path) -> None:
    """Four panels: a round by context, by nodes, by kept size, each beside its floor; and memory by context."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    (first, second), (third, fourth) = panels
    contexts = [point["context"] for point in result["by_context"]]
    for number, name in enumerate(PLANS):
        lines(first, contexts, [point["plans"][name] for point in result["by_context"]], name, f"C{number}")
    nodes = list(result["by_nodes"]["plans"].values())
    lines(second, [told["nodes"] for told in nodes], nodes, "round", "C0")
    second.plot(
        [told["nodes"] for told in nodes],
        [1e3 * told["target_seconds"] for told in nodes],
        "s-",
        color="C4",
        label="target pass",
    )
    for number, name in ((1, CHAIN), (2, TREE)):
        points = [point["plans"][name] for point in result["by_kept"].values()]
        lines(third, list(result["by_kept"]), points, name, f"C{number}")
    for number, (name, label) in enumerate({"target": "target's cache", "drafter": "drafter's cache"}.items()):
        sizes = [point["cache_bytes"][name] / 1e6 for point in result["by_context"]]
        fourth.plot(contexts, sizes, "o-", color=f"C{number}", label=label)
    fourth.plot(
        contexts, [point["peak_bytes"] / 1e6 for point in result["by_context"]], "s-", color="C3", label="peak resident"
    )
    titles = {
        first: "context, tokens",
        second: f"nodes of the tree, context {MIDDLE}",
        third: f"kept ids, context {MIDDLE}",
        fourth: "context, tokens",
    }
    for panel, title in titles.items():
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        panel.set_xlabel(title)
        panel.set_ylabel("MB" if panel is fourth else "milliseconds a round")
        panel.set_yscale("log")
        panel.grid(alpha=0.3, which="both")
        if panel is not fourth:
            panel.plot([], [], "--", color="grey", label="floor")
        panel.legend(fontsize="small")
    figure.suptitle(f"Target of {result['model']}, EAGLE drafter, {result['dtype']}; dashed: bytes over read bandwidth")
    for suffix in ("svg", "png"):
        figure.savefig(out.with_suffix(f".{suffix}"), dpi=130)
    pyplot.close(figure)


def lines(panel: Any, places: list[int], points: list[Point], label: str, colour: str) -> None:
    """Measured and floor, in milliseconds."""
    panel.plot(places, [1e3 * point["measured_seconds"] for point in points], "o-", color=colour, label=label)
    panel.plot(places, [1e3 * point["floor_seconds"] for point in points], "--", color=colour)


if __name__ == "__main__":
    main()
