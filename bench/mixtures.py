"""How sources of counts are best combined: the default mixture against its parts and against other estimates.

A kept list is cut from a ranking by estimated probability, so an estimate is judged by what its lists cover, at 2k to
32k ids of Llama 3's 128k. Half of each text is calibration, half is held out. Two questions, which pull apart: a list
read on the primary's own task, where at 2k every id given to other text is taken from this task, and read on a task
that none of its sources was made for. The first tables show what each source covers alone, by the ids that it saw, and
continued in merge order, which already combines two sources. Below them, an estimate's figure is its coverage less that
of the best single list: each source continued in merge order, and the lowest ids. Differences are called certain where
the 95 % interval of the paired bootstrap over 32 blocks of held-out documents leaves 0 out.

Estimates: `back-off` orders by the primary's counts, then the next source's, then merge order. `even` adds shares
evenly. `Witten-Bell` gives the primary N / (N + T) of the estimate, T its distinct ids; `Dirichlet` N / (N + 3000);
`discounted` takes 0.75 from each of its counts (Ney, Essen and Kneser 1994); what they leave goes to the others and
merge order evenly. `geometric` adds logarithms of smoothed shares. `fitted` is deleted interpolation (Jelinek and
Mercer 1980), `choose --other-work 0`; `default` is 0.7 of it, 0.2 merge order and 0.1 the others (mixture.py).

    python bench/mixtures.py DATA [--tokenizer FOLDER]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

import vocabtrim as vt
from machine import certificate, floor_line
from vocabtrim.calibrate.blocks import by_block
from vocabtrim.testbed.family import calibration
from vocabtrim.vocabulary.mixture import default_mixture, fit, prior, relative

SIZES = (2048, 4096, 8192, 16_384, 32_768)
Vector = npt.NDArray[Any]
Case = tuple[list[str], str]  # sources, the primary first, and the task that is read on
Estimate = Callable[[list[Vector], Vector], Vector]  # counts, the primary first, and the prior -> a score of each id


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of real material")
    parser.add_argument("--tokenizer", type=Path, help="default: Llama 3.2's in it")
    arguments = parser.parse_args()
    tasks, floor = counted(arguments.data, arguments.tokenizer or arguments.data / "tokenizers" / "llama3_2")
    trial = Trial(tasks)
    shown = shown_tables(trial)
    figures = {
        "a primary and raw text": compare(trial, with_raw(trial)),
        "every other source": compare(trial, with_all(trial)),
    }
    told = {"bench": "mixtures", "sizes": SIZES, "shown": shown, "figures": figures, "floor": floor}
    print(json.dumps(told | {"machine": certificate(0, ("numpy", "tiktoken"))}))


def counted(data: Path, tokenizer: Path) -> tuple[dict[str, vt.TokenCounts], dict[str, Any]]:
    """Every task's counts, half of the documents held out; and counting beside the least time for its bytes."""
    answers = {"prompt_field": "model_input", "completion_field": "output", "origin": "target-generated"}
    texts: dict[str, tuple[list[Path], dict[str, str]]] = {
        "gsm": ([data / "recorded" / "zeroeval_gsm_llama3.1-8b.json"], answers),
        "crux": ([data / "recorded" / "zeroeval_crux_llama3.1-8b.json"], answers),
        "web": ([data / "text" / "c4_demo.jsonl"], {}),
        "wiki": ([data / "text" / f"wikitext2_{part}.txt" for part in ("valid", "test")], {}),
        "tools": ([data / "tools" / "glaive_toolcall_en_demo.json"], {}),
        "gsm8k": ([data / "text" / "gsm8k_train.jsonl"], {"text_field": "answer"}),
        "code": ([data / "code" / "mbpp.jsonl"], {"text_field": "code"}),
        "plays": ([data / "text" / "tinyshakespeare.txt"], {}),
        "family's target": ([calibration("target-generated")], {"origin": "target-generated"}),
        "family's drafter": ([calibration("drafter-generated")], {"origin": "drafter-generated"}),
        "family's raw": ([calibration("raw")], {}),
    }
    found, began = {}, perf_counter()
    for name, (files, options) in texts.items():
        found[name] = vt.count(files, tokenizer=tokenizer, heldout=0.5, **options)
        tokens, held = int(found[name].counts.sum()), int(found[name].heldout.sum())
        print(f"{name}: {tokens:,} tokens of calibration, {held:,} held out, {found[name].distinct:,} distinct")
    size = sum(file.stat().st_size for files, _ in texts.values() for file in files)
    line, floor = floor_line("counting", size, perf_counter() - began, "the files, read once")
    print(line)
    found["raw"] = vt.merge([found["web"], found["wiki"]])
    return found, floor


class Trial:
    """Coverage of rankings on every task's held-out text."""

    def __init__(self, tasks: Mapping[str, vt.TokenCounts]) -> None:
        self.tasks = tasks
        facts = tasks["gsm"].tokenizer
        self.vocab, self.prior = facts.vocab_size, prior(facts.merge_ordered, facts.vocab_size)
        self.totals = {name: self.blocks(name, np.ones(self.vocab, bool)) for name in tasks}
        self.continued = {
            name: [self.covered(part.counts + self.prior, task) for task in tasks] for name, part in tasks.items()
        }
        self.lowest = [self.covered(self.prior, task) for task in tasks]

    def blocks(self, task: str, kept: Vector) -> Vector:
        """(32,) held-out tokens of a task inside the kept ids."""
        return np.sum([by_block(source.blocks, kept) for source in self.tasks[task].sources], axis=0)

    def covered(self, score: Vector, task: str) -> Vector:
        """(sizes, 32) held-out tokens covered by the ids of the highest score; ids without any are not kept."""
        place = np.empty(self.vocab, np.int64)
        place[np.lexsort((np.arange(self.vocab), -score))] = np.arange(self.vocab)
        return np.stack([self.blocks(task, (place < size) & (score > 0)) for size in SIZES])

    def alone(self, sources: Sequence[str], task: str) -> dict[str, Vector]:
        """What each source covers by the ids that it saw, and merge order."""
        counted = {name: self.covered(self.tasks[name].counts, task) for name in sources}
        return counted | {"lowest ids": self.lowest[list(self.tasks).index(task)]}

    def singles(self, sources: Sequence[str], task: str) -> dict[str, Vector]:
        """The lists to beat on a task: as long as the size, whatever their source saw."""
        number = list(self.tasks).index(task)
        return {name: self.continued[name][number] for name in sources} | {"lowest ids": self.lowest[number]}

    def share(self, covered: Vector, task: str) -> Vector:
        """(sizes,) coverage."""
        return np.asarray(covered.sum(axis=1) / self.totals[task].sum())

    def against_best(self, score: Vector, sources: Sequence[str], task: str) -> tuple[Vector, Vector]:
        """(sizes,) points above the best single list, and whether the difference is certain."""
        mine, singles = self.covered(score, task), list(self.singles(sources, task).values())
        shares = np.stack([self.share(single, task) for single in singles])
        best = np.stack([singles[number][size] for size, number in enumerate(shares.argmax(axis=0))])
        drawn = np.random.default_rng(0).integers(0, mine.shape[1], (1000, mine.shape[1]))
        total = self.totals[task][drawn].sum(axis=1)
        resampled = (mine - best)[:, drawn].sum(axis=2) / total
        low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
        return 100 * (self.share(mine, task) - shares.max(axis=0)), (low > 0) | (high < 0)


def back_off(counts: list[Vector], law: Vector) -> Vector:
    order = np.lexsort((np.arange(law.size), *(-vector for vector in reversed(counts))))
    score = np.zeros(law.size)
    score[order] = np.arange(law.size, 0, -1)
    return score


def even(counts: list[Vector], law: Vector) -> Vector:
    return sum(map(relative, counts), law) / (len(counts) + 1)


def interpolated(left: Callable[[Vector], float]) -> Estimate:
    """`left`: tokens' worth of the primary that goes to the others and merge order, evenly."""
    return lambda counts, law: counts[0] + left(counts[0]) * even(counts[1:], law)


def discounted(counts: list[Vector], law: Vector) -> Vector:
    left = 0.75 * np.count_nonzero(counts[0])
    return np.maximum(counts[0] - 0.75, 0) + left * even(counts[1:], law)


def geometric(counts: list[Vector], law: Vector) -> Vector:
    smoothed = [np.log((vector + 2000 * law + 1e-9) / (vector.sum() + 2000)) for vector in counts]
    return np.exp(0.5 * smoothed[0] + (0.3 * sum(smoothed[1:]) / (len(counts) - 1)) + 0.2 * np.log(law + 1e-12))


def fitted(counts: list[Vector], law: Vector) -> Vector:
    return sum(weight * row for weight, row in zip(fit(counts, law), [*map(relative, counts), law], strict=True))


def default(counts: list[Vector], law: Vector) -> Vector:
    groups = [[(str(number), vector)] for number, vector in enumerate(counts)]
    return default_mixture(groups, np.count_nonzero(law)).estimate()


ESTIMATES: dict[str, Estimate] = {
    "back-off": back_off,
    "even": even,
    "Witten-Bell": interpolated(lambda counts: float(np.count_nonzero(counts))),
    "Dirichlet": interpolated(lambda counts: 3000.0),
    "discounted": discounted,
    "geometric": geometric,
    "fitted": fitted,
    "default": default,
}


def shown_tables(trial: Trial) -> dict[str, dict[str, list[float]]]:
    """Target-generated, raw and mixed lists on their own task and on others."""
    found = {}
    for primary in ("gsm", "crux"):
        score = default([trial.tasks[name].counts for name in (primary, "raw")], trial.prior)
        for task in ("gsm", "crux", "tools", "code"):
            print(f"\n{primary} (target-generated) and raw text, read on {task}")
            sources = [primary, "raw"]
            mixed, alone = trial.covered(score, task), trial.alone(sources, task)
            continued = {f"{name}, then merge order": trial.singles(sources, task)[name] for name in sources}
            for name, covered in (alone | continued | {"mixed": mixed}).items():
                print(f"  {name:22}" + "".join(f"{share:8.4f}" for share in trial.share(covered, task)))
            best = np.max([trial.share(covered, task) for covered in alone.values()], axis=0)
            over = 100 * (trial.share(mixed, task) - best)
            points, certain = trial.against_best(score, sources, task)
            print(f"  {'above best source':22}" + "".join(f"{point:+7.2f} " for point in over))
            marked = [f"{point:+7.2f}{' ' if sure else '~'}" for point, sure in zip(points, certain, strict=True)]
            print(f"  {'above best of all':22}" + "".join(marked))
            found[f"{primary} on {task}"] = {"source": rounded(over), "all": rounded(points)}
    print("\nPoints of coverage; ~: within the sampling error of the held-out text.")
    return found


def rounded(points: Vector) -> list[float]:
    return [round(float(point), 2) for point in points]


def with_raw(trial: Trial) -> list[Case]:
    """A primary and raw text, read on every task that the raw text is not of."""
    read = [task for task in trial.tasks if task not in ("raw", "web", "wiki")]
    return [([primary, "raw"], task) for primary in ("gsm", "crux", "tools", "code") for task in read]


def with_all(trial: Trial) -> list[Case]:
    """Every task as primary with all others behind it, but for the one that is read on."""
    read = [task for task in trial.tasks if task != "raw"]
    return [([p, *(side for side in read if side not in (p, task))], task) for p in read for task in read]


def compare(trial: Trial, cases: Sequence[Case]) -> dict[str, Any]:
    """Every estimate on the primary's own task and on tasks that none of its sources was made for."""
    figures: dict[str, Any] = {}
    for name, estimate in ESTIMATES.items():
        found: dict[str, list[tuple[Vector, Vector]]] = {"own": [], "other": []}
        for sources, task in cases:
            score = estimate([trial.tasks[source].counts for source in sources], trial.prior)
            found["own" if task == sources[0] else "other"].append(trial.against_best(score, sources, task))
        figures[name] = {question: summary(cells) for question, cells in found.items()}
    for question, words in (("own", "on the primary's own task"), ("other", "on a task of no source")):
        print(
            f"\n{words}, {figures['default'][question]['cells']} cells: mean points by size | worst | certainly below"
        )
        for name, told in figures.items():
            row = told[question]
            print(
                f"  {name:12}" + "".join(f"{p:+7.2f}" for p in row["mean"]) + f" | {row['worst']:+.2f} | {row['below']}"
            )
    return figures


def summary(cells: list[tuple[Vector, Vector]]) -> dict[str, Any]:
    """Mean points by size, the worst cell, how many cells lie certainly below the best single list, of how many."""
    points, certain = (np.stack(part) for part in zip(*cells, strict=True))
    return {
        "mean": rounded(points.mean(axis=0)),
        "worst": round(float(points.min()), 2),
        "below": int(np.count_nonzero((points < 0) & certain)),
        "cells": points.size,
    }


if __name__ == "__main__":
    main()
