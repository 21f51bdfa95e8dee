"""`vocabtrim count`: calibration text -> counts.safetensors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .screen import Json, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from ..calibrate.count import OnProgress, Progress
    from ..calibrate.counts import SourceCounts, TokenCounts


def count(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Text, JSON lines, JSON or Parquet, compressed or not: files, folders, 'globs', s3:// and other "
            "stores, or - for standard input. Say who wrote it in front: target-generated:answers.jsonl",
        ),
    ],
    *,
    tokenizer: Annotated[str, typer.Option(help="The target's tokenizer: folder, tokenizer.json or hub id.")],
    out: Annotated[Path, typer.Option(help="Where to write the counts.")] = Path("counts.safetensors"),
    text_field: options.TextField = None,
    prompt_field: options.PromptField = None,
    completion_field: options.CompletionField = None,
    chat: options.ChatOnly = False,
    origin: options.Origin = "raw",
    heldout: options.HeldOut = 0.1,
    split_by: Annotated[
        str | None,
        typer.Option(metavar="language|FIELD", help="A source per language, or per value of a field of the records."),
    ] = None,
    workers: options.Workers = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at what cannot be read instead of skipping.")] = False,
    engine: Annotated[str, typer.Option(help="local, or ray: the same on Ray Data, on many machines.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="The Ray cluster's. Default: RAY_ADDRESS, else a Ray of this machine's own.")
    ] = None,
    json: Json = False,
) -> None:
    """Count the tokens of calibration text.

    Of chats and of prompt and completion only what the target writes is counted, each turn's stop token included.

    Example: vocabtrim count answers.jsonl raw:wiki/*.txt --tokenizer Llama-3.2-3B-Instruct --out counts.safetensors
    """
    from ..calibrate.sources import find_sources
    from ..provenance import refuse_replacing

    texts = [file for source in find_sources(sources, origin) for file in source.files if isinstance(file, Path)]
    refuse_replacing(out, "counts", [*texts, tokenizer, Path(tokenizer) / "tokenizer.json"])
    with counting(workers) as on_progress:
        from ..calibrate.count import count as count_tokens

        counts = count_tokens(
            sources,
            tokenizer=tokenizer,
            text_field=text_field,
            prompt_field=prompt_field,
            completion_field=completion_field,
            chat=chat,
            origin=origin,
            heldout=heldout,
            split_by=split_by,
            workers=workers,
            strict=strict,
            engine=engine,
            ray_address=ray_address,
            on_progress=on_progress,
        )
    counts.save(out)
    if json:
        print_json({"out": str(out), **as_object(counts)})
    else:
        print_counts(counts)
        print(f"\nwrote {out}")


@contextmanager
def counting(workers: int | None) -> Iterator[OnProgress]:
    """A progress bar for `count`, and the number of threads told to the library that tokenises."""
    if workers:
        os.environ.setdefault("RAYON_NUM_THREADS", str(workers))  # read once, when `tokenizers` is loaded
    with progress_bar() as bar:
        task = bar.add_task("counting", total=None)

        def show(progress: Progress) -> None:
            rate = progress.tokens / max(progress.seconds, 1e-9)
            bar.update(
                task,
                total=progress.bytes_known or None,
                completed=progress.bytes_read,
                description=f"counting, {rate / 1e6:.1f}M tokens/s",
            )

        yield show


def as_object(counts: TokenCounts) -> dict[str, Any]:
    """Counts as `--json` shows them, for count and merge alike; tokens and distinct include the held-out part."""
    return {
        "tokens": counts.tokens,
        "heldout_tokens": int(counts.heldout.sum()),
        "documents": counts.documents,
        "distinct": counts.distinct,
        "skipped": dict(counts.skipped),
        "vocab_size": counts.tokenizer.vocab_size,
        "tokenizer_hash": counts.tokenizer.hash,
        "counts_hash": counts.hash,
        "sources": [
            {
                "name": source.name,
                "origin": source.origin,
                "tokens": source.tokens,
                "heldout_tokens": int(source.heldout.sum()),
                "distinct": source.distinct,
                **source.details,
            }
            for source in counts.sources
        ],
    }


def print_counts(counts: TokenCounts) -> None:
    """The table per source, what was skipped, and how it was tokenised."""
    rows = [
        (source.name, source.origin, *_numbers(source.details.get("documents", 0), source)) for source in counts.sources
    ]
    if len(rows) > 1:
        rows.append(("together", "", *_numbers(counts.documents, counts)))
    print_table(
        f"Tokens of a vocabulary of {counts.tokenizer.vocab_size:,}",
        ("source", "origin", "documents", "tokens", "held out", "distinct"),
        rows,
    )
    for reason, number in counts.skipped.items():
        print(f"skipped {number:,}: {reason}")
    ways = {(source.details.get("encoder"), source.details.get("encoder_why")) for source in counts.sources}
    for way, why in sorted((way, why) for way, why in ways if way):
        print(f"tokenised by {way}: {why}")


def _numbers(documents: int, counted: SourceCounts | TokenCounts) -> tuple[str, ...]:
    numbers = (documents, counted.tokens, int(counted.heldout.sum()), counted.distinct)
    return tuple(f"{number:,}" for number in numbers)
