"""`vocabtrim bench`: the target alone, the full drafter and trimmed ones, side by side on a question file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic as time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from . import options
from .generate import quiet
from .screen import Json, print_json, print_table

if TYPE_CHECKING:
    from ..measure.figures import Figures
    from ..measure.records import Difference, Run

_MOST_DIFFERENCES = 5  # shown
_QUIET = 30  # seconds between lines in a log


def bench(
    *,
    target: Annotated[str, typer.Option(help="The target: local folder or hub id.")],
    questions: Annotated[
        Path, typer.Option(help="Spec-Bench's question file, HumanEval, GSM8K, or JSON lines with a prompt or a chat.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; one that was cut off goes on.")],
    drafter: Annotated[str | None, typer.Option(help="The full drafter: local folder or hub id.")] = None,
    trimmed: Annotated[list[str] | None, typer.Option(help="A trimmed drafter beside it; may be repeated.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The target's tokenizer, where it is not in its folder.")
    ] = None,
    categories: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many questions, of all categories in turn.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")] = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Repeats a sampled run.")] = 0,
    draft_length: options.DraftDepth = None,
    nodes: options.Nodes = None,
    branching: options.Branching = None,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16 or float64, for target and drafters.")
    ] = "bfloat16",
    device: Annotated[str, typer.Option(help="Where all are: cpu, cuda, cuda:1.")] = "cpu",
    no_chat: Annotated[
        bool, typer.Option("--no-chat", help="Take prompts as they are, without the target's chat template.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Record into this folder what the target alone emits, for `vocabtrim replay`.")
    ] = None,
    record_states: Annotated[
        bool, typer.Option("--record-states", help="With the hidden states that the drafters read.")
    ] = False,
    plain: options.Plain = False,
    json: Json = False,
) -> None:
    """Measure drafters on questions: block efficiency, speed-up with its interval, and whether the answers are equal.

    Methods take turns question by question, so that what the machine does befalls all alike. Rounds are recorded as
    they happen; the same command goes on with a run that was cut off. Exit 1 where a question failed.

    Example: vocabtrim bench --target Llama/ --drafter EAGLE/ --trimmed cut/ --questions question.jsonl --out run/
    """
    from ..decoding.sampling import Sampling
    from ..measure.bench import bench as measure
    from ..measure.figures import figures, kept_ids
    from ..measure.methods import Settings
    from ..measure.questions import questions as read_questions

    quiet()
    if record_states and record is None:
        raise InputError("there is no recording to put hidden states into", remedy="pass --record FOLDER too")
    asked = read_questions(questions, categories=None if categories is None else categories.split(","), limit=limit)
    settings = Settings(
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature, top_k, top_p),
        seed=seed,
        draft_length=draft_length,
        nodes=nodes,
        branching=branching,
        chat=not no_chat,
        dtype=dtype,
        device=device,
        lean=not plain,
    )
    with _progress() as seen:
        run = measure(
            target,
            asked,
            out=out,
            drafter=drafter,
            trimmed=trimmed or (),
            tokenizer=tokenizer,
            settings=settings,
            record=record,
            record_states=record_states,
            seen=seen,
        )
    found = figures(run, kept_ids(run))
    if json:
        print_json(as_object(run, found, out))
    else:
        tell(run, found, out)
    if run.failed:
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Callable[[Run, int, int], None]]:
    """A bar on stderr with every method's block efficiency so far; a line now and then where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..measure.metrics import summarise

    last = [time()]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("answers", total=None)

        def seen(run: Run, done: int, wanted: int) -> None:
            if progress.disable and (done % len(run.methods) or time() - last[0] < _QUIET):
                return
            last[0] = time()
            running = []
            for method in run.methods[1:]:
                answers = (answer for answer in run.generated.values() if answer.method == method)
                summary = summarise(round for answer in answers for round in answer.rounds)
                running.append(f"{method} {summary.block_efficiency:.2f}")
            told = "block efficiency: " + ", ".join(running)
            progress.update(task, completed=done, total=wanted, description=told)
            if progress.disable:
                print(f"{done} of {wanted} answers, {told}", file=sys.stderr, flush=True)

        yield seen


def tell(run: Run, found: dict[str, list[Figures]], out: Path) -> None:
    """Tables of a run for people."""
    (_, methods), *categories = found.items()
    identity = run.header["identity"]
    drawn = "greedy" if identity["temperature"] == 0 else f"temperature {identity['temperature']:g}"
    title = f"\n{methods[0].questions} questions, {identity['dtype']}, {drawn}"
    columns = ["", "head rows", "block efficiency", "MBSU", "tokens/s", "speed-up (95 %)", "outside head", "equal"]
    print_table(title, columns, [_row(figures) for figures in methods])
    drafting = [figures for figures in methods if figures.summary.drafted]
    if drafting:
        depths = max(len(figures.summary.drafted_at) for figures in drafting)
        rows = [
            (figures.method, *(f"{share:.2f}" for share in figures.summary.acceptance_by_depth)) for figures in drafting
        ]
        padded = [(*row, *[""] * (depths + 1 - len(row))) for row in rows]
        print_table("Acceptance by depth", ["", *map(str, range(1, depths + 1))], padded)
        per_round = [
            (figures.method, *(f"{1e3 * seconds / figures.summary.rounds:.1f} ms" for seconds in _stages(figures)))
            for figures in methods
            if figures.summary.rounds
        ]
        print_table("Time of a round", ["", "drafting", "target", "all"], per_round)
    if len(categories) > 1:
        cells = [
            (category, parts[0].questions, *(_cell(figures) for figures in parts[1:])) for category, parts in categories
        ]
        print_table("Block efficiency, speed-up", ["", "questions", *run.methods[1:]], cells)
    failed = {failure.question: failure for failure in reversed(run.failed.values())}  # the first of every question
    for failure in list(reversed(failed.values()))[:_MOST_DIFFERENCES]:
        print(f"failed: question {failure.question}, turn {failure.turn + 1}, {failure.method}: {failure.reason}")
    if failed:
        print(f"{len(failed)} {'question' if len(failed) == 1 else 'questions'} failed, in no figure.")
    for note in _notes(run):
        print(f"note: {note}")
    _tell_differences([found for figures in methods if figures.parity for found in figures.parity.differences])
    print(f"The run is in {out}.")


def _notes(run: Run) -> list[str]:
    """What methods draft by their `tuned.json`."""
    return [note for method in run.header["methods"] for note in method.get("notes", ())]


def _row(figures: Figures) -> tuple[str, ...]:
    low, high = figures.speedup_interval
    drafting = figures.kept_size is not None
    return (
        figures.method,
        f"{figures.kept_size:,}" if drafting else "-",
        f"{figures.summary.block_efficiency:.2f}",
        f"{figures.mbsu:.2f}",
        f"{figures.summary.tokens_per_second:.1f}",
        f"{figures.speedup:.2f} ({low:.2f} to {high:.2f})" if drafting else "1",
        f"{figures.outside:.1%}" if drafting else "-",
        "-" if figures.parity is None else f"{figures.parity.same} of {figures.parity.compared}",
    )


def _cell(figures: Figures) -> str:
    return f"{figures.summary.block_efficiency:.2f}  {figures.speedup:.2f}"


def _stages(figures: Figures) -> tuple[float, float, float]:
    return figures.summary.draft_seconds, figures.summary.target_seconds, figures.summary.seconds


def _tell_differences(differences: list[Difference]) -> None:
    for found in differences[:_MOST_DIFFERENCES]:
        gap = "one had ended" if found.gap is None else f"logits {found.gap:.3g} apart"
        where = f"question {found.question}, turn {found.turn + 1}, behind {found.at} equal tokens"
        print(f"{found.method} differs: {where}: {found.expected} became {found.found}, {gap}")
    if len(differences) > _MOST_DIFFERENCES:
        print(f"and {len(differences) - _MOST_DIFFERENCES} more")


def as_object(run: Run, found: dict[str, list[Figures]], out: Path) -> dict[str, Any]:
    """A run for programs."""
    (_, methods), *categories = found.items()
    return {
        "out": str(out),
        "questions": methods[0].questions,
        "failed": len({failure.question for failure in run.failed.values()}),
        "methods": [_method_object(figures) for figures in methods],
        "notes": _notes(run),
        "categories": {
            category: {"questions": parts[0].questions, "methods": [_method_object(figures) for figures in parts]}
            for category, parts in categories
        },
    }


def _method_object(figures: Figures) -> dict[str, Any]:
    from dataclasses import asdict

    summary, parity = figures.summary, figures.parity
    return {
        "name": figures.method,
        "kept_size": figures.kept_size,
        "block_efficiency": summary.block_efficiency,
        "block_efficiency_interval": list(figures.block_efficiency_interval),
        "acceptance_by_depth": list(summary.acceptance_by_depth),
        "mbsu": figures.mbsu,
        "tokens_per_second": summary.tokens_per_second,
        "speedup": figures.speedup,
        "speedup_interval": list(figures.speedup_interval),
        "outside": figures.outside,
        "emitted": summary.emitted,
        "rounds": summary.rounds,
        "draft_seconds": summary.draft_seconds,
        "target_seconds": summary.target_seconds,
        "seconds": summary.seconds,
        "prompt_seconds": figures.prompt_seconds,
        "parity": None
        if parity is None
        else {
            "compared": parity.compared,
            "same": parity.same,
            "differences": [asdict(found) for found in parity.differences],
        },
    }
