"""What trimming costs the built-in drafters: block efficiency on held-out prompts, greedy, by the decoding loop itself.

Every drafter with its full head, with an eighth of the vocabulary chosen by what the target wrote, and with an eighth
chosen by raw text; EAGLE's draft a tree, the independent one a chain of 4, Medusa its own tree. float32, so that all
write the same tokens, which is proven on the way. Sides take turns prompt by prompt.

    python bench/family.py [--prompts 140] [--tokens 128] [--out FILE.jsonl]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import vocabtrim as vt
from machine import certificate
from vocabtrim.decoding.rounds import Round
from vocabtrim.decoding.text import TargetText
from vocabtrim.testbed.demo import DRAFTERS, chosen_prompts
from vocabtrim.testbed.family import calibration, member

SHARE = 1 / 8
FULL = "full"
ORIGINS = ("target-generated", "drafter-generated", "raw")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=140)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--out", type=Path, help="write the figures by category as JSON lines")
    arguments = parser.parse_args()
    target_folder = member("target")
    target = vt.load_target(target_folder, dtype="float32")
    words = TargetText(target_folder)
    prompts = chosen_prompts(arguments.prompts)
    with TemporaryDirectory() as scratch:
        sides = {
            (name, kept): vt.load_drafter(folder, target)
            for name in DRAFTERS
            for kept, folder in folders(name, Path(scratch)).items()
        }
        recorded: dict[tuple[str, str, str], list[Round]] = defaultdict(list)
        for prompt in prompts:
            ids = words.conversation(prompt.messages)
            plain = list(vt.decode(target, None, ids, max_new_tokens=arguments.tokens))
            wanted = emitted(plain)
            recorded["plain", FULL, prompt.category] += plain
            for (name, kept), drafter in sides.items():
                rounds = list(vt.decode(target, drafter, ids, max_new_tokens=arguments.tokens))
                if emitted(rounds) != wanted:
                    raise SystemExit(f"{name}, {kept}: other tokens than the target alone writes")
                recorded[name, kept, prompt.category] += rounds
    print_table(recorded)
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(line) + "\n" for line in by_category(recorded)))
    figures = {f"{name}, {kept}": figures_of(together(recorded, name, kept)) for name, kept in keys(recorded)}
    print(
        json.dumps(
            {
                "bench": "family",
                "prompts": len(prompts),
                "figures": figures,
                "machine": certificate(0, ("torch", "transformers")),
            }
        )
    )


def folders(name: str, scratch: Path) -> dict[str, Path]:
    """The drafter, and what an eighth of the vocabulary by each origin makes of it."""
    drafter, target = member(name), member("target")
    found = {FULL: drafter}
    for origin in ORIGINS:
        counts = vt.count([calibration(origin)], tokenizer=target, origin=origin)
        size = round(SHARE * counts.tokenizer.vocab_size)
        kept = vt.choose(counts, keep=size, drafter=drafter, target=target).kept
        assert kept is not None and kept.size == size
        found[origin] = vt.trim(drafter, kept, target=target, out=scratch / f"{name}-{origin}").out
    return found


def emitted(rounds: list[Round]) -> list[int]:
    return [token for round in rounds for token in round.tokens]


def keys(recorded: dict[tuple[str, str, str], list[Round]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((name, kept) for name, kept, _ in recorded))


def together(recorded: dict[tuple[str, str, str], list[Round]], name: str, kept: str) -> list[Round]:
    return [round for (n, k, _), rounds in recorded.items() if (n, k) == (name, kept) for round in rounds]


def figures_of(rounds: list[Round]) -> dict[str, float]:
    summary = vt.summarise(rounds)
    return {
        "block_efficiency": round(summary.block_efficiency, 3),
        "tokens_per_second": round(summary.tokens_per_second, 1),
        "emitted": summary.emitted,
    }


def by_category(recorded: dict[tuple[str, str, str], list[Round]]) -> list[dict[str, Any]]:
    return [
        {"drafter": name, "kept": kept, "category": category} | figures_of(rounds)
        for (name, kept, category), rounds in recorded.items()
    ]


def print_table(recorded: dict[tuple[str, str, str], list[Round]]) -> None:
    categories = list(dict.fromkeys(category for _, _, category in recorded))
    print(f"{'block efficiency':<32}{'all':>8}{'of full':>9}" + "".join(f"{name:>11}" for name in categories))
    for name, kept in keys(recorded):
        if name == "plain":
            continue
        full = figures_of(together(recorded, name, FULL))["block_efficiency"]
        mine = figures_of(together(recorded, name, kept))["block_efficiency"]
        cells = (figures_of(recorded[name, kept, category])["block_efficiency"] for category in categories)
        print(f"{name + ', ' + kept:<32}{mine:>8.2f}{mine / full:>9.3f}" + "".join(f"{cell:>11.2f}" for cell in cells))


if __name__ == "__main__":
    main()
