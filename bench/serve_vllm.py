"""vLLM's tokens per second with a drafter as it is and cut to 16,384 of 128,256 ids, as `vocabtrim export` writes it.

Physics: at one sequence a draft step reads the drafter's weights once, most of them the head: 98 MB in bfloat16 at this
size, of which an eighth is left. The models are random, 58 million parameters. The EAGLE drafters are never right, so
their lines show what drafting costs; the independent drafter is the target itself, so that every draft survives, and
what the target writes is among the kept ids: its lines show what is gained. One thread; each side is loaded twice, in
turns, and answers three times each time; medians. Seconds are the processor's, which a busy machine does not stretch.

    VOCABTRIM_VLLM_PYTHON=E/bin/python python bench/serve_vllm.py [--tokens 48]

tests/engines/test_drafter_semantics.py says how to make the environment E. VOCABTRIM_DATA holds the tokenizer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

import vocabtrim as vt
from machine import certificate, floor_line
from vocabtrim.calibrate.tokenizer import tokenizer_facts
from vocabtrim.checkpoint.costs import drafter_cost
from vocabtrim.exports.export import export
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import ModelShape
from vocabtrim.vocabulary.kept import KeptVocabulary

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import vllm_runs  # noqa: E402

OUT = ROOT / "bench" / "out" / "vllm"
KEPT, LENGTH = 16_384, 4
IDS: Any = {"vocab": 128_256, "head_rows": 128_256, "bos": 128_000, "eos": (128_001, 128_008, 128_009)}
SHAPE = ModelShape("58M", 384, 1024, 7, 6, 2, **IDS, head_dim=64, tie=True, max_positions=2048)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=48)
    arguments = parser.parse_args()
    if missing := {vllm_runs.VARIABLE, "VOCABTRIM_DATA"} - os.environ.keys():
        parser.error(f"set {' and '.join(sorted(missing))}")
    python = os.environ[vllm_runs.VARIABLE]
    tokenizer = Path(os.environ["VOCABTRIM_DATA"]) / "tokenizers" / "llama3_2"
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    target = shapes.write_target(OUT / "target", SHAPE, seed=1, tokenizer=tokenizer)
    prompts = [np.random.default_rng(0).integers(0, 100_000, 64).tolist()]

    def served(sides: dict[str, Any], repeat: int) -> Any:
        runs = {name: (target, config) for name, config in sides.items()}
        return vllm_runs.answers(python, runs, prompts, arguments.tokens, OUT / "run", dtype="bfloat16", repeat=repeat)

    written = served({"target": None}, 1)["target"]["tokens"][0]
    sides = drafters(target, kept(tokenizer, [*prompts[0], *written]))
    turns = {f"{name}, turn {turn}": config for turn in (1, 2) for name, config in sides.items()}
    answers = served(turns, 4)
    for name, told in answers.items():
        if "error" in told:
            raise SystemExit(f"{name}: {told['error']}")
    result = {name: figures([answers[f"{name}, turn {turn}"] for turn in (1, 2)]) for name in sides}
    for name, told in result.items():
        line, told["floor"] = floor(name, arguments.tokens, told)
        print(line)
    shutil.rmtree(OUT)
    for name, told in result.items():
        print(f"{name:40} {told['tokens_per_second']:7.1f} tokens/s {told['accepted_per_draft']:6.2f} accepted")
    setup = {"kept": KEPT, "vocabulary": IDS["vocab"], "draft_length": LENGTH, "new_tokens": arguments.tokens}
    print(json.dumps({"bench": "vllm", "sides": result, **setup, "machine": certificate(0)}))


def kept(tokenizer: Path, needed: list[int]) -> KeptVocabulary:
    """What is needed, what is always kept, and the first ids in merge order."""
    facts = tokenizer_facts(tokenizer)
    ids = np.union1d(needed, sorted(facts.always_keep)).astype(np.int64)
    others = np.setdiff1d(np.arange(facts.vocab_size), ids)[: KEPT - ids.size]
    return KeptVocabulary(np.union1d(ids, others), facts.vocab_size, facts.hash)


def drafters(target: Path, some: KeptVocabulary) -> dict[str, Any]:
    """Each kind as it is, then cut, as a --speculative-config; first the target alone."""
    whole = {
        "EAGLE-3": shapes.write_eagle3(OUT / "eagle3", SHAPE, seed=2, draft_vocab=IDS["vocab"], maps=False),
        "EAGLE-1": shapes.write_eagle(OUT / "eagle", SHAPE, seed=3, embed=False, fc_bias=False),
        "independent": target,
    }
    method = {"EAGLE-3": "eagle3", "EAGLE-1": "eagle", "independent": "draft_model"}
    engines = {"EAGLE-3": ["vllm"], "EAGLE-1": ["vllm-plugin"], "independent": ["vllm", "vllm-plugin"]}
    sides: dict[str, Any] = {"target alone": None}
    for kind, folder in whole.items():
        plain = {"method": method[kind], "model": str(folder), "num_speculative_tokens": LENGTH}
        sides[f"{kind}, full head"] = plain
        vt.trim(folder, some, target=target, out=OUT / f"{kind}-cut")
        for engine in engines[kind]:
            out = export(OUT / f"{kind}-cut", engine, out=OUT / f"{kind}-{engine}", target=target)
            config = vllm_runs.speculative(out.serving.command) | {"num_speculative_tokens": LENGTH}
            sides[f"{kind}, 16k, --engine {engine}"] = config
    return sides


def floor(name: str, tokens: int, told: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """An answer on the clock beside the least time for its weights, all in bfloat16. A round emits what it accepts,
    and one."""
    kind, _, head = name.partition(", ")
    whole = {"EAGLE-3": "eagle3", "EAGLE-1": "eagle", "independent": "target"}
    folder = whole.get(kind, "eagle") if head in {"", "full head"} else f"{kind}-cut"
    cost = drafter_cost(OUT / folder, OUT / "target")
    rounds = tokens / (1 + told["accepted_per_draft"])
    steps = LENGTH * rounds if head else 0.0
    size = rounds * cost.target_pass_bytes + steps * cost.draft_step_bytes(cost.full_head_rows)
    of = f"weights of {rounds:.0f} target passes and {steps:.0f} draft steps"
    return floor_line(name, size, tokens / told["on_the_clock"], of)


def figures(turns: list[Any]) -> dict[str, Any]:
    """The first answer of a loading warms up and is left out."""
    emitted = len(turns[0]["tokens"][0])
    seconds = [one for turn in turns for one in turn["processor_seconds"][1:]]
    waited = [one for turn in turns for one in turn["seconds"][1:]]
    drafts = sum(turn["drafts"] for turn in turns)
    return {
        "tokens_per_second": emitted / statistics.median(seconds),
        "by_turn": [emitted / statistics.median(turn["processor_seconds"][1:]) for turn in turns],
        "on_the_clock": emitted / statistics.median(waited),
        "accepted_per_draft": sum(turn["accepted"] for turn in turns) / drafts if drafts else 0.0,
    }


if __name__ == "__main__":
    main()
