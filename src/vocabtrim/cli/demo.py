"""`vocabtrim demo`: the whole job, offline, on the built-in trained models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, UnsafeError
from .generate import ACCEPTED, harmless, quiet
from .screen import Json, print_json, print_table
from .trim import print_job

if TYPE_CHECKING:
    from rich.text import Text

    from ..job import Job
    from ..testbed.demo import Compared, Side, Written

_SHOWN = 4  # answers shown side by side; the others are only measured
_WIDTH = 120  # where there is no terminal


def demo(
    *,
    drafter: Annotated[str, typer.Option(help="Which built-in drafter: eagle, eagle3, independent or medusa.")] = (
        "eagle"
    ),
    prompts: Annotated[int, typer.Option(min=1, help="How many held-out prompts are answered.")] = 21,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")] = 128,
    out: Annotated[
        Path | None, typer.Option(help="Keep the trimmed drafter in this new folder; without it nothing is kept.")
    ] = None,
    json: Json = False,
) -> None:
    """Trim a drafter and see what it is worth, offline, on models that come with vocabtrim.

    Counts calibration text, chooses the ids to keep, trims the drafter, checks it, and lets the target answer held-out
    prompts three ways: alone, with the full drafter, with the trimmed one. All three must write the same tokens.

    Example: vocabtrim demo --drafter eagle3 --out demo/
    """
    from tempfile import TemporaryDirectory

    from ..testbed.demo import DRAFTERS, Comparison, chosen_prompts, trim_built_in

    if drafter not in DRAFTERS:
        raise InputError(
            "no such built-in drafter", expected=", ".join(DRAFTERS), found=drafter, remedy="name one of them"
        )
    quiet()
    with TemporaryDirectory() as scratch:
        _say(f"1. Trimming the built-in {drafter} drafter")
        job = trim_built_in(drafter, out or Path(scratch) / "trimmed")
        if not json:
            print_job(job)
        if job.result is None or job.plan is None:
            raise UnsafeError("the built-in drafter was not trimmed", remedy="see the verdict above")
        _say("2. Answering held-out prompts: the target alone, with the full head, with the trimmed head")
        comparison = Comparison(drafter, job.result.out)
        chosen = chosen_prompts(prompts)
        comparison.answer(chosen[0], 8)  # the first passes are slower than all others
        answers = []
        for number, prompt in enumerate(chosen):
            answers.append(comparison.answer(prompt, max_new_tokens))
            if not json and number < _SHOWN:
                _show(answers[-1])
            elif not json:
                _say(f"   {number + 1} of {len(chosen)}")
        sides = comparison.sides(answers, job.plan.kept.size)
    different = [number for number, answer in enumerate(answers) if not answer.same]
    if json:
        print_json(_as_object(drafter, job, sides, prompts=len(answers), different=len(different), out=out))
    else:
        _tell(drafter, sides, len(answers), len(different), out)
    if different:
        raise UnsafeError(
            f"{len(different)} of {len(answers)} answers differ between the three ways",
            remedy="report this: in float32 they must not",
        )


def _say(step: str) -> None:
    print(step, file=sys.stderr)


def _show(answer: Compared) -> None:
    """The three ways side by side, accepted drafts in colour."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    question = harmless(answer.prompt.messages[-1]["content"])
    console.print(Text(f"\n{answer.prompt.category}: {question}", style="bold", overflow="ellipsis"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for name, way in answer.written.items():
        table.add_column(Text(f"{name}: {len(way.tokens)} tokens, {len(way.generation.rounds)} passes"), ratio=1)
    table.add_row(*map(_coloured, answer.written.values()))
    console.print(table)


def _coloured(way: Written) -> Text:
    from rich.text import Text

    text = Text(overflow="fold")
    for piece in way.pieces:
        text.append(harmless(piece.text), ACCEPTED if piece.accepted else None)
    return text


def _tell(drafter: str, sides: list[Side], prompts: int, different: int, out: Path | None) -> None:
    plain = sides[0].summary.tokens_per_second
    rows = [
        (
            side.name,
            "-" if side.head_rows is None else f"{side.head_rows:,}",
            f"{side.summary.emitted:,}",
            f"{side.summary.rounds:,}",
            f"{side.summary.block_efficiency:.2f}",
            f"{side.mbsu:.2f}",
            f"{1e3 * side.summary.draft_seconds / side.summary.rounds:.1f} ms",
            f"{1e3 * side.summary.target_seconds / side.summary.rounds:.1f} ms",
            f"{side.summary.tokens_per_second:.0f}",
            f"{side.summary.tokens_per_second / plain:.2f}",
        )
        for side in sides
    ]
    title = f"\n{prompts} held-out prompts, {drafter} drafter, greedy, float32"
    columns = ["", "head rows", "tokens", "target passes", "block efficiency", "MBSU"]
    columns += ["drafting a round", "target pass", "tokens/s", "measured speed-up"]
    print_table(title, columns, rows)
    if not different:
        print(f"All three wrote the same {sides[0].summary.emitted:,} tokens, id for id.")
    print("MBSU is what the bytes predict; models this small spend much of their time outside of reading weights.")
    if out is not None:
        print(f"The trimmed drafter is in {out}: look at {out / 'README.md'}.")
    print(
        "\nThe same for your own drafter:\n"
        "    vocabtrim trim DRAFTER --target TARGET --calibrate target-generated:ANSWERS.jsonl --out trimmed\n"
        '    vocabtrim generate "Why is the sky blue?" --target TARGET --drafter trimmed'
    )


def _as_object(
    drafter: str, job: Job, sides: list[Side], *, prompts: int, different: int, out: Path | None
) -> dict[str, Any]:
    assert job.plan is not None and job.report is not None and job.choice is not None
    return {
        "out": None if out is None else str(out),
        "drafter": drafter,
        "kept_size": job.plan.kept.size,
        "head_bytes_before": job.plan.head_bytes_before,
        "head_bytes_after": job.plan.head_bytes_after,
        "verdict": job.choice.verdict,
        "ok": job.report.ok,
        "prompts": prompts,
        "different_answers": different,
        "sides": {
            side.name: {
                "head_rows": side.head_rows,
                "tokens": side.summary.emitted,
                "target_passes": side.summary.rounds,
                "block_efficiency": side.summary.block_efficiency,
                "mbsu": side.mbsu,
                "draft_seconds": side.summary.draft_seconds,
                "target_seconds": side.summary.target_seconds,
                "tokens_per_second": side.summary.tokens_per_second,
            }
            for side in sides
        },
    }
