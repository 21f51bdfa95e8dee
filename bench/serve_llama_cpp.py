"""Tokens per second of llama.cpp with an EAGLE-3 drafter, full head and trimmed ones.

Physics: a draft step reads the drafter's layer and its head, and fills a row as wide as the target's vocabulary with
-inf, into which the kept scores are scattered. What a cut saves is the head's bytes; that row stays.

    python bench/serve_llama_cpp.py [--models random|family] [--length 4] [--prompts 6] [--tokens 96] [--threads 1]

random: a small Llama with Llama 3's 128,256 ids and a drafter of random weights, of whose drafts the target accepts
none: what is seen is what drafting costs. family: the built-in models, 16,384 ids, whose drafts are accepted. The ways
take turns prompt by prompt, A B A B; medians over prompts, by the engine's own clock. Its program is
llama-speculative-simple. VOCABTRIM_LLAMA_CPP and
VOCABTRIM_LLAMA_CPP_PYTHON name the engine (docs/engines/llama-cpp.md), VOCABTRIM_DATA the real material, for Llama 3's
tokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import vocabtrim as vt
from machine import certificate, floor_line
from vocabtrim.calibrate.tokenizer import load_tokenizer, tokenizer_facts
from vocabtrim.checkpoint.costs import drafter_cost
from vocabtrim.cost import Cost
from vocabtrim.decoding.text import TargetText
from vocabtrim.exports.export import export
from vocabtrim.exports.llama_cpp import FILE
from vocabtrim.testbed import shapes
from vocabtrim.testbed.demo import chosen_prompts
from vocabtrim.testbed.family import calibration, member
from vocabtrim.testbed.shapes import ModelShape
from vocabtrim.vocabulary.kept import KeptVocabulary

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from llama_engine import Drafted, convert_all, engine_folder, speculate

VOCAB, SIZES = 128_256, (32_000, 16_000, 8_000)
TARGET = ModelShape(
    "small-128k", 512, 1536, 8, 8, 4, VOCAB, VOCAB, 128_000, (128_001, 128_008, 128_009), tie=True, head_dim=64
)


@dataclass(frozen=True)
class Models:
    """target: GGUF. drafters: name -> GGUF. costs: name -> what a pass and a step read of the folders they were made
    of, which store as many bytes in bfloat16 as the GGUF files do in float16."""

    target: Path
    drafters: dict[str, Path]
    costs: dict[str, Cost]
    prompts: list[str]


def random_models(folder: Path, engine: Path, prompts: int) -> Models:
    """Random weights: nothing is ever accepted."""
    tokenizer = Path(os.environ["VOCABTRIM_DATA"]) / "tokenizers" / "llama3_2"
    target = shapes.write_target(folder / "target", TARGET, seed=1, tokenizer=tokenizer)
    drafter = shapes.write_eagle3(
        folder / "drafter", TARGET, seed=4, draft_vocab=VOCAB, kept_ids=np.arange(VOCAB), maps=False
    )
    kept, words = {size: shapes.draw_ids(TARGET, size, seed=2) for size in SIZES}, load_tokenizer(tokenizer)
    drawn = [words.decode(ids.tolist()) for ids in np.random.default_rng(0).integers(0, 100_000, (prompts, 64))]
    return _converted(folder, engine, target=target, drafter=drafter, kept=kept, prompts=drawn, rule="llama-bpe")


def family_models(folder: Path, engine: Path, prompts: int) -> Models:
    """The carried models, cut to what the target writes most."""
    target, drafter = member("target"), member("eagle3")
    counts = vt.count([calibration("target-generated")], tokenizer=target, origin="target-generated")
    kept = {}
    for size in (4096, 2048):
        chosen = vt.choose(counts, keep=size, drafter=drafter, target=target).kept
        assert chosen is not None
        kept[size] = chosen.ids
    words = TargetText(target)
    tokenizer = load_tokenizer(target)
    asked = [
        tokenizer.decode(words.conversation(prompt.messages), skip_special_tokens=False)
        for prompt in chosen_prompts(prompts)
    ]
    return _converted(folder, engine, target=target, drafter=drafter, kept=kept, prompts=asked, rule="qwen2")


def _converted(
    folder: Path,
    engine: Path,
    *,
    target: Path,
    drafter: Path,
    kept: dict[int, np.ndarray],
    prompts: list[str],
    rule: str,
) -> Models:
    facts = tokenizer_facts(target)
    whole, served = folder / "full.gguf", folder / "target.gguf"
    beside = ["--target-model-dir", target]
    convert_all(engine, [[rule, drafter, "--outfile", whole, *beside], [rule, target, "--outfile", served]])
    drafters, costs = {"full head": whole}, {"full head": drafter_cost(drafter, target)}
    for size, ids in kept.items():
        vocabulary = KeptVocabulary(ids, facts.vocab_size, facts.hash)
        cut = vt.trim(drafter, vocabulary, target=target, out=folder / f"cut-{size}").out
        drafters[f"{size:,} kept ids"] = export(cut, "llama-cpp", target=target, out=folder / f"out-{size}").out / FILE
        costs[f"{size:,} kept ids"] = drafter_cost(cut, target)
    return Models(served, drafters, costs, prompts)


def measure(engine: Path, models: Models, length: int, tokens: int, threads: int) -> dict[str, list[Drafted]]:
    """name -> an answer for each prompt, every way asked of each prompt in turn."""

    def ask(drafter: Path, prompt: str) -> Drafted:
        how = ("-t", threads, "-td", threads, "-c", 2048)
        return speculate(engine, models.target, drafter, prompt, tokens, *how, length=length)

    answers: dict[str, list[Drafted]] = {name: [] for name in models.drafters}
    for prompt in models.prompts:
        for name, drafter in models.drafters.items():
            answers[name].append(ask(drafter, prompt))
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=("random", "family"), default="random")
    parser.add_argument("--length", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)  # several stand in each other's way on a busy machine
    arguments = parser.parse_args()
    engine = engine_folder()
    if engine is None:
        parser.error("VOCABTRIM_LLAMA_CPP and VOCABTRIM_LLAMA_CPP_PYTHON name no built llama.cpp")
    make = {"random": random_models, "family": family_models}[arguments.models]
    with TemporaryDirectory() as folder:
        models = make(Path(folder), engine, arguments.prompts)
        answers = measure(engine, models, arguments.length, arguments.tokens, arguments.threads)
    speeds = {name: [one.emitted / one.seconds for one in told] for name, told in answers.items()}
    result: dict[str, dict[str, Any]] = {}
    for name, told in answers.items():
        drafted, accepted = sum(one.drafted for one in told), sum(one.accepted for one in told)
        over_full = [mine / full for mine, full in zip(speeds[name], speeds["full head"], strict=True)]
        result[name] = {
            "tokens_per_second": round(statistics.median(speeds[name]), 2),
            "over_full_head": round(statistics.median(over_full), 3),
            "drafted": drafted,
            "accepted": accepted,
        }
        print(f"{name:16} {result[name]}")
        rounds = sum(one.emitted for one in told) - accepted
        steps, cost = arguments.length * rounds, models.costs[name]
        size = rounds * cost.target_pass_bytes + steps * cost.draft_step_bytes(cost.full_head_rows)
        of = f"weights of {rounds} target passes and {steps} draft steps"
        line, result[name]["floor"] = floor_line(name, size, sum(one.seconds for one in told), of)
        print(line)
    how = {name: getattr(arguments, name) for name in ("models", "length", "prompts", "tokens", "threads")}
    print(json.dumps({"bench": "serve_llama_cpp"} | how | {"ways": result} | certificate(0, ("torch", "gguf"))))


if __name__ == "__main__":
    main()
