"""What replaying costs beside decoding live, on the built-in family in float32, greedy.

Live decoding pays for target passes and for draft steps, once for every kept vocabulary. Replay pays for draft steps
alone, and nearly once for all vocabularies: their trees share most nodes. A greedy chain of the independent drafter
takes one pass over the output instead of a step per token, and Medusa's heads read the output in blocks.
The rounds of the full head must be those of the live run, one by one. Live decoding is shown beside the least time for
the weights that it reads; a replay reads as many of the drafter's as its trees happen to share, which is not counted.

    python bench/replay.py [--prompts 14] [--tokens 128]
"""

from __future__ import annotations

import argparse
import json
from time import perf_counter
from typing import Any

import vocabtrim as vt
from machine import certificate, floor_line
from vocabtrim.checkpoint.costs import drafter_cost
from vocabtrim.decoding.rounds import Round
from vocabtrim.decoding.text import TargetText
from vocabtrim.measure.recording import Recorded
from vocabtrim.measure.redraft import redraft
from vocabtrim.measure.replay_rounds import ReplayedRound, replay_rounds
from vocabtrim.measure.state_recorder import StateRecorder
from vocabtrim.testbed.demo import DRAFTERS, chosen_prompts
from vocabtrim.testbed.family import calibration, member

SIZES = (512, 1024, 2048, 4096, 8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=14)
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    target = vt.load_target(member("target"), dtype="float32")
    prompts = [TargetText(member("target")).conversation(one.messages) for one in chosen_prompts(arguments.prompts)]
    kept = kept_vocabularies()
    print(f"{'seconds':<24}{'live':>8}{'drafting':>10}{'replay 1':>10}{f'replay {len(kept)}':>10}")
    figures, floors = {}, {}
    for name in DRAFTERS:
        for shape, plan in plans(name).items():
            drafter = vt.load_drafter(member(name), target, plan=plan)
            generations = [record(target, prompt, arguments.tokens, drafter.states) for prompt in prompts]
            side = f"{name}, {shape}"
            figures[side], rounds = compare(target, drafter, generations, kept)
            found = figures[side]
            live, *others = found.values()
            print(f"{side:<24}{live:>8.1f}" + "".join(f"{seconds:>10.1f}" for seconds in others))
            of = f"weights of {len(rounds):,} rounds and {len(prompts)} prompts"
            line, floors[side] = floor_line(f"{side}, live", live_bytes(name, rounds, len(prompts)), live, of)
            print(line)
    told = {"bench": "replay", "prompts": len(prompts), "vocabularies": len(kept), "seconds": figures}
    told |= {"floors": floors}
    print(json.dumps(told | {"machine": certificate(0, ("torch", "transformers"))}))


def kept_vocabularies() -> list[Any]:
    """The full head, and one of each of SIZES."""
    counts = [vt.count([calibration(origin)], tokenizer=member("target")) for origin in ("target-generated", "raw")]
    return [None, *(vt.choose(counts, keep=size).kept.ids for size in SIZES)]


def plans(name: str) -> dict[str, Any]:
    return {"static tree": None} if name == "medusa" else {"chain": vt.Chain(), "tree": vt.DynamicTree()}


def record(target: Any, prompt: list[int], tokens: int, states: tuple[int, ...]) -> Recorded:
    recorder = StateRecorder(states)
    rounds = list(vt.decode(target, recorder, prompt, max_new_tokens=tokens))
    output = tuple(token for round in rounds for token in round.tokens)
    hidden = recorder.hidden if states else None
    return Recorded("", tuple(prompt), output, ended=rounds[-1].ended, max_new_tokens=tokens, hidden=hidden)


def compare(
    target: Any, drafter: Any, generations: list[Recorded], kept: list[Any]
) -> tuple[dict[str, float], list[Round]]:
    """Seconds of each way, and the rounds of live decoding."""
    began = perf_counter()
    live = [list(vt.decode(target, drafter, one.prompt, max_new_tokens=one.max_new_tokens)) for one in generations]
    times = {"live": perf_counter() - began, "drafting": sum(round.draft_seconds for part in live for round in part)}
    for vocabularies in (kept[:1], kept):
        drafting = redraft(drafter, vocabularies)
        began = perf_counter()
        replayed = [replay_rounds(one, drafting, len(vocabularies))[0] for one in generations]
        times[f"replay {len(vocabularies)}"] = perf_counter() - began
        if list(map(numbers, live)) != list(map(numbers, replayed)):
            raise SystemExit("replay has other rounds than live decoding")
    return {name: round(seconds, 2) for name, seconds in times.items()}, [done for part in live for done in part]


def live_bytes(name: str, rounds: list[Round], prompts: int) -> int:
    """A target pass for each round and prompt, and a draft step for each level; in float32 twice what is stored."""
    cost = drafter_cost(member(name), member("target"))
    steps = sum(cost.steps(done.depth) for done in rounds if done.drafted)
    return 2 * ((len(rounds) + prompts) * cost.target_pass_bytes + steps * cost.draft_step_bytes(cost.full_head_rows))


def numbers(rounds: list[Round] | list[ReplayedRound]) -> list[tuple[int, int, int, int]]:
    return [(one.emitted, one.accepted, one.drafted, one.depth) for one in rounds]


if __name__ == "__main__":
    main()
