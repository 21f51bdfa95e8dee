"""`vocabtrim replay`: what kept vocabularies and a drafter would reach on recorded target output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .screen import Json, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..measure.metrics import Summary
    from ..measure.replay import Replayed, ReplayedVocabulary
    from ..measure.text_coverage import Covered, Lost

_LISTED = 50  # lost tokens of each vocabulary that a program is told
_SHOWN = 6  # and that people are
_PARTS = 20  # categories that people are shown


def replay(
    recorded: Annotated[
        list[Path],
        typer.Argument(help="Recorded target output: a folder of `bench --record`, a ZeroEval result, chats as JSONL."),
    ],
    *,
    drafter: Annotated[
        str | None, typer.Option(help="The drafter, full or trimmed: local folder or hub id. Default: text alone.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Its target, for drafters built on one and for MBSU; its layers are not loaded.")
    ] = None,
    kept: Annotated[
        list[Path] | None, typer.Option(metavar="MAP", help="A kept vocabulary or map of any dialect; may be repeated.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="The target's tokenizer, where it is not in a folder named above.")
    ] = None,
    draft_length: options.DraftDepth = None,
    nodes: options.Nodes = None,
    branching: options.Branching = None,
    by: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Tell apart by this field of a record. Default: category.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Replay so many generations of each recording.")] = None,
    keep_loops: Annotated[
        bool, typer.Option("--keep-loops", help="Take text that repeats itself to the end too, which is left out else.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64, for the drafter.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="Where the drafter is: cpu, cuda, cuda:1.")] = "cpu",
    plain: options.Plain = False,
    json: Json = False,
) -> None:
    """Tell exactly what drafts would have been accepted on recorded target output, for any number of kept vocabularies.

    Drafting is deterministic: a greedy chain or a tree. The drafter runs once; each kept vocabulary picks its rows out
    of the same scores. No target runs. Without --drafter: what the text alone says, how much of it could be drafted.

    Example: vocabtrim replay recorded/ --drafter eagle/ --target llama/ --kept 8k.safetensors --kept 16k.safetensors
    """
    from ..measure.replay import replay as replay_recorded
    from .generate import quiet

    quiet()
    with _counting() as seen:
        found = replay_recorded(
            recorded,
            drafter=drafter,
            target=target,
            kept=kept or (),
            tokenizer=tokenizer,
            draft_length=draft_length,
            nodes=nodes,
            branching=branching,
            group_by=by,
            limit=limit,
            keep_loops=keep_loops,
            dtype=dtype,
            device=device,
            lean=not plain,
            seen=seen,
        )
    if json:
        print_json(_as_object(found))
    else:
        _tell(found, by or "category")


@contextmanager
def _counting() -> Iterator[Callable[[int, int], None]]:
    """How far it is, on a terminal."""
    from rich.console import Console

    with Console(stderr=True).status("Opening") as status:
        yield lambda generations, tokens: status.update(f"{generations:,} generations, {tokens:,} tokens")


def _as_object(found: Replayed) -> dict[str, Any]:
    return {
        "generations": len(found.generations),
        "tokens": found.tokens,
        "kind": found.kind,
        "skipped": found.skipped,
        "kept": [_vocabulary(found, vocabulary) for vocabulary in found.kept],
    }


def _vocabulary(found: Replayed, vocabulary: ReplayedVocabulary) -> dict[str, Any]:
    text, summaries = vocabulary.text, found.by_category(vocabulary)
    return {
        "name": vocabulary.name,
        "kept_size": vocabulary.kept_size,
        **_sums(vocabulary.summary),
        "mbsu": vocabulary.mbsu,
        "coverage": text.overall.share,
        "by_source": _shares(text.by_source),
        "by_category": {name: told | _sums(summaries.get(name)) for name, told in _shares(text.by_category).items()},
        "by_place": _shares(text.by_stretch),
        "lost_in_prompt": text.lost_in_prompt,
        "lost": [_lost_token(found, lost) for lost in text.lost[:_LISTED]],
    }


def _lost_token(found: Replayed, lost: Lost) -> dict[str, Any]:
    text = found.token_text.get(lost.token)
    return {"id": lost.token, "text": text, "count": lost.count, "in_prompt": lost.in_prompt}


def _sums(summary: Summary | None) -> dict[str, Any]:
    if summary is None:
        return {"block_efficiency": None}
    return {
        "block_efficiency": summary.block_efficiency,
        "rounds": summary.rounds,
        "emitted": summary.emitted,
        "drafted": summary.drafted,
        "accepted": summary.accepted,
        "acceptance_by_depth": list(summary.acceptance_by_depth),
    }


def _shares(parts: Mapping[str, Covered]) -> dict[str, dict[str, Any]]:
    return {name: {"tokens": part.tokens, "coverage": part.share} for name, part in parts.items()}


def _tell(found: Replayed, field: str) -> None:
    drafts = found.kind is not None
    title, columns = "Kept vocabularies", ["", "kept ids", "coverage"]
    if drafts:
        title = f"{found.kind} drafter"
        columns += ["block efficiency", "target passes", "acceptance by depth", "MBSU"]
    print_table(title, columns, [_row(vocabulary) for vocabulary in found.kept])
    print(f"Replayed: {len(found.generations):,} generations, {found.tokens:,} tokens.")
    for name, number in found.skipped.items():
        print(f"Left out: {number:,} of {name}.")
    cut = [vocabulary for vocabulary in found.kept if vocabulary.text.lost]
    heads = [vocabulary.name for vocabulary in found.kept]
    if any(len(vocabulary.text.by_category) > 1 for vocabulary in found.kept):
        told = [_by_category(found, vocabulary) for vocabulary in found.kept]
        what = "block efficiency, coverage" if drafts else "coverage"
        _parts(f"By {field}: {what}", heads, [vocabulary.text.by_category for vocabulary in found.kept], told)
    if not cut:
        return
    names, texts = [vocabulary.name for vocabulary in cut], [vocabulary.text for vocabulary in cut]
    if len(texts[0].by_source) > 1:
        _parts("By source: coverage", names, [text.by_source for text in texts])
    _parts("By place in the output: coverage", names, [text.by_stretch for text in texts])
    lost = [_lost(found, vocabulary) for vocabulary in cut]
    print_table("Lost tokens", ["", "tokens", "ids", "in their own prompt", "most frequent"], lost)


def _row(vocabulary: ReplayedVocabulary) -> list[str]:
    row = [vocabulary.name, f"{vocabulary.kept_size:,}", _percent(vocabulary.text.overall)]
    summary = vocabulary.summary
    if summary is not None:
        depths = " ".join(f"{share:.2f}" for share in summary.acceptance_by_depth)
        predicted = "-" if vocabulary.mbsu is None else f"{vocabulary.mbsu:.2f}"
        row += [f"{summary.block_efficiency:.3f}", f"{summary.rounds:,}", depths or "-", predicted]
    return row


def _by_category(found: Replayed, vocabulary: ReplayedVocabulary) -> dict[str, str]:
    summaries = found.by_category(vocabulary)
    efficiency = {name: f"{summary.block_efficiency:.2f}, " for name, summary in summaries.items()}
    return {name: efficiency.get(name, "") + _percent(part) for name, part in vocabulary.text.by_category.items()}


def _parts(
    title: str,
    heads: list[str],
    parts: list[Mapping[str, Covered]],
    told: list[dict[str, str]] | None = None,
) -> None:
    """A row for each part, of the largest parts; a column for each vocabulary."""
    told = told or [{name: _percent(part) for name, part in column.items()} for column in parts]
    names = list(parts[0])
    if len(names) > _PARTS:
        names = sorted(names, key=lambda name: -parts[0][name].tokens)[:_PARTS]
        title += f", of {len(parts[0])} the {_PARTS} largest"
    rows = [[name or "-", f"{parts[0][name].tokens:,}", *(column[name] for column in told)] for name in names]
    print_table(title, ["", "tokens", *heads], rows)


def _lost(found: Replayed, vocabulary: ReplayedVocabulary) -> list[str]:
    from .generate import harmless

    text = vocabulary.text
    most = (
        f"{lost.count} x {harmless(found.token_text.get(lost.token, f'id {lost.token}'))!r}"
        for lost in text.lost[:_SHOWN]
    )
    tokens, share = text.overall.tokens - text.overall.covered, f"{100 * text.lost_in_prompt:.1f} %"
    return [vocabulary.name, f"{tokens:,}", f"{len(text.lost):,}", share, ", ".join(most)]


def _percent(part: Covered) -> str:
    return f"{100 * part.share:.2f} %"
