"""What `tune` picks against the best of an exhaustive grid, measured live, on the built-in models.

Every kept size and shape of the grid answers held-out prompts that tune was not shown; the better half goes on to more
prompts, and again, until a handful is left. These, the pick and the target alone then take turns over all prompts. The
pick's tokens per second over the best of the grid is to be 0.97 or more, with its 95 % interval by prompts. Where the
target alone is faster than any drafting, tune is to say so, and the drafting pick is still held against the grid.

The built-in target is so small that nothing pays beside it. With --deep N it gets N more layers, copies of its last one
that write little: it says nearly the same, drafters are accepted as before, and its passes cost as much as those of a
model of that depth.

--grid small takes 40 combinations and minutes, full some hundreds, whole all that tune itself looks at.

    python bench/tune.py [--drafter eagle] [--deep 0] [--grid full] [--prompts 12] [--tokens 48] [--minutes 4]
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import vocabtrim as vt
from machine import certificate
from vocabtrim.calibrate.count import count
from vocabtrim.checkpoint.layouts import MEDUSA
from vocabtrim.decoding.load import drafter_kind
from vocabtrim.decoding.text import TargetText
from vocabtrim.measure.methods import Settings
from vocabtrim.testbed.demo import DRAFTERS, chosen_prompts, questions_of
from vocabtrim.testbed.family import calibration, member
from vocabtrim.tuning.clock import draft_as
from vocabtrim.tuning.kept_sizes import kept_from_counts
from vocabtrim.tuning.race import Answer, Race
from vocabtrim.tuning.shapes import BRANCHINGS, NODES, STATIC, Combination, Shape, shapes
from vocabtrim.tuning.verdict import drawn

OUT = Path(__file__).resolve().parent / "out" / "tune"
WEAK = 0.02  # what the weights of added layers are multiplied with, where they write to the residual
LEFT = 6  # of the grid, for the last comparison
GRIDS: dict[str, dict[str, tuple[int, ...]]] = {
    "whole": {"lengths": tuple(range(1, 9)), "branchings": (0, *BRANCHINGS), "nodes": NODES},
    "full": {"lengths": (1, 2, 3, 4, 6, 8), "branchings": (0, *BRANCHINGS), "nodes": (2, 3, 4, 6, 8, 16, 32, 64)},
    "small": {"lengths": (1, 2, 4), "branchings": (0, 1, 4), "nodes": (2, 4, 8, 16, 32)},
}
MANY = 64  # combinations, of which one prompt at a time drops half; of fewer two do
CALIBRATION = "target-generated"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafter", choices=DRAFTERS, default="eagle")
    parser.add_argument("--deep", type=int, default=0)
    parser.add_argument("--grid", choices=tuple(GRIDS), default="full")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    target = deepened(member("target"), arguments.deep) if arguments.deep else member("target")
    drafter = member(arguments.drafter)
    tuning, shown = chosen_prompts(2 * arguments.prompts)[::2], chosen_prompts(2 * arguments.prompts)[1::2]
    settings = Settings(max_new_tokens=arguments.tokens, dtype=arguments.dtype)
    start = time.perf_counter()
    calibrated = [f"{CALIBRATION}:{calibration(CALIBRATION)}"]
    found = vt.tune(
        target,
        drafter,
        questions_of(tuning),
        OUT / "tuned",
        calibrate=calibrated,
        settings=settings,
        minutes=arguments.minutes,
        say=lambda line: print(f"  {time.perf_counter() - start:5.0f} s  {line}", flush=True),
    )
    print(f"{found.verdict.verdict}. {found.verdict.reason}")
    kept = kept_from_counts(
        [count(calibrated, tokenizer=target)], full_size=found.full_size, drafter=drafter, target=target
    )
    grid = Grid(target, drafter, kept, found.full_size, arguments)
    words = TargetText(target)
    result = grid.compare([words.conversation(prompt.messages) for prompt in shown], found.verdict.picked)
    shutil.rmtree(OUT)
    told = {
        "drafter": arguments.drafter,
        "deep": arguments.deep,
        "dtype": arguments.dtype,
        "verdict": found.verdict.verdict,
        "tune_seconds": round(found.seconds),
        "predicted": found.predicted,
        "rival": None if found.verdict.rival is None else found.verdict.rival.better,
    }
    print(json.dumps({"bench": "tune"} | told | result | certificate(0, ("torch", "transformers"))))


def deepened(folder: Path, more: int) -> Path:
    """The target with more layers that change little of what it says."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layers = model.model.layers
    with torch.no_grad():
        for _ in range(more):
            layer = copy.deepcopy(layers[-1])
            if len(layers) == model.config.num_hidden_layers:
                layer.self_attn.o_proj.weight *= WEAK
                layer.mlp.down_proj.weight *= WEAK
            layer.self_attn.layer_idx = len(layers)
            layers.append(layer)
    model.config.num_hidden_layers = len(layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = ["full_attention"] * len(layers)
    out = OUT / "target"
    model.save_pretrained(out)
    for path in folder.iterdir():
        if "token" in path.name or path.name == "generation_config.json":
            shutil.copyfile(path, out / path.name)
    return out


class Grid:
    """Every combination, opened once for each kept size."""

    def __init__(
        self, target: Path, drafter: Path, kept: Sequence[Any], full_size: int, arguments: argparse.Namespace
    ) -> None:
        self.target = vt.load_target(target, dtype=arguments.dtype)
        self.kind, self.tokens = drafter_kind(drafter, target), arguments.tokens
        chosen = list(kept)[1::2] if arguments.grid == "small" else list(kept)
        self.drafters: dict[int, Any] = {full_size: vt.load_drafter(drafter, self.target)}
        self.made: dict[int, Any] = {one.size: one for one in kept}
        self.target_folder, self.folder = target, drafter
        heads = len(self.drafters[full_size].heads) if self.kind == MEDUSA else 0
        found = [shape for shape in shapes(self.kind, heads=heads) if is_in(GRIDS[arguments.grid], shape)]
        self.combinations = [
            Combination(size, shape) for size in (full_size, *(c.size for c in chosen)) for shape in found
        ]

    def drafter(self, size: int) -> Any:
        if size not in self.drafters:
            place = OUT / str(size)
            vt.trim(self.folder, self.made[size], target=self.target_folder, out=place)
            self.drafters[size] = vt.load_drafter(place, self.target)
        return self.drafters[size]

    def answer(self, combination: Combination | None, prompt: list[int]) -> Answer:
        """As tune's race takes them: rounds for as long as the median one."""
        drafter = None
        if combination is not None:
            drafter = draft_as(self.drafter(combination.kept_size), self.kind, combination.shape, vt.Sampling())
        rounds = list(vt.decode(self.target, drafter, prompt, max_new_tokens=self.tokens, stop_ids=()))
        seconds = len(rounds) * statistics.median(one.seconds for one in rounds)
        return Answer(sum(one.emitted for one in rounds), len(rounds), seconds, 0.0)

    def compare(self, prompts: Sequence[list[int]], picked: Combination) -> dict[str, Any]:
        """In each step all that are left answer one prompt, in an order that chance has; figures are over the target
        alone in the same step."""
        left, chance = list(self.combinations), np.random.default_rng(0)
        for size in (None, *dict.fromkeys(one.kept_size for one in left)):  # warms up
            self.answer(next((one for one in left if one.kept_size == size), None), prompts[0])

        def run(running: Race, contenders: Sequence[Combination | None], steps: range) -> None:
            for step in steps:
                for number in chance.permutation(len(contenders)):
                    one = contenders[number]
                    running.answers[one][step] = self.answer(one, prompts[step % len(prompts)])

        grid, steps = Race(len(prompts)), 0
        while len(left) > LEFT:
            more = 1 if len(left) > MANY else 2
            run(grid, [None, *left], range(steps, steps + more))
            steps += more
            ranked = sorted(left, key=lambda one: grid.speedup(one, grid.common(*left)), reverse=True)
            left = ranked[: max(LEFT, len(left) // 2)]
            print(f"grid: {len(left)} left, the best {left[0].kept_size} rows and {left[0].shape}", flush=True)
        last = Race(len(prompts))
        run(last, list(dict.fromkeys([None, picked, *left])), range(2 * len(prompts)))
        return self.report(last, picked, left)

    def report(self, last: Race, picked: Combination, left: Sequence[Combination]) -> dict[str, Any]:
        everything = list(range(last.questions))
        speedups = {one: last.speedup(one, everything) for one in last.answers}
        for one, speedup in sorted(speedups.items(), key=lambda item: -item[1]):
            name = "target alone" if one is None else f"{one.kept_size:,} rows and {one.shape}"
            print(f"{name:60} {speedup:6.3f} times the target alone{'  <- the pick' if one == picked else ''}")
        best = max(left, key=lambda one: speedups[one])
        ratios = drawn(last, picked, everything) / drawn(last, best, everything)
        ratio = speedups[picked] / speedups[best]
        print(f"the pick over the best of {len(self.combinations)} combinations: {ratio:.3f} (to be 0.97 or more)")
        return {
            "combinations": len(self.combinations),
            "pick": described(picked),
            "best": described(best),
            "ratio": ratio,
            "ratio_interval": np.percentile(ratios, [2.5, 97.5]).tolist(),
            "pick_over_alone": speedups[picked],
            "pick_over_alone_interval": np.percentile(drawn(last, picked, everything), [2.5, 97.5]).tolist(),
            "best_over_alone": speedups[best],
        }


def is_in(grid: dict[str, tuple[int, ...]], shape: Shape) -> bool:
    if shape.branching not in grid["branchings"] or (shape.branching != 1 and shape.nodes not in grid["nodes"]):
        return False
    return shape.branching == STATIC or shape.draft_length in grid["lengths"]


def described(one: Combination) -> dict[str, int]:
    return {"kept_size": one.kept_size, **one.shape.numbers}


if __name__ == "__main__":
    main()
