"""The page's pictures, drawn with matplotlib: SVG that takes the page's colours, and SVG and PNG as files.

Every colour is drawn as one of `COLOURS`; on the page each becomes a CSS variable, so that one drawing serves light and
dark. Text stays text. Knows what is drawn; what it means is said by findings.py. Needs the extra `report`.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError
from ..measure.records import FULL
from ..provenance import MARKS
from . import findings
from .sizes import SizePoint
from .summary import RunSummary
from .words import milliseconds, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# CSS variable -> colour on white. Blue, vermilion and green of Okabe and Ito's set are told apart by every eye; marks
# differ in shape and lines in dashes besides.
COLOURS = {
    "ink": "#1c2128",
    "muted": "#5c6570",
    "line": "#d9dee4",
    "soft": "#aab2bc",
    "trimmed": "#0072b2",
    "full": "#d55e00",
    "third": "#009e73",
    "surface": "#fefefe",
}
_WIDTH, _HEIGHT = 4.9, 3.1  # inches: a viewBox of 353 by 223, so that 9.5 units of text can be read on a phone
_FONT = 9.5
_DPI = 200  # of PNGs
_POINTS = 72  # of an inch
CURSOR = "cursor"  # the id of the line that the slider moves, behind the prefix of its picture


@dataclass(frozen=True)
class Plot:
    """A picture of one run. name: of its files. finding: its heading. alt: what it shows, for those who cannot see it.

    cursor: where the slider's line was drawn, as (kept size, units of the viewBox by doubling); None without one.
    """

    name: str
    run: str
    finding: str
    alt: str
    figure: Figure
    cursor: tuple[int, float] | None = None


def draw(run: RunSummary) -> list[Plot]:
    """All pictures of a run. Raises UnsupportedError without matplotlib."""
    with _style():
        curves = [
            _curve(run, "coverage", findings.coverage(run), "coverage", _coverage),
            _curve(run, "block-efficiency", findings.block_efficiency(run), "tokens per target pass", _efficiency),
            _curve(run, "mbsu", findings.mbsu(run), "MBSU, from bytes read", _mbsu),
            _curve(run, "speed-up", findings.speedup(run), "times as fast as the target alone", _speedup),
        ]
        return [*curves, _draft_step(run), _acceptance(run)]


def inline_svg(plot: Plot, prefix: str) -> str:
    """The picture as an element of a page: its colours are the page's, its ids begin with `prefix`."""
    svg = _saved(plot, "svg", transparent=True).decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)  # a style would be the page's
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    svg = re.sub(r"<svg[^>]*>", f"<svg {view[0]} aria-hidden='true'>", svg, count=1, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def as_svg(plot: Plot) -> bytes:
    """The picture as a file of its own, on white."""
    return _saved(plot, "svg", facecolor="white", metadata={"Creator": MARKS["plot"], "Date": None})


def as_png(plot: Plot) -> bytes:
    """Likewise, 980 by 620 pixels."""
    return _saved(plot, "png", facecolor="white", dpi=_DPI, metadata={"Software": MARKS["plot"]})


def _saved(plot: Plot, form: str, **how: Any) -> bytes:
    out = io.BytesIO()
    with _style():
        plot.figure.savefig(out, format=form, **how)
    return out.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    """Text as text, ids that are the same each time, our colours; a glyph that the font lacks is nobody's concern."""
    try:
        import matplotlib
    except ImportError as error:
        raise UnsupportedError(
            "a report's pictures need the matplotlib package", remedy="install it with: pip install 'vocabtrim[report]'"
        ) from error
    told: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "vocabtrim",
        "text.parse_math": False,  # a method's name may hold a dollar sign
        "font.family": "sans-serif",
        "font.size": _FONT,
        "text.color": COLOURS["ink"],
        "axes.labelcolor": COLOURS["muted"],
        "axes.edgecolor": COLOURS["line"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": COLOURS["line"],
        "grid.linewidth": 0.6,
        "xtick.color": COLOURS["line"],
        "ytick.color": COLOURS["line"],
        "xtick.labelcolor": COLOURS["muted"],
        "ytick.labelcolor": COLOURS["muted"],
        "legend.frameon": False,
        "legend.fontsize": _FONT - 0.5,
        "lines.linewidth": 1.6,
    }
    with warnings.catch_warnings(), matplotlib.rc_context(told):
        warnings.simplefilter("ignore")
        yield


def _axes() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    return figure, figure.add_subplot()


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, handlelength=1.8, columnspacing=1.2)


def _curve(run: RunSummary, name: str, finding: str, label: str, lines: Callable[[Axes, RunSummary], None]) -> Plot:
    """A quantity over the kept size, the full head at the right end, the picked size marked."""
    figure, axes = _axes()
    axes.set_xscale("log", base=2)
    low, high = _range(run)
    axes.set_xlim(low, high)
    _size_ticks(axes, low, high)
    axes.set(xlabel="ids in the drafter's head", ylabel=label)
    lines(axes, run)
    axes.margins(y=0.08)
    _legend(axes, 3)
    cursor = None
    if run.sizes is not None:
        start = starting_size(run)
        axes.axvline(start, color=COLOURS["ink"], linewidth=0.8, zorder=0).set_gid(CURSOR)
    _lay_out(figure)
    if run.sizes is not None:
        cursor = (start, float(axes.get_position().width * _WIDTH * _POINTS / math.log2(high / low)))
    alt = f"{label} over the kept size, run {run.label}. {finding}."
    return Plot(name, run.label, finding, alt, figure, cursor)


def _lay_out(figure: Figure) -> None:
    """Once and for all: whatever it is saved as, nothing in it moves."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def starting_size(run: RunSummary) -> int:
    """Where the slider stands at first: the judged head's size, the full head's where none is among the sizes."""
    assert run.sizes is not None
    judged = None if run.pick is None else run.overall[run.pick].kept_size
    return judged if judged is not None and judged in run.sizes.stops else run.sizes.stops[-1]


def _range(run: RunSummary) -> tuple[float, float]:
    kept = [of.kept_size for of in run.overall.values() if of.kept_size]
    if run.sizes is not None:
        kept += run.sizes.stops
    return min(kept) / 1.2, max(kept) * 1.25


def _size_ticks(axes: Axes, low: float, high: float) -> None:
    powers = [1 << power for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
    axes.set_xticks(powers[:: -(-len(powers) // 8)])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda kept, _: f"{kept / 1024:g}k" if kept >= 1024 else f"{kept:g}")


def _predicted(axes: Axes, run: RunSummary, value: Callable[[SizePoint], float | None], label: str, **how: Any) -> None:
    if run.sizes is None:
        return
    points = [(point.predicted.kept_size, told) for point in run.sizes.points if (told := value(point)) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **how)


_PREDICTION = {"color": COLOURS["muted"], "linewidth": 1.2, "linestyle": (0, (4, 2))}


def _measured(
    axes: Axes, run: RunSummary, value: Callable[[str], tuple[float, tuple[float, float] | None]], label: str
) -> None:
    """Trimmed heads as dots, the full one as a square at its own size and a line across, with 95 % intervals."""
    groups: list[tuple[Sequence[str], str, str, str]] = [(run.trimmed, "trimmed", "o", label)]
    if run.full:
        groups.append(([FULL], "full", "s", "full head"))
    for names, colour, marker, said in groups:
        if not names:
            continue
        kept = [run.overall[name].kept_size or 0 for name in names]
        told = [value(name) for name in names]
        points = [point for point, _ in told]
        ends = [(point, point) if within is None else within for point, within in told]
        errors = [
            [max(point - low, 0) for point, (low, _) in zip(points, ends, strict=True)],
            [max(high - point, 0) for point, (_, high) in zip(points, ends, strict=True)],
        ]
        axes.errorbar(
            kept,
            points,
            yerr=errors,
            fmt=marker,
            color=COLOURS[colour],
            markersize=5.5,
            markeredgecolor=COLOURS["surface"],
            elinewidth=1.2,
            label=said,
            zorder=3,
        )
        if colour == "full":
            axes.axhline(points[0], color=COLOURS["full"], linewidth=0.8, alpha=0.7)
    if run.pick is not None:
        place = [run.overall[run.pick].kept_size or 0], [value(run.pick)[0]]
        axes.plot(
            *place, "o", markersize=11, markerfacecolor="none", markeredgecolor=COLOURS["trimmed"], label="judged"
        )


def _coverage(axes: Axes, run: RunSummary) -> None:
    _predicted(axes, run, lambda point: point.predicted.coverage, "counted text", **_PREDICTION)
    _predicted(axes, run, lambda point: point.predicted.heldout_coverage, "held out", color=COLOURS["muted"])
    _predicted(axes, run, lambda point: point.in_run, "answers here", color=COLOURS["third"])
    _measured(axes, run, lambda name: (1 - run.overall[name].outside, None), "trimmed")


def _efficiency(axes: Axes, run: RunSummary) -> None:
    _predicted(axes, run, lambda point: point.predicted.predicted_block_efficiency, "predicted", **_PREDICTION)

    def measured(name: str) -> tuple[float, tuple[float, float]]:
        return run.overall[name].summary.block_efficiency, run.overall[name].block_efficiency_interval

    _measured(axes, run, measured, "trimmed (95 %)")


def _mbsu(axes: Axes, run: RunSummary) -> None:
    _predicted(axes, run, lambda point: point.predicted.mbsu, "predicted", **_PREDICTION)

    def measured(name: str) -> tuple[float, tuple[float, float]]:
        of = run.overall[name]
        by_token = of.mbsu / of.summary.block_efficiency
        low, high = of.block_efficiency_interval
        return of.mbsu, (low * by_token, high * by_token)

    _measured(axes, run, measured, "trimmed (95 %)")


def _speedup(axes: Axes, run: RunSummary) -> None:
    _measured(
        axes,
        run,
        lambda name: (run.overall[name].speedup, run.overall[name].speedup_interval),
        "trimmed (95 %)",
    )
    axes.axhline(1, color=COLOURS["soft"], linewidth=1.2, label="target alone")


def _shown(run: RunSummary) -> list[str]:
    """The methods that are drawn beside each other: the full head and the picked one, or what there is."""
    names = [name for name in (FULL, run.pick) if name in run.steps]
    return [name for name in names if name is not None] or run.drafting[:2]


def _name(run: RunSummary, method: str) -> str:
    return f"{run.overall[method].kept_size or 0:,} ids{' (full)' if method == FULL else ''}"


def _colour(method: str) -> str:
    return COLOURS["full" if method == FULL else "trimmed"]


def _draft_step(run: RunSummary) -> Plot:
    """Two bars each: bytes that a draft step reads, time that a round takes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    upper, lower = figure.subplots(2, 1)
    names = _shown(run)
    for place, name in enumerate(names):
        step, of = run.steps[name], run.overall[name].summary
        parts = [(step.body_bytes, COLOURS["soft"]), (step.head_bytes, _colour(name))]
        _bar(upper, place, parts, size(step.bytes))
        rest = max(of.seconds - of.draft_seconds - of.target_seconds, 0)
        spent = [(of.draft_seconds, _colour(name)), (of.target_seconds, COLOURS["soft"]), (rest, COLOURS["line"])]
        _bar(lower, place, [(s / of.rounds, c) for s, c in spent], milliseconds(of.seconds / of.rounds))
    titles = ("a draft step's bytes: body (grey), head", "a round's time: drafting, target (grey), rest")
    for axes, title in zip((upper, lower), titles, strict=True):
        axes.set_title(title, loc="left", fontsize=_FONT, color=COLOURS["muted"])
        axes.set_yticks(range(len(names)), [_name(run, name) for name in names])
        axes.tick_params(length=0, labelcolor=COLOURS["ink"])
        axes.set(xticks=[], ylim=(len(names) - 0.45, -0.55))
        axes.margins(x=0.18)
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
    _lay_out(figure)
    finding = findings.draft_step(run)
    return Plot("draft-step", run.label, finding, f"Bytes and time by part, run {run.label}. {finding}.", figure)


def _bar(axes: Axes, place: int, parts: Sequence[tuple[float, str]], total: str) -> None:
    left = 0.0
    for width, colour in parts:
        axes.barh(place, width, left=left, height=0.62, color=colour, edgecolor=COLOURS["surface"], linewidth=0.5)
        left += width
    axes.annotate(total, (left, place), (4, 0), textcoords="offset points", va="center")


def _acceptance(run: RunSummary) -> Plot:
    figure, axes = _axes()
    shown = _shown(run)
    others = [name for name in run.trimmed if name not in shown]
    for number, name in enumerate(others):
        by_depth = run.overall[name].summary.acceptance_by_depth
        label = "other trims" if number == 0 else None
        axes.plot(range(1, len(by_depth) + 1), by_depth, color=COLOURS["soft"], linewidth=0.9, label=label)
    for name, marker, dash in zip(shown, "so", ("-", (0, (4, 2))), strict=False):
        by_depth = run.overall[name].summary.acceptance_by_depth
        axes.plot(
            range(1, len(by_depth) + 1),
            by_depth,
            marker=marker,
            linestyle=dash,
            color=_colour(name),
            markeredgecolor=COLOURS["surface"],
            label=_name(run, name),
        )
    depths = max((len(run.overall[name].summary.drafted_at) for name in run.drafting), default=0)
    axes.set_xticks(range(1, depths + 1))
    axes.set(xlabel="drafted token, by its place in the round", ylabel="accepted so deep")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda part, _: f"{100 * part:g} %")
    _legend(axes, 3)
    _lay_out(figure)
    finding = findings.acceptance(run)
    return Plot("acceptance", run.label, finding, f"Acceptance by depth, run {run.label}. {finding}.", figure)
