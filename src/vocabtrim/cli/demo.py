"""`vocabtrim demo`: the whole job, offline, on the built-in trained models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, UnsafeError, UnsupportedError
from .generate import ACCEPTED, harmless, quiet
from .screen import Json, print_json, print_table
from .trim import print_job

if TYPE_CHECKING:
    from rich.text import Text

    from ..decoding.text import TargetText
    from ..job import Job
    from ..measure.figures import Figures
    from ..measure.questions import Question
    from ..measure.records import Generated, Run

_SHOWN = 4  # answers shown side by side; the others are only measured
_WIDTH = 120  # where there is no terminal
_PAGE = Path("vocabtrim-demo.html")  # where no folder is asked for


def demo(
    *,
    drafter: Annotated[str, typer.Option(help="Which built-in drafter: eagle, eagle3, independent or medusa.")] = (
        "eagle"
    ),
    prompts: Annotated[int, typer.Option(min=1, help="How many held-out prompts are answered.")] = 14,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")] = 128,
    out: Annotated[
        Path | None,
        typer.Option(help="Keep the trimmed drafter, the run and the page in this new folder."),
    ] = None,
    json: Json = False,
) -> None:
    """Trim a drafter and see what it is worth, offline, on models that come with vocabtrim.

    Counts calibration text, chooses the ids to keep, trims the drafter, checks it, and lets the target answer held-out
    prompts three ways: alone, with the full drafter, with the trimmed one. All three must write the same tokens. Ends
    with a report: vocabtrim-demo.html, replaced by the next demo, or report.html in --out.

    Example: vocabtrim demo --drafter eagle3 --out demo/
    """
    from ..decoding.text import TargetText
    from ..measure.figures import OVERALL, figures, kept_ids
    from ..testbed.demo import DRAFTERS, TRIMMED, chosen_prompts, compare, questions_of, trim_built_in
    from ..testbed.family import member

    if drafter not in DRAFTERS:
        raise InputError(
            "no such built-in drafter", expected=", ".join(DRAFTERS), found=drafter, remedy="name one of them"
        )
    quiet()
    with _places(out) as (folder, page):
        _say(f"1. Trimming the built-in {drafter} drafter")
        job = trim_built_in(drafter, folder / TRIMMED)
        if not json:
            print_job(job)
        if job.result is None or job.plan is None:
            raise UnsafeError("the built-in drafter was not trimmed", remedy="see the verdict above")
        _say("2. Answering held-out prompts: the target alone, with the full head, with the trimmed head")
        questions, words = questions_of(chosen_prompts(prompts)), TargetText(member("target"))

        def seen(run: Run, done: int, wanted: int) -> None:
            place, rest = divmod(done, len(run.methods))
            if rest == 0 and place <= _SHOWN and not json:
                _show(questions[place - 1], run, words)
            elif rest == 0:
                _say(f"   {place} of {len(questions)}", end="\r" if sys.stderr.isatty() else "\n")

        run = compare(drafter, questions, folder, max_new_tokens=max_new_tokens, seen=seen)
        found = figures(run, kept_ids(run))[OVERALL]
        no_page = _write_page(job, folder, page)
    if json:
        print_json(_as_object(drafter, job, run, found, page=page if no_page is None else None, out=out))
    else:
        _tell(drafter, found, out)
        print(f"No report: {no_page}" if no_page else f"Wrote {page}: open it in a browser.")
        print(
            "\nThe same for your own drafter:\n"
            "    vocabtrim trim DRAFTER --target TARGET --calibrate target-generated:ANSWERS.jsonl --out trimmed\n"
            '    vocabtrim generate "Why is the sky blue?" --target TARGET --drafter trimmed'
        )
    if run.failed:
        reason = next(iter(run.failed.values())).reason
        raise UnsafeError(f"{len(run.failed)} answers failed", found=reason, remedy="free memory, and run it again")
    if run.differences:
        raise UnsafeError(
            f"{len(run.differences)} answers are not those of the target alone",
            remedy="report this: in float32 they must be",
        )


@contextmanager
def _places(out: Path | None) -> Iterator[tuple[Path, Path]]:
    """The folder that a demo works in, kept or not, and its page. Refuses at once what could not be written later."""
    from tempfile import TemporaryDirectory

    from ..provenance import refuse_existing, refuse_replacing

    if out is not None:
        refuse_existing(out)
        yield out, out / "report.html"
        return
    refuse_replacing(_PAGE, "page")
    with TemporaryDirectory() as scratch:
        yield Path(scratch), _PAGE


def _write_page(job: Job, folder: Path, page: Path) -> str | None:
    """Write the page; why not, where it cannot be drawn."""
    from ..testbed.demo import write_page

    try:
        write_page(job, folder, page)
    except UnsupportedError as error:  # matplotlib is an extra
        return str(error)
    return None


def _say(step: str, end: str = "\n") -> None:
    print(step, file=sys.stderr, end=end, flush=True)


def _show(question: Question, run: Run, words: TargetText) -> None:
    """The three ways side by side, accepted drafts in colour."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ..testbed.demo import WAYS

    answers = [run.generated.get((question.name, 0, method)) for method in run.methods]
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    asked = harmless(question.turns[-1])
    console.print(Text(f"\n{question.category}: {asked}", style="bold", overflow="ellipsis"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for name, answer in zip(WAYS, answers, strict=True):
        cost = "failed" if answer is None else f"{len(answer.token_ids)} tokens, {len(answer.rounds)} passes"
        table.add_column(Text(f"{name}: {cost}"), ratio=1)
    table.add_row(*("" if answer is None else _coloured(words, answer) for answer in answers))
    console.print(table)


def _coloured(words: TargetText, answer: Generated) -> Text:
    from rich.text import Text

    from ..testbed.demo import pieces

    text = Text(overflow="fold")
    for piece in pieces(words, answer):
        text.append(harmless(piece.text), ACCEPTED if piece.accepted else None)
    return text


def _tell(drafter: str, found: list[Figures], out: Path | None) -> None:
    from ..testbed.demo import TRIMMED, WAYS

    rows = [
        (
            name,
            "-" if way.kept_size is None else f"{way.kept_size:,}",
            f"{way.summary.emitted:,}",
            f"{way.summary.rounds:,}",
            f"{way.summary.block_efficiency:.2f}",
            f"{way.mbsu:.2f}",
            "-" if way.kept_size is None else f"{1e3 * way.summary.draft_seconds / way.summary.rounds:.1f} ms",
            f"{1e3 * way.summary.target_seconds / way.summary.rounds:.1f} ms",
            f"{way.summary.tokens_per_second:.0f}",
            f"{way.speedup:.2f}",
        )
        for name, way in zip(WAYS, found, strict=True)
        if way.questions
    ]
    title = f"\n{found[0].questions} held-out prompts, {drafter} drafter, greedy, float32"
    columns = ["", "head rows", "tokens", "target passes", "block efficiency", "MBSU"]
    columns += ["drafting a round", "target pass", "tokens/s", "measured speed-up"]
    print_table(title, columns, rows)
    if all(way.parity.same == way.parity.compared for way in found if way.parity is not None):
        print(f"All three wrote the same {found[0].summary.emitted:,} tokens, id for id.")
    print("MBSU is what the bytes predict; models this small spend much of their time outside of reading weights.")
    if out is not None:
        print(f"The trimmed drafter is in {out / TRIMMED}: look at {out / TRIMMED / 'README.md'}.")


def _as_object(
    drafter: str, job: Job, run: Run, found: list[Figures], *, page: Path | None, out: Path | None
) -> dict[str, Any]:
    from ..testbed.demo import WAYS

    assert job.plan is not None and job.report is not None and job.choice is not None
    return {
        "out": None if out is None else str(out),
        "page": None if page is None else str(page),
        "drafter": drafter,
        "kept_size": job.plan.kept.size,
        "head_bytes_before": job.plan.head_bytes_before,
        "head_bytes_after": job.plan.head_bytes_after,
        "verdict": job.choice.verdict,
        "ok": job.report.ok,
        "prompts": found[0].questions,
        "different_answers": len(run.differences),
        "sides": {
            name: {
                "head_rows": way.kept_size,
                "tokens": way.summary.emitted,
                "target_passes": way.summary.rounds,
                "block_efficiency": way.summary.block_efficiency,
                "mbsu": way.mbsu,
                "draft_seconds": way.summary.draft_seconds,
                "target_seconds": way.summary.target_seconds,
                "tokens_per_second": way.summary.tokens_per_second,
            }
            for name, way in zip(WAYS, found, strict=True)
        },
    }
