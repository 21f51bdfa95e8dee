"""Where a round's time goes: draft body, draft head, target pass, and our own time, for a 48M-parameter target.

Physics: a round reads the target once and the drafter once per draft step; everything else (choosing tokens, trees,
masks, acceptance, the cache's bookkeeping) reads next to nothing and should take next to no time. Our own time is a
round's time less the models' passes: the calls of our kernels, or with --plain the forward passes of transformers'
modules. To stay under: 5 % of a round.

Random models never agree, so hardly a draft survives: the shortest round there is, and the largest share of our own.
Sides take turns (A B A B ...) and medians over rounds are shown, each round beside the least time for its bytes.

    python bench/decode.py [--dtype bfloat16] [--device cpu] [--turns 3] [--tokens 40] [--plain]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import vocabtrim as vt
from kernel_clock import KernelClock
from machine import certificate, floor_line
from vocabtrim.checkpoint.costs import drafter_cost
from vocabtrim.decoding.drafters.choose_plan import plan_depth
from vocabtrim.decoding.drafters.protocol import Drafter
from vocabtrim.decoding.lean.compiled import ready_kernels
from vocabtrim.decoding.load import DTYPES
from vocabtrim.decoding.target import Target
from vocabtrim.measure.timing import StageClock
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import ModelShape
from vocabtrim.vocabulary.kept import KeptVocabulary

OUT = Path(__file__).resolve().parent / "out" / "decode"
VOCAB, KEPT = 32_000, 4_096
TARGET = ModelShape(
    "48M", 512, 1536, 10, 8, 4, VOCAB, VOCAB, bos=1, eos=(2,), tie=True, head_dim=64, max_positions=2048
)
SMALL = replace(TARGET, name="small", layers=1)
PROMPT = list(range(10, 74))
STAGES = ("draft body", "draft head", "target", "own")
LIMIT = {"chain": 0.05, "tree": 0.05}
WHATEVER = 1e13  # bytes to be read, for which any wait for the compiler pays

# name -> (shape of the draft, folder, plan)
SIDES: dict[str, tuple[str, str, Any]] = {
    "independent, chain of 4": ("chain", "independent", vt.Chain(4)),
    "independent cut, chain of 4": ("chain", "independent-cut", vt.Chain(4)),
    "EAGLE, chain of 4": ("chain", "eagle", vt.Chain(4)),
    "EAGLE, 60-node tree": ("tree", "eagle", vt.DynamicTree()),
    "EAGLE cut, 60-node tree": ("tree", "eagle-cut", vt.DynamicTree()),
    "EAGLE-3 cut, 60-node tree": ("tree", "eagle3-cut", vt.DynamicTree()),
    "Medusa, 64-node tree": ("tree", "medusa", None),
    "Medusa cut, 64-node tree": ("tree", "medusa-cut", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--plain", action="store_true", help="transformers' own modules instead of our kernels")
    arguments = parser.parse_args()
    folders = write_models()
    target = vt.load_target(folders["target"], dtype=arguments.dtype, device=arguments.device, lean=not arguments.plain)
    lean = target.lm.lean is not None and ready_kernels(WHATEVER) is not None
    sides = {name: vt.load_drafter(folders[side], target, plan=plan) for name, (_, side, plan) in SIDES.items()}
    recorded: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for turn in range(-1, arguments.turns):  # the first turn warms up and does not count
        for name, drafter in sides.items():
            rounds = list(time_rounds(target, drafter, arguments.tokens, lean))
            recorded[name] += rounds if turn >= 0 else []
    medians = {name: summary(rounds) for name, rounds in recorded.items()}
    print_table(medians)
    floors = {name: floor(name, medians[name]["round"] / 1e3, folders, arguments) for name in sides}
    shutil.rmtree(OUT)
    print(
        json.dumps(
            {
                "bench": "decode",
                "dtype": arguments.dtype,
                "where": arguments.device,
                "lean": lean,
                "target_parameters": sum(parameter.numel() for parameter in target.lm.model.parameters()),
                "kept_size": KEPT,
                "median_milliseconds": medians,
                "limits": LIMIT,
                "floors": floors,
                **certificate(0, ("torch", "transformers")),
            }
        )
    )


def write_models() -> dict[str, Path]:
    """The target and one drafter of each kind, full and cut to the same ids."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    shapes.write_target(OUT / "target", TARGET, seed=0)
    makers: dict[str, Callable[[Path], Path]] = {
        "independent": lambda out: shapes.write_independent(out, SMALL, seed=1),
        "eagle": lambda out: shapes.write_eagle(out, TARGET, seed=2, embed=False),
        "eagle3": lambda out: shapes.write_eagle3(out, TARGET, seed=3, draft_vocab=VOCAB, maps=False),
        "medusa": lambda out: shapes.write_medusa(out, TARGET, seed=4, heads=5, container="safetensors"),
    }
    ids = np.sort(np.random.default_rng(0).choice(np.arange(3, VOCAB), KEPT - 1, replace=False))
    kept = KeptVocabulary(np.insert(ids, 0, 2).astype(np.int64), VOCAB)
    folders = {"target": OUT / "target"}
    for name, make in makers.items():
        folders[name] = make(OUT / name)
        folders[f"{name}-cut"] = vt.trim(folders[name], kept, target=OUT / "target", out=OUT / f"{name}-cut").out
    return folders


def time_rounds(target: Target, drafter: Drafter, tokens: int, lean: bool) -> Iterator[dict[str, float]]:
    """Seconds of each stage, round by round."""
    stages = {"target": [target.lm.model]} | draft_modules(drafter)
    with KernelClock(drafter) if lean else StageClock(stages) as clock:
        before = dict.fromkeys(STAGES, 0.0)
        for number, done in enumerate(vt.decode(target, drafter, PROMPT, max_new_tokens=tokens, stop_ids=())):
            now = {stage: clock.seconds[stage] for stage in STAGES[:-1]}
            spent = {stage: now[stage] - before[stage] for stage in STAGES[:-1]}
            before = now
            if number > 0:  # the prompt's passes stand before the first round
                yield spent | {"own": done.seconds - sum(spent.values()), "round": done.seconds}


def draft_modules(drafter: Any) -> dict[str, list[Any]]:
    """A feature drafter's rotations and the fusing of its features are passes of its model as well."""
    if hasattr(drafter, "heads"):
        return {"draft body": drafter.blocks, "draft head": drafter.heads}
    body = drafter.body
    model = [body.lm.model] if hasattr(body, "lm") else [body.layers, body.layers.fc, body.rotary]
    return {"draft body": model, "draft head": [body.head]}


def summary(rounds: list[dict[str, float]]) -> dict[str, float]:
    medians = {stage: 1e3 * statistics.median(round[stage] for round in rounds) for stage in (*STAGES, "round")}
    return medians | {"own_share": statistics.median(round["own"] / round["round"] for round in rounds)}


def floor(name: str, seconds: float, folders: dict[str, Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """A round's weights: of one target pass and of as many draft steps as the plan has levels; stored in bfloat16."""
    _, folder, plan = SIDES[name]
    cost = drafter_cost(folders[folder], folders["target"])
    steps = cost.steps(plan_depth(plan) or 1)
    stored = cost.target_pass_bytes + steps * cost.draft_step_bytes(cost.full_head_rows)
    of = f"weights of a target pass and of {steps} draft steps"
    line, told = floor_line(name, stored * DTYPES[arguments.dtype].itemsize / 2, seconds, of, arguments.device)
    print(line)
    return told


def print_table(medians: dict[str, dict[str, float]]) -> None:
    columns = (*STAGES, "round")
    print(
        f"{'milliseconds, medians':28}"
        + "".join(f"{column:>12}" for column in columns)
        + f"{'own share':>12}{'limit':>8}"
    )
    for name, row in medians.items():
        numbers = "".join(f"{row[column]:12.2f}" for column in columns)
        print(f"{name:28}{numbers}{row['own_share']:12.1%}{LIMIT[SIDES[name][0]]:8.0%}")


if __name__ == "__main__":
    main()
