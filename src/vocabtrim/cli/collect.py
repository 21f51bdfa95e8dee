"""`vocabtrim collect`: prompts -> completions.jsonl, written by the target."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from . import options
from .generate import quiet
from .screen import Json, print_json, print_table

if TYPE_CHECKING:
    from ..collecting.work import Collected, Seen

_MOST_FAILURES = 5  # shown
_QUIET = 30  # seconds between lines in a log
_ENDED = {
    "prompts": "all prompts are answered",
    "budget": "the budget of --max-tokens is reached",
    "flat": "held-out coverage does not rise any more",
}


def collect(
    prompts: Annotated[
        list[Path],
        typer.Argument(
            metavar="PROMPTS...",
            help="Spec-Bench's question file, HumanEval, GSM8K, MBPP, or JSON lines with a prompt or a chat.",
        ),
    ],
    *,
    target: Annotated[str | None, typer.Option(help="The target, decoded here: local folder or hub id.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Or an OpenAI-compatible server: its address, up to /v1.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the answers go; what was cut off goes on.")] = Path(
        "completions.jsonl"
    ),
    tokenizer: Annotated[str | None, typer.Option(help="The target's tokenizer: needed with --endpoint.")] = None,
    drafter: Annotated[
        str | None, typer.Option(help="A drafter for --target: drafts, and its proposals are noted.")
    ] = None,
    proposals: Annotated[
        Path | None, typer.Option(help="Counts of what the drafter proposed, accepted and rejected apart.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name at the server. Default: its only one.")] = None,
    api: Annotated[str, typer.Option(help="chat, or completions: prompts are rendered here.")] = "chat",
    extra: Annotated[
        str | None, typer.Option(metavar="JSON", help="Fields of every request, as chat_template_kwargs.")
    ] = None,
    categories: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many prompts of each file, of all categories.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each prompt.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")] = 512,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Repeats a sampled run.")] = 0,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Stop when so many tokens are collected.")] = None,
    until_flat: Annotated[
        float | None,
        typer.Option(help="Stop when the second half of the text raised held-out coverage by less, as 0.001."),
    ] = None,
    loop_ratio: Annotated[
        float, typer.Option(min=0, help="Leave out answers that zlib shrinks more than so many times; 0: none.")
    ] = 8.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 16,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the next piece of an answer.")] = 120.0,
    patience: Annotated[
        float, typer.Option(min=0, help="Seconds without any answer, after which a server is given up.")
    ] = 600.0,
    draft_length: options.DraftDepth = None,
    nodes: options.Nodes = None,
    branching: options.Branching = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64, of --target.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="Where --target is: cpu, cuda, cuda:1.")] = "cpu",
    no_chat: Annotated[
        bool, typer.Option("--no-chat", help="Take prompts as they are, without the target's chat template.")
    ] = False,
    plain: options.Plain = False,
    json: Json = False,
) -> None:
    """Let the target write calibration text: answers to prompts, by a local model or a server.

    The same command goes on with what was cut off: it loses at most the answers in flight and repeats none. A server's
    key is read from VOCABTRIM_API_KEY, else OPENAI_API_KEY. Exit 1 where a prompt was not answered.

    Example: vocabtrim collect question.jsonl --target Llama/ --drafter EAGLE/ --out completions.jsonl
    """
    from ..collecting.collect import collect as collect_answers
    from ..collecting.tally import Until
    from ..decoding.sampling import Sampling
    from ..measure.methods import Settings

    quiet()
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
    with _kept_when_interrupted(out), _progress() as seen:
        collected = collect_answers(
            prompts,
            out=out,
            target=target,
            endpoint=endpoint,
            tokenizer=tokenizer,
            drafter=drafter,
            proposals=proposals,
            model=model,
            api="completions" if no_chat else api,
            extra=_fields(extra),
            settings=settings,
            samples=samples,
            categories=None if categories is None else categories.split(","),
            limit=limit,
            until=Until(max_tokens, until_flat),
            loop_ratio=loop_ratio,
            concurrency=concurrency,
            timeout=timeout,
            patience=patience,
            seen=seen,
        )
    if json:
        print_json(as_object(collected, out))
    else:
        tell(collected, out, proposals)
    if collected.failed:
        raise typer.Exit(1)


def _fields(extra: str | None) -> dict[str, Any] | None:
    if extra is None:
        return None
    try:
        found = json_text.loads(extra)
    except (ValueError, RecursionError) as error:
        raise InputError("--extra is no JSON", found=error, remedy="""pass an object, as '{"min_p": 0.1}'""") from error
    if not isinstance(found, dict):
        raise InputError("--extra is no JSON object", found=extra[:80], remedy="""pass one, as '{"min_p": 0.1}'""")
    return found


@contextmanager
def _kept_when_interrupted(out: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if out.exists():
            print(f"vocabtrim: all answers so far are in {out}; the same command goes on", file=sys.stderr)
        raise


@contextmanager
def _progress() -> Iterator[Seen]:
    """A bar on stderr with tokens per second and the time left; a line now and then where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    last = [monotonic()]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("collecting", total=1.0)

        def seen(state: Collected) -> None:
            told = f"{state.tally.answers:,} of {state.wanted:,} answers, {_per_second(state):,.0f} tokens/s"
            told += f", {len(state.failed):,} failed" if state.failed else ""
            progress.update(task, completed=state.share, description=told)
            if progress.disable and monotonic() - last[0] >= _QUIET:
                last[0] = monotonic()
                left = progress.tasks[task].time_remaining
                print(told + (f", {left:,.0f} s left" if left else ""), file=sys.stderr, flush=True)

        yield seen


def _per_second(state: Collected) -> float:
    return state.tokens / max(state.seconds, 1e-9)


def tell(state: Collected, out: Path, proposals: Path | None) -> None:
    """A run for people."""
    from ..collecting.tally import IDS_FROM

    tally = state.tally
    rows = [
        ("answers", f"{tally.answers:,} of {state.wanted:,}, {state.answers:,} of them now"),
        ("tokens", f"{tally.tokens:,}"),
        *((f"ids {IDS_FROM[way]}", f"{number:,} answers") for way, number in tally.ids_from.items()),
        *((f"left out: {reason}", f"{number:,}") for reason, number in tally.left_out.items()),
        *([("prompts that stood there again", f"{state.again:,}")] if state.again else []),
        ("held-out coverage of the ids seen", _share(tally.coverage)),
        ("of which by the second half", _share(tally.gain)),
        ("tokens per second", f"{_per_second(state):,.1f}" if state.answers else "-"),
    ]
    print_table(state.way or "Collected", ["", "numbers"], rows)
    for failure in state.failed[:_MOST_FAILURES]:
        print(f"failed: {failure.question}, turn {failure.turn}: {failure.reason}")
    if state.failed:
        print(f"{len(state.failed)} prompts have no answer; the same command asks them again.")
    others = "all other prompts are answered" if state.failed and state.ended == "prompts" else None
    print(f"Ended because {others or _ENDED[state.ended or 'prompts']}.")
    print(f"The answers are in {out}" + ("." if proposals is None else f", the proposals counted in {proposals}."))


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def as_object(state: Collected, out: Path) -> dict[str, Any]:
    """A run for programs."""
    tally = state.tally
    return {
        "out": str(out),
        "answers": tally.answers,
        "wanted": state.wanted,
        "now": state.answers,
        "tokens": tally.tokens,
        "tokens_per_second": _per_second(state) if state.answers else None,
        "ids_from": dict(tally.ids_from),
        "left_out": dict(tally.left_out),
        "again": state.again,
        "coverage": tally.coverage,
        "gain": tally.gain,
        "ended": state.ended,
        "way": state.way,
        "failed": [{"question": one.question, "turn": one.turn, "reason": one.reason} for one in state.failed],
    }
