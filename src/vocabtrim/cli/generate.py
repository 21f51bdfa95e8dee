"""`vocabtrim generate`: one answer of a target, drafted and verified, with the numbers behind it."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from . import options
from .screen import Json, print_json, print_table, tell_what_is_done

if TYPE_CHECKING:
    from rich.console import Console

    from ..decoding.generate import Generation
    from ..decoding.text import Piece
    from ..measure.metrics import Summary

ACCEPTED = "green"
_INTERRUPTED = "interrupted"


def generate(
    prompt: Annotated[str, typer.Argument(help="What the target is asked; - reads standard input.")],
    *,
    target: Annotated[str, typer.Option(help="The target: local folder or hub id.")],
    drafter: Annotated[
        str | None, typer.Option(help="The drafter, full or trimmed: local folder or hub id. Default: none.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The target's tokenizer, where it is not in its folder.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens to emit.")] = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="Repeats a sampled run. Default: drawn, and told.")
    ] = None,
    draft_length: options.DraftDepth = None,
    nodes: options.Nodes = None,
    branching: options.Branching = None,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16 or float64, for target and drafter.")
    ] = "bfloat16",
    device: Annotated[str, typer.Option(help="Where both are: cpu, cuda, cuda:1.")] = "cpu",
    stop: Annotated[
        list[str] | None, typer.Option(metavar="STRING", help="End the answer before this string; may be repeated.")
    ] = None,
    no_chat: Annotated[
        bool, typer.Option("--no-chat", help="Take the prompt as it is, without the target's chat template.")
    ] = False,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on behind stop ids.")] = False,
    plain: options.Plain = False,
    json: Json = False,
) -> None:
    """Let a target answer a prompt, with or without a drafter.

    The text is the target's own, whatever drafts: greedy token for token (on the plain path only in float32: in
    bfloat16 two tokens that are equal up to rounding may change places), sampled by the same distribution. It comes
    as it is made, with accepted drafts in colour on a terminal; then the numbers. Ctrl-C ends it early, exit code 130.

    Example: vocabtrim generate "Why is the sky blue?" --target Llama-3.1-8B-Instruct/ --drafter trimmed/
    """
    from ..decoding.generate import generate as generate_text
    from ..decoding.sampling import Sampling

    quiet()
    generation = generate_text(
        _standard_input() if prompt == "-" else prompt,
        target=target,
        drafter=drafter,
        tokenizer=tokenizer,
        chat=not no_chat,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature, top_k, top_p),
        seed=seed,
        draft_length=draft_length,
        nodes=nodes,
        branching=branching,
        stop_strings=stop or (),
        ignore_stop_ids=ignore_eos,
        dtype=dtype,
        device=device,
        lean=not plain,
    )
    tell_notes(generation.notes)
    interrupted = _follow(generation, _silently if json else piece_printer(drafting=generation.kind is not None))
    _tell(generation, interrupted, json)
    if interrupted:
        raise typer.Exit(130)


def tell_notes(notes: Iterable[str]) -> None:
    """What was taken from a `tuned.json`, on stderr."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr, flush=True)


def _follow(generation: Generation, show: Callable[[Iterable[Piece]], None]) -> bool:
    """Show the text as it comes; whether Ctrl-C ended it."""
    try:
        show(generation)
    except KeyboardInterrupt:
        show(generation.break_off())
        return True
    return False


def _silently(pieces: Iterable[Piece]) -> None:
    for _ in pieces:
        pass


def piece_printer(*, drafting: bool) -> Callable[[Iterable[Piece]], None]:
    """What shows text on stdout: with accepted drafts in colour and a legend on a terminal, plain elsewhere."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        return _write
    if drafting and console.color_system is not None and not console.no_color:
        console.print(f"[{ACCEPTED}]drafted and accepted[/], the target's own\n")
    return lambda pieces: _colour(console, pieces)


def _write(pieces: Iterable[Piece]) -> None:
    for piece in pieces:
        sys.stdout.write(piece.text)
        sys.stdout.flush()


def _colour(console: Console, pieces: Iterable[Piece]) -> None:
    """As segments: text would be wrapped at words and its tabs replaced, which a stream cannot have."""
    from rich.segment import Segment, Segments
    from rich.style import Style

    accepted, own = Style.parse(ACCEPTED), Style.null()
    for piece in pieces:
        segment = Segment(harmless(piece.text), accepted if piece.accepted else own)
        console.print(Segments([segment]), end="", crop=False, soft_wrap=True)


def harmless(text: str) -> str:
    """Without what would command a terminal or turn its writing round: a model may write anything."""
    return "".join("�" if _commands(character) else character for character in text)


def _commands(character: str) -> bool:
    """A control character, half a surrogate pair, or one that sets the direction of writing."""
    if character in "\n\t":
        return False
    return (
        unicodedata.category(character) in {"Cc", "Cs"}
        or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def _tell(generation: Generation, interrupted: bool, json: bool) -> None:
    from ..measure.metrics import summarise

    summary = summarise(generation.rounds)
    ended = _INTERRUPTED if interrupted or generation.ended is None else generation.ended.value
    if json:
        print_json(_as_object(generation, summary, ended))
    else:
        print("\n")
        title = "no drafter" if generation.kind is None else f"{generation.kind} drafter"
        print_table(title, ["", "numbers"], _rows(generation, summary, ended))


def _as_object(generation: Generation, summary: Summary, ended: str) -> dict[str, Any]:
    return {
        "text": generation.text,
        "token_ids": generation.token_ids,
        "ended": ended,
        "kind": generation.kind,
        "notes": list(generation.notes),
        "seed": generation.seed,
        "prompt_tokens": generation.prompt_tokens,
        "rounds": summary.rounds,
        "emitted": summary.emitted,
        "drafted": summary.drafted,
        "accepted": summary.accepted,
        "block_efficiency": summary.block_efficiency,
        "acceptance_by_depth": list(summary.acceptance_by_depth),
        "tokens_per_second": summary.tokens_per_second,
        "prompt_seconds": generation.prompt_seconds,
        "draft_seconds": summary.draft_seconds,
        "target_seconds": summary.target_seconds,
        "seconds": summary.seconds,
        "computed_by": generation.way(),
    }


def _rows(generation: Generation, summary: Summary, ended: str) -> list[tuple[str, str]]:
    drafted = [
        ("accepted of drafted tokens", f"{summary.accepted:,} of {summary.drafted:,}"),
        ("acceptance by depth", " ".join(f"{share:.2f}" for share in summary.acceptance_by_depth) or "-"),
        ("drafting", f"{summary.draft_seconds:.2f} s"),
    ]
    sampled = [] if generation.seed is None else [("seed", str(generation.seed))]
    return [
        ("emitted tokens", f"{summary.emitted:,}"),
        ("rounds, one target pass each", f"{summary.rounds:,}"),
        ("block efficiency", f"{summary.block_efficiency:.2f}"),
        *([] if generation.kind is None else drafted),
        ("target passes", f"{summary.target_seconds:.2f} s"),
        ("tokens per second", f"{summary.tokens_per_second:.1f}"),
        (f"reading {generation.prompt_tokens:,} tokens of prompt", f"{generation.prompt_seconds:.2f} s"),
        *sampled,
        ("computed by", generation.way()),
        ("ended by", ended),
    ]


def _standard_input() -> str:
    """All of it, without the last line break, which `echo` puts there. Raises InputError where it is no UTF-8."""
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError("standard input is no text", expected="UTF-8", found=error, remedy="convert it") from error


def quiet() -> None:
    """No bars and warnings of libraries between the lines; what goes wrong is said by our own errors."""
    import warnings

    from transformers.utils import logging

    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tell_what_is_done()
