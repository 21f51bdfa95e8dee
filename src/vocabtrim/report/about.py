"""What was run, on what and with which versions: names and values, for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..calibrate.counts import TokenCounts
from .summary import RunSummary
from .words import number, share

_HASH = 12  # characters of a hash that are shown


def facts_of_run(run: RunSummary) -> list[tuple[str, str]]:
    """Out of the first line of a run."""
    identity, made = run.header["identity"], run.header["made"]
    names = ", ".join(f"{told['name']} ({told['kind']})" for told in run.header["methods"] if told["kind"])
    told = [
        ("target", f"{run.header['target']}, weights {_short(identity.get('target'))}"),
        ("drafters", names),
        ("questions", f"{run.questions}, {_short(made.get('inputs', {}).get('questions'))}"),
        ("answers", _answers(identity)),
        ("drafts", _drafts(identity)),
        ("arithmetic", f"{identity.get('dtype')} on {identity.get('device')}, {_threads(made)}"),
        ("tokenizer", _short(identity.get("tokenizer"))),
        ("measured", f"{made.get('created')} on {made.get('machine')}"),
        ("versions", f"{_tool(made)}, torch {made.get('torch')}, Python {made.get('python')}"),
    ]
    if run.failed:
        reasons = "; ".join(f"{failure.question}: {failure.reason}" for failure in run.failed[:5])
        told.append(("failed questions", f"{len(run.failed)}: {reasons}"))
    return told


def facts_of_page(counted: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of the counts, as `facts_of_counts` tells them, and of the page itself."""
    sources = [
        (
            "counted text" if place == 0 else "then",
            f"{', '.join(told['sources'])}: {told['tokens']:,} tokens, {share(told['held_out'])} held out, "
            f"{number(told['documents'], 'document')}, {_short(told['hash'])}",
        )
        for place, told in enumerate(counted)
    ]
    runs = [f"{label} {_short(digest)}" for label, digest in made["inputs"].items()]
    return [*sources, ("runs", ", ".join(runs)), ("written", f"{made['created']} by {_tool(made)}")]


def facts_of_counts(counts: TokenCounts) -> dict[str, Any]:
    """What a page and a program are told of a counts file."""
    return {
        "sources": [f"{source.name} ({source.origin})" for source in counts.sources],
        "tokens": counts.tokens,
        "held_out": int(counts.heldout.sum()) / max(counts.tokens, 1),
        "documents": counts.documents,
        "hash": counts.hash,
    }


def _answers(identity: Mapping[str, Any]) -> str:
    told = [f"up to {identity.get('max_new_tokens')} tokens"]
    if identity["temperature"] == 0:
        told.append("greedy")
    else:
        told.append(f"temperature {identity['temperature']:g}, seed {identity.get('seed')}")
        told += [f"top-k {identity['top_k']}"] if identity.get("top_k") else []
        told += [f"top-p {identity['top_p']}"] if identity.get("top_p", 1) != 1 else []
    return ", ".join([*told, "chat template" if identity.get("chat") else "plain prompts"])


def _drafts(identity: Mapping[str, Any]) -> str:
    named = (("length", "draft_length"), ("nodes", "nodes"), ("branching", "branching"))
    told = [f"{name} {identity[key]}" for name, key in named if identity.get(key) is not None]
    return ", ".join(told) or "as each drafter's kind drafts by default"


def _threads(made: Mapping[str, Any]) -> str:
    threads = made.get("arguments", {}).get("threads")
    return number(threads, "thread") if isinstance(threads, int) else "threads unknown"


def _tool(made: Mapping[str, Any]) -> str:
    commit = made.get("git_commit")
    state = "" if commit is None else f" ({_short(commit)}{', changed' if made.get('git_dirty') else ''})"
    return f"vocabtrim {made.get('version')}{state}"


def _short(value: object) -> str:
    return "unknown" if value is None else str(value)[:_HASH]
