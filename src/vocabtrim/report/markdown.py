"""A summary as Markdown that can be pasted into a README: the verdict, what was measured, and by category."""

from __future__ import annotations

from collections.abc import Sequence

from ..measure.figures import OVERALL
from ..measure.records import AUTOREGRESSIVE, FULL
from . import findings
from .about import facts_of_run
from .escape import markdown
from .summary import RunSummary
from .words import interval, share, size


def as_markdown(runs: Sequence[RunSummary], pictures: Sequence[tuple[str, str]] = ()) -> str:
    """pictures: (alt text, address as it is to stand there)."""
    parts = [f"**{markdown(findings.joint_headline(runs))}.**"]
    for run in runs:
        told = findings.verdict(run)
        if len(runs) > 1:
            parts.append(f"### {markdown(run.label)}")
        parts.append(markdown(" ".join(filter(None, (told.sentence, told.beside, told.caution)))))
        parts.append(_methods(run))
        if len(run.figures) > 2 and run.pick in run.over_full:
            parts.append(_categories(run))
        parts.append("; ".join(f"{name}: {markdown(value)}" for name, value in facts_of_run(run)) + ".")
    parts += [f"![{markdown(alt)}](<{address}>)" for alt, address in pictures]
    return "\n\n".join(parts) + "\n"


def _methods(run: RunSummary) -> str:
    columns = (
        "",
        "head rows",
        "tokens per pass",
        "MBSU",
        "over target alone",
        "over full head",
        "outside head",
        "reads",
    )
    rows = []
    for name, of in run.overall.items():
        step, compared = run.steps.get(name), run.over_full.get(name)
        if step is None:
            continue
        rows.append(
            (
                f"**{markdown(name)}**" if name == run.pick else markdown({FULL: "full head"}.get(name, name)),
                f"{of.kept_size or 0:,}",
                f"{of.summary.block_efficiency:.2f}",
                f"{of.mbsu:.2f}",
                f"{of.speedup:.2f} ({interval(of.speedup_interval)})",
                "1.00" if compared is None else f"{compared.speed:.2f} ({interval(compared.speed_interval)})",
                share(of.outside),
                size(step.bytes),
            )
        )
    speed = run.overall[AUTOREGRESSIVE].summary.tokens_per_second
    return f"{_table(columns, rows)}\n\nThe target alone writes {speed:.1f} tokens per second. In brackets 95 %."


def _categories(run: RunSummary) -> str:
    assert run.pick is not None
    rows = []
    for category, by_method in [*list(run.figures.items())[1:], (OVERALL, run.overall)]:
        of, compared = by_method[run.pick], run.pick_over_full[category]
        rows.append(
            (
                markdown(category),
                str(of.questions),
                f"{of.summary.block_efficiency:.2f}",
                f"{compared.speed:.2f} ({interval(compared.speed_interval)})",
                share(of.outside),
            )
        )
    return _table(("", "questions", "tokens per pass", "over full head", "outside head"), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
