"""Our loop against transformers, vLLM and llama.cpp: the same target, drafter, prompts and tokens in one run.

Physics: decoding one sequence waits for the bytes that it reads. Whoever runs the same models reads the same bytes, so
sides differ by how near they come to the machine's bandwidth, and by what they do beside reading. Every token costs

    (target pass + draft length x draft step) / block efficiency     bytes

of which a trimmed head takes most of the draft step away. Shown are that floor's time and the time measured, as a
multiple of it (models that stay in the processor's cache can go below).

The models are random and their acceptance is built in (peer_models.py): an independent drafter, which transformers
takes too, and an EAGLE-3 one, which vLLM and llama.cpp take; each full and cut to an eighth. All engines are given the
same files, the same draft length and all cores at their best settings; peer_sides.py says what is measured. Sides take
turns prompt by prompt, the first prompt warms up, medians over the others. Demands are ratios of the sides' speeds on
the same prompt, medians again.

    python bench/peers.py [--size 50M] [--dtype float32] [--prompts 5] [--tokens 64] [--without vllm]

VOCABTRIM_DATA holds the tokenizer of 400M; VOCABTRIM_VLLM_PYTHON, VOCABTRIM_LLAMA_CPP and VOCABTRIM_LLAMA_CPP_PYTHON
name the engines (tests/engines/test_drafter_semantics.py, docs/engines/llama-cpp.md). Those that are not named are
left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

import peer_sides
from machine import certificate, read_bandwidth
from peer_models import SHAPES, PeerModels, tokenizer_folder, write_models
from peer_sides import DRAFT_LENGTH, ENGINES, Answer, Setting, Side
from vocabtrim.calibrate.tokenizer import load_tokenizer
from vocabtrim.checkpoint.costs import drafter_cost

OUT = Path(__file__).resolve().parent / "out" / "peers"
# What is held against what, and how many times as fast it is to be.
DEMANDS = (
    ("ours", "transformers", 1.5),
    ("ours, independent, trimmed", "transformers, independent, full", 1.3),
    ("ours", "vLLM", 1.0),
    ("ours, EAGLE-3, trimmed", "vLLM, EAGLE-3, trimmed", 1.0),
    ("ours", "llama.cpp", 1.0),
    ("ours, EAGLE-3, trimmed", "llama.cpp, EAGLE-3, trimmed", 1.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="400M")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--prompts", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--without", action="append", default=[], choices=("transformers", *ENGINES))
    # Compiled it takes 7 % less processor time for a token, and a minute more to load.
    parser.add_argument("--vllm-eager", action="store_true", help="vLLM without torch.compile, which loads sooner")
    arguments = parser.parse_args()
    if arguments.size == "400M" and "VOCABTRIM_DATA" not in os.environ:
        parser.error("set VOCABTRIM_DATA, where the tokenizer of 400M is, or pass --size 50M")
    left_out = dict.fromkeys(arguments.without, "not wanted")
    for name, variables in ENGINES.items():
        if missing := [variable for variable in variables if not os.environ.get(variable)]:
            left_out.setdefault(name, f"{' and '.join(missing)} not set")
    torch.set_num_threads(arguments.threads)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, OUT)
        models = write_models(OUT, arguments.size, arguments.dtype, arguments.prompts + 1)
        bandwidth = read_bandwidth()
        setting = Setting(models, arguments.dtype, arguments.tokens, arguments.threads, OUT, eager=arguments.vllm_eager)
        sides, versions = open_sides(setting, set(left_out), stack)
        answers = take_turns(models, sides)
        result = {name: figures(name, told, models, answers["ours"], bandwidth) for name, told in answers.items()}
    print_table(result, bandwidth, arguments.prompts)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    how = {name: getattr(arguments, name) for name in ("size", "dtype", "prompts", "tokens", "threads")}
    about = {"draft_length": DRAFT_LENGTH, "read_bandwidth": bandwidth, "left_out": left_out, "engines": versions}
    told = {"sides": result, "demands": demands(answers)}
    print(json.dumps({"bench": "peers"} | how | about | told | certificate(0, ("torch", "transformers"))))


def open_sides(setting: Setting, left_out: set[str], stack: ExitStack) -> tuple[dict[str, Side], dict[str, str]]:
    """What answers prompts, by name, and the engines' versions."""
    opened: dict[str, Callable[[], tuple[dict[str, Side], str]]] = {
        "vllm": lambda: peer_sides.vllm(setting, stack),
        "llama.cpp": lambda: peer_sides.llama_cpp(setting),
        "transformers": lambda: peer_sides.transformers(setting),
    }
    sides, versions = {}, {}
    for name, open_engine in opened.items():
        if name not in left_out:
            found, versions[name] = open_engine()
            sides |= found
    return sides | peer_sides.ours(setting), versions


def take_turns(models: PeerModels, sides: dict[str, Side]) -> dict[str, list[Answer]]:
    """Every side's answers to all prompts but the first."""
    answers: dict[str, list[Answer]] = {name: [] for name in sides}
    for number, (prompt, text) in enumerate(models.prompts):
        for name, side in sides.items():
            answer = side(prompt, text)
            if number > 0:
                answers[name].append(answer)
    return answers


def figures(
    name: str, answers: list[Answer], models: PeerModels, plain: list[Answer], bandwidth: float
) -> dict[str, Any]:
    """What one side did. plain: our own answers without a drafter, which all others are to equal."""
    speed = statistics.median(answer.speed for answer in answers)
    efficiency = sum(answer.timed for answer in answers) / sum(answer.passes for answer in answers)
    size = bytes_of_a_round(name, models) / efficiency
    parted = [
        first_difference(models, answer.said, prompt, expected.said)
        for answer, (prompt, _), expected in zip(answers, models.prompts[1:], plain, strict=True)
    ]
    return {
        "tokens_per_second": speed,
        "slowest": min(answer.speed for answer in answers),
        "fastest": max(answer.speed for answer in answers),
        "block_efficiency": efficiency,
        "same_tokens": parted.count(None),
        "first_differences": [place for place in parted if place is not None],
        "bytes_per_token": size,
        "over_floor": bandwidth / size / speed,
    }


def bytes_of_a_round(name: str, models: PeerModels) -> float:
    """One target pass, and as many draft steps as the side takes: "engine, kind, head", or the target alone."""
    drafters = {
        "independent, full": models.independent,
        "independent, trimmed": models.independent_cut,
        "EAGLE-3, full": models.eagle3,
        "EAGLE-3, trimmed": models.eagle3_cut,
    }
    folder = drafters.get(name.partition(", ")[2])
    cost = drafter_cost(folder or models.independent, models.target)
    drafted = 0 if folder is None else DRAFT_LENGTH * cost.draft_step_bytes(cost.full_head_rows)
    return cost.target_pass_bytes + drafted


def first_difference(
    models: PeerModels, said: list[int] | str, prompt: list[int], expected: list[int] | str
) -> int | None:
    """Where an answer leaves the expected ids, or None where it never does. Text is compared as text."""
    assert isinstance(expected, list)
    if isinstance(said, list):
        pairs = zip(said, expected, strict=False)
        return next((place for place, (mine, wanted) in enumerate(pairs) if mine != wanted), None)
    words = load_tokenizer(tokenizer_folder(models.size))
    wanted = (words.decode(prompt + expected[: place + 1], skip_special_tokens=False) for place in range(len(expected)))
    return next((place for place, text in enumerate(wanted) if not said.startswith(text.strip("\n"))), None)


def demands(answers: dict[str, list[Answer]]) -> list[dict[str, Any]]:
    """Which were met; those of sides that are not there are left out."""
    result = []
    for mine, other, wanted in DEMANDS:
        if other in answers:
            pairs = zip(answers[mine], answers[other], strict=True)
            ratio = statistics.median(one.speed / two.speed for one, two in pairs)
            met = ratio >= wanted if wanted > 1 else ratio > 1
            result.append({"side": mine, "over": other, "ratio": ratio, "wanted": wanted, "met": met})
            verdict = "pass" if met else "MISS"
            print(f"{verdict}  {mine} over {other}: {ratio:.2f} times as fast (wanted: {wanted})")
    return result


def print_table(result: dict[str, dict[str, Any]], bandwidth: float, prompts: int) -> None:
    print(f"read bandwidth {bandwidth / 1e9:.1f} GB/s")
    print(f"{'':32}{'tokens/s':>10}{'block':>8}{'MB':>8}{'times':>8}{'same':>8}  first")
    print(f"{'':32}{'':>10}{'eff.':>8}{'a token':>8}{'floor':>8}{'tokens':>8}  differences")
    for name, row in result.items():
        numbers = f"{row['tokens_per_second']:10.1f}{row['block_efficiency']:8.2f}{row['bytes_per_token'] / 1e6:8.0f}"
        places = ", ".join(map(str, row["first_differences"]))
        same = f"{row['same_tokens']}/{prompts}"
        print(f"{name:32}{numbers}{row['over_floor']:8.2f}{same:>8}  {places}".rstrip())


if __name__ == "__main__":
    main()
