"""RUN folders -> the page and what is asked for beside it; nothing is written before everything is read and proven.

Puts the parts in order; every step is another module's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..calibrate.counts import TokenCounts
from ..calibrate.tokenizer import open_tokenizer
from ..errors import MismatchError, OutputError
from ..measure.records import ROUNDS, Run
from ..provenance import Kind, birth_certificate, refuse_replacing, sha256_file, write_file
from . import findings
from .about import facts_of_counts
from .html import page
from .markdown import as_markdown
from .plots import Plot, as_png, as_svg, draw
from .runs import open_runs
from .summary import RunSummary, summarise_runs
from .token_text import readable

_IN_MARKDOWN = ("block-efficiency", "speed-up")


@dataclass(frozen=True, eq=False)
class Written:
    """What was written. beside: files other than the page."""

    out: Path
    runs: tuple[RunSummary, ...]
    beside: tuple[Path, ...]

    def verdict_lines(self) -> Iterator[str]:
        """The verdict of every run."""
        for run in self.runs:
            told = findings.verdict(run)
            label = f"{run.label}: " if len(self.runs) > 1 else ""
            yield f"{label}{' '.join(filter(None, (told.sentence, told.beside, told.caution)))}"

    def as_object(self) -> dict[str, Any]:
        """For programs."""
        return {
            "out": str(self.out),
            "bytes": self.out.stat().st_size,
            "beside": [str(path) for path in self.beside],
            "headline": findings.joint_headline(self.runs),
            "runs": [_run_object(run) for run in self.runs],
        }


def write(
    folders: Sequence[Path],
    out: Path,
    *,
    counts: Sequence[Path] = (),
    tokenizer: str | Path | None = None,
    plots: Path | None = None,
    markdown: Path | None = None,
) -> Written:
    """Write the page of some runs. counts: the primary first. tokenizer: as `load_tokenizer` takes it.

    plots: folder for SVG and PNG of every plot. markdown: file for a README.
    Raises what `open_runs`, `summarise_runs`, `TokenCounts.load` and `open_tokenizer` raise, MismatchError for a
    tokenizer that is not the runs', OutputError for an output that holds something else; nothing is written then.
    """
    inputs = [*(folder / ROUNDS for folder in folders), *counts]
    refuse_replacing(out, "page", inputs)
    if markdown is not None:
        refuse_replacing(markdown, "markdown", inputs)
    runs = open_runs(folders)
    loaded = [TokenCounts.load(path) for path in counts]
    labels = _labels(folders, runs)
    summaries = summarise_runs(dict(zip(labels, runs, strict=True)), loaded)
    tokens = _tokens(tokenizer, summaries)
    drawn = {run.label: draw(run) for run in summaries}
    hashes = {label: sha256_file(folder / ROUNDS) for label, folder in zip(labels, folders, strict=True)}
    made = birth_certificate({"verb": "report"}, hashes)
    content = page(summaries, drawn, tokens, [facts_of_counts(part) for part in loaded], made)
    files: list[tuple[Path, bytes, Kind]] = [] if plots is None else list(_pictures(plots, drawn))
    if markdown is not None:
        shown = _shown_in_markdown(markdown, [path for path, _, _ in files], drawn)
        files.append((markdown, as_markdown(summaries, shown).encode("utf-8", "replace"), "markdown"))
    _refuse_clashes(out, [path for path, _, _ in files])
    for path, _, kind in files:
        refuse_replacing(path, kind, inputs)
    write_file(out, content, "page")
    for path, content, kind in files:
        write_file(path, content, kind)
    return Written(out, tuple(summaries), tuple(path for path, _, _ in files))


def _labels(folders: Sequence[Path], runs: Sequence[Run]) -> list[str]:
    """What tells the runs apart: how answers were drawn, and the folder where that is not enough."""
    temperatures = [run.header["identity"]["temperature"] for run in runs]
    drawn = ["greedy" if t == 0 else f"temperature {t:g}" for t in temperatures]
    if len(set(drawn)) < len(drawn):
        drawn = [f"{folder.resolve().name}, {label}" for folder, label in zip(folders, drawn, strict=True)]
    if len(set(drawn)) < len(drawn):
        drawn = [f"{label} ({place})" for place, label in enumerate(drawn, start=1)]
    return drawn


def _tokens(tokenizer: str | Path | None, runs: Sequence[RunSummary]) -> dict[int, str]:
    """Id -> text of all lost ids; empty without a tokenizer."""
    if tokenizer is None:
        return {}
    opened = open_tokenizer(tokenizer)
    expected = runs[0].header["identity"].get("tokenizer")
    if opened.facts.hash != expected:
        raise MismatchError(
            "--tokenizer is not the one of the runs",
            expected=f"tokenizer hash {expected}",
            found=opened.facts.hash,
            remedy="pass the target's own",
        )
    lost = {lost.token for run in runs if run.lost is not None for lost in run.lost.tokens}
    return {token: readable(opened, token) for token in lost}


def _pictures(folder: Path, drawn: dict[str, list[Plot]]) -> Iterator[tuple[Path, bytes, Kind]]:
    """File, content and kind of every picture, twice; numbered by run where there are several."""
    for number, plots in enumerate(drawn.values(), start=1):
        for plot in plots:
            name = plot.name if len(drawn) == 1 else f"{plot.name}-{number}"
            yield folder / f"{name}.svg", as_svg(plot), "plot"
            yield folder / f"{name}.png", as_png(plot), "plot"


def _shown_in_markdown(markdown: Path, pictures: Sequence[Path], drawn: dict[str, list[Plot]]) -> list[tuple[str, str]]:
    """Alt text and address, from where the Markdown lies, of the pictures that it shows."""
    drawings = [plot for plots in drawn.values() for plot in plots]
    svgs = [path for path in pictures if path.suffix == ".svg"]
    start = markdown.resolve().parent
    return [
        (plot.alt, Path(os.path.relpath(path.resolve(), start)).as_posix())
        for plot, path in zip(drawings, svgs, strict=False)
        if plot.name in _IN_MARKDOWN
    ]


def _refuse_clashes(out: Path, files: Sequence[Path]) -> None:
    places = [path.resolve() for path in (out, *files)]
    if len(set(places)) < len(places):
        raise OutputError("two outputs go into one file", found=str(out), remedy="give each a name of its own")


def _run_object(run: RunSummary) -> dict[str, Any]:
    told = findings.verdict(run)
    return {
        "label": run.label,
        **{name: getattr(told, name) for name in ("kind", "headline", "sentence", "beside", "caution")},
        "questions": run.questions,
        "failed": len(run.failed),
        "pick": run.pick,
        "kept_size": None if run.pick is None else run.overall[run.pick].kept_size,
        "over_full": {name: asdict(compared) for name, compared in run.over_full.items()},
        "outside": None if run.lost is None else run.lost.times / run.lost.emitted,
        "outside_in_prompt": None if run.lost is None else run.lost.in_prompt,
        "predicted_best": None if run.sizes is None else run.sizes.best,
    }
