"""`vocabtrim tune`: kept size, draft length and tree shape together, from what is measured on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .generate import quiet
from .screen import Json, print_json, print_table

if TYPE_CHECKING:
    from ..tuning.tune import Tuning
    from ..tuning.verdict import Measured

_ALONE = "target alone"


def tune(
    *,
    target: Annotated[str, typer.Option(help="The target: local folder or hub id.")],
    drafter: Annotated[str, typer.Option(help="Its drafter, full or already trimmed: local folder or hub id.")],
    questions: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE", help="Questions most like the work, as `bench` takes them; may be repeated. Some dozens do."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; it must not exist.")],
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="What kept ids are chosen from: text as `vocabtrim count` takes it, or a counts file; may be "
            "repeated. Default: what the target answers to every other question.",
        ),
    ] = None,
    kept: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A kept.safetensors to try, in place of those; may be repeated."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="How long about. More makes it surer.")] = 5.0,
    tokenizer: Annotated[
        str | None, typer.Option(help="The target's tokenizer, where it is not in its folder.")
    ] = None,
    categories: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many questions of each file, of all categories in turn.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")] = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Repeats sampled answers.")] = 0,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16 or float64, for target and drafter.")
    ] = "bfloat16",
    device: Annotated[str, typer.Option(help="Where both are: cpu, cuda, cuda:1.")] = "cpu",
    no_chat: Annotated[
        bool, typer.Option("--no-chat", help="Take prompts as they are, without the target's chat template.")
    ] = False,
    plain: options.Plain = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 and write nothing where the target alone is faster.")
    ] = False,
    json: Json = False,
) -> None:
    """Find the kept size, draft length and tree shape that are fastest here, and write them beside the drafter.

    Every kept size and shape is predicted from acceptance, replayed on the target's own answers, and from stage times
    of this machine; the best are measured live beside the target alone. `generate`, `bench` and `export` then draft as
    OUT says. It may say "do not trim", and then OUT holds links to the drafter, or "do not speculate".

    Example: vocabtrim tune --target Llama/ --drafter EAGLE/ --questions question.jsonl --out tuned/
    """
    from ..decoding.sampling import Sampling
    from ..measure.methods import Settings
    from ..measure.questions import questions as read_questions
    from ..tuning.tune import tune as find
    from ..tuning.tune import unlike_names

    quiet()
    named = None if categories is None else categories.split(",")
    asked = unlike_names([read_questions(path, categories=named, limit=limit) for path in questions])
    found = find(
        target,
        drafter,
        asked,
        out,
        calibrate=calibrate or (),
        kept=kept or (),
        tokenizer=tokenizer,
        settings=Settings(
            max_new_tokens=max_new_tokens,
            sampling=Sampling(temperature, top_k, top_p),
            seed=seed,
            chat=not no_chat,
            dtype=dtype,
            device=device,
            lean=not plain,
        ),
        minutes=minutes,
        strict=strict,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if json:
        print_json(as_object(found))
    else:
        tell(found)


def tell(found: Tuning) -> None:
    """What was tried, what it came to, and how sure that is; for people."""
    verdict = found.verdict
    columns = ["measured", "head rows", "block efficiency", "tokens/s", "speed-up (95 %)", "questions", "better"]
    print_table(f"\n{found.kind} drafter", columns, [_row(one) for one in verdict.measured])
    sizes = ", ".join(f"{size:,}" for size in found.kept_sizes)
    print(
        f"Tried: {found.predicted:,} combinations of kept size ({sizes}) and shape, predicted from {found.tokens:,} "
        f"replayed tokens and from stage times; {len(verdict.measured) - 1} of them measured live, in "
        f"{found.seconds:.0f} s. Kept ids were chosen from {found.calibrated}."
    )
    print(f"Acceptance by depth: {' '.join(f'{share:.2f}' for share in found.acceptance)}")
    rival = verdict.rival
    if rival is not None and rival.combination is not None:
        print(
            f"How sure: of the others, {rival.combination.kept_size:,} rows and {rival.combination.shape} is the "
            f"likeliest to be faster than the pick, with a chance of {rival.better:.0%}."
        )
    for question, reason in list(found.failed.items())[:3]:
        print(f"not answered: question {question}: {reason}")
    print(f"Verdict: {verdict.verdict}. {verdict.reason}.")
    what = "the trimmed drafter" if verdict.picked.kept_size != found.full_size else "links to the drafter as it is"
    print(f"{found.out}: {what}, and tuned.json, which generate, bench and export go by.")


def _row(one: Measured) -> tuple[str, ...]:
    low, high = one.speedup_interval
    alone = one.combination is None
    return (
        _ALONE if one.combination is None else str(one.combination.shape),
        "-" if one.combination is None else f"{one.combination.kept_size:,}",
        f"{one.block_efficiency:.2f}",
        f"{one.tokens_per_second:.1f}",
        "1" if alone else f"{one.speedup:.2f} ({low:.2f} to {high:.2f})",
        f"{one.questions}",
        "-" if alone else f"{one.better:.0%}",
    )


def as_object(found: Tuning) -> dict[str, Any]:
    """The same for programs."""
    from dataclasses import asdict

    verdict, tuned = found.verdict, found.tuned
    rival = verdict.rival
    return {
        "out": str(found.out),
        "kind": found.kind,
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "speculate": verdict.speculate,
        "kept_size": tuned.kept_size,
        "full_size": found.full_size,
        "draft_length": tuned.draft_length,
        "branching": tuned.branching,
        "nodes": tuned.nodes,
        "chain": tuned.chain,
        "speedup": verdict.pick.speedup,
        "speedup_interval": list(verdict.pick.speedup_interval),
        "chance_of_better": 0.0 if rival is None else rival.better,
        "acceptance_by_depth": list(found.acceptance),
        "predicted": found.predicted,
        "replayed_tokens": found.tokens,
        "kept_sizes": list(found.kept_sizes),
        "calibrated": found.calibrated,
        "measured": tuned.figures["measured"],
        "way": tuned.figures["way"],
        "stages": asdict(found.times),
        "seconds": found.seconds,
        "failed": found.failed,
    }
