"""The upper parts of the page: the verdict's tiles, the slider, the pictures. Tables are tables.py's.

Each a function of the summaries -> markup; headings are findings.py's sentences. Every foreign name goes through
`escape.text`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..measure.figures import Figures
from ..measure.records import FULL
from ..vocabulary.choose_size import DO_NOT_TRIM, TRIM
from . import findings
from .escape import text
from .plots import CURSOR, Plot, inline_svg
from .summary import RunSummary
from .tables import run_label
from .words import interval, share, size

# What the slider shows of a size, and its label.
FIELDS = {
    "coverage": "counted coverage",
    "in_run": "answers covered",
    "bytes": "a draft step reads",
    "block_efficiency": "block efficiency",
    "mbsu": "MBSU",
    "gain": "MBSU, gain",
}
_PREDICTED = ("block_efficiency", "mbsu")


def field(run: RunSummary, name: str, kept_size: int) -> str:
    """A number of one size as it is shown; a dash where the run's head cannot have that size."""
    point = None if run.sizes is None else run.sizes.at(kept_size)
    if run.sizes is None or point is None:
        return "–"
    row = point.predicted
    told: dict[str, Callable[[], str]] = {
        "coverage": lambda: share(row.heldout_coverage if run.sizes and run.sizes.held_out else row.coverage, 2),
        "in_run": lambda: share(point.in_run, 2),
        "bytes": lambda: size(row.draft_step_bytes or 0),
        "block_efficiency": lambda: f"{row.predicted_block_efficiency:.3f}",
        "mbsu": lambda: f"{row.mbsu:.3f}",
        "gain": lambda: _signed((row.mbsu or 0) / run.sizes.table.mbsu(None) - 1 if run.sizes else 0),
    }
    return told[name]()


def size_said(kept_size: int, runs: Sequence[RunSummary]) -> str:
    """What a stop of the slider is called."""
    full = {run.sizes.table.full_size for run in runs if run.sizes is not None}
    return f"{kept_size:,} ids{' (full head)' if kept_size in full else ''}"


def _signed(gain: float) -> str:
    return f"{100 * gain:+.1f} %".replace("-", "−")


def verdicts(runs: Sequence[RunSummary]) -> str:
    """The page's head: the verdict, with the numbers it rests on."""
    over = f"{text(runs[0].header['target'])} · {_asked(runs)}"
    cards = [_verdict(run, alone=len(runs) == 1) for run in runs]
    return f'<p class="over">{over}</p>\n<h1>{text(findings.joint_headline(runs))}</h1>\n' + "\n".join(cards)


def _asked(runs: Sequence[RunSummary]) -> str:
    asked = [f"{run.questions} questions{'' if len(runs) == 1 else f' ({run.label})'}" for run in runs]
    told = {f"{run.header['identity'].get('dtype')} on {run.header['identity'].get('device')}" for run in runs}
    label = [runs[0].label] if len(runs) == 1 else []
    return text(", ".join([*asked, *label, *sorted(told)]))


def _verdict(run: RunSummary, *, alone: bool) -> str:
    told = findings.verdict(run)
    kind = {TRIM: " trim", DO_NOT_TRIM: " not"}.get(told.kind, "") if not told.alone_is_faster else ""
    label = "" if alone else f"<h3>{text(run.label)}</h3>"
    beside = f"<p>{text(told.beside)}</p>" if told.beside else ""
    caution = f'<p class="note">{text(told.caution)}</p>' if told.caution else ""
    return (
        f'<section class="verdict{kind}">{label}<p>{text(told.sentence)}</p>{beside}{caution}'
        f'<dl class="tiles">{_tiles(run)}</dl></section>'
    )


def _tiles(run: RunSummary) -> str:
    name = run.pick or run.drafting[0]
    of, step = run.overall[name], run.steps[name]
    full, full_step = run.overall.get(FULL), run.steps.get(FULL)
    beside_full = full is not None and full_step is not None and name != FULL
    told = [("ids in the head", f"{of.kept_size or 0:,}", _of_full_size(of, full) if beside_full and full else "")]
    if compared := run.over_full.get(name):
        told.append(("over the full head", f"{compared.speed:.2f}×", interval(compared.speed_interval)))
    beside = f"full head {full.speedup:.2f}×" if beside_full and full else interval(of.speedup_interval)
    told.append(("over target alone", f"{of.speedup:.2f}×", beside))
    beside = f"full head {full.summary.block_efficiency:.2f}" if beside_full and full else "tokens per pass"
    told.append(("block efficiency", f"{of.summary.block_efficiency:.2f}", beside))
    beside = f"full head {size(full_step.bytes)}" if beside_full and full_step else "head and body"
    told.append(("a draft step reads", size(step.bytes), beside))
    told.append(("outside the head", share(of.outside), "of emitted tokens"))
    if of.parity is not None:
        told.append(("equal answers", f"{of.parity.same} of {of.parity.compared}", "token for token"))
    return "".join(_tile(label, f'<span class="is">{text(is_)}</span>', text(beside)) for label, is_, beside in told)


def _of_full_size(of: Figures, full: Figures) -> str:
    return f"of {full.kept_size:,}, {share((of.kept_size or 0) / (full.kept_size or 1))}"


def _tile(label: str, shown: str, beside: str) -> str:
    under = f'<span class="of">{beside}</span>' if beside else ""
    return f'<div class="tile"><dt>{text(label)}</dt><dd>{shown}{under}</dd></div>'


def slider(runs: Sequence[RunSummary], sizes: Sequence[int], at: int) -> str:
    """Any kept size: what it covers, costs and is predicted to gain. at: which of the sizes is shown at first."""
    if not sizes:
        return (
            '<h2>Other sizes were not predicted</h2><p class="lead">Pass what was counted, '
            "<code>vocabtrim report RUN --counts counts.safetensors</code>, together with a run that measured the full "
            "head (<code>bench --drafter</code>): curves over every size and a slider then stand here.</p>"
        )
    lines = [
        "<h2>What another size would do</h2>",
        '<p class="lead">Coverage and bytes are counted; block efficiency and MBSU are predicted from them and from '
        "what the full head reached in the run.</p>",
        '<div class="slider"><label for="kept-size"><span>ids in the drafter’s head</span>'
        f'<output id="kept-size-said" for="kept-size">{text(size_said(sizes[at], runs))}</output></label>'
        f'<input type="range" id="kept-size" min="0" max="{len(sizes) - 1}" step="1" value="{at}" '
        f'aria-valuetext="{text(size_said(sizes[at], runs))}" autocomplete="off">'
        f'<div class="ends"><span>{sizes[0]:,}</span><span>{sizes[-1]:,}</span></div></div>',
    ]
    for number, run in enumerate(runs):
        if run.sizes is not None:
            lines.append(run_label(run, runs) + f'<dl class="tiles">{_outputs(run, number, sizes[at])}</dl>')
    return "\n".join(lines)


def _outputs(run: RunSummary, number: int, kept_size: int) -> str:
    assert run.sizes is not None
    tiles = []
    for name, label in FIELDS.items():
        shown = (
            f'<output for="kept-size" data-run="{number}" data-field="{name}">{field(run, name, kept_size)}</output>'
        )
        full = field(run, name, run.sizes.table.full_size)
        beside = {"gain": "over the full head"} | dict.fromkeys(_PREDICTED, f"predicted; full {full}")
        said = "held-out coverage" if name == "coverage" and run.sizes.held_out else label
        tiles.append(_tile(said, shown, text(beside.get(name, f"full head {full}"))))
    return "".join(tiles)


def curves(runs: Sequence[RunSummary], plots: Mapping[str, Sequence[Plot]]) -> str:
    """Coverage, block efficiency, MBSU and speed-up over the kept size, runs side by side."""
    names = ("coverage", "block-efficiency", "mbsu", "speed-up")
    note = (
        "Bars are 95 % intervals over questions. Trimmed and full heads answered the same questions and rise and fall "
        "together, so bars that overlap may hide a sure difference: the verdict compares question by question."
    )
    return f'<h2>By kept size</h2>\n<p class="note">{note}</p>\n{_pair(runs, plots, names)}'


def draft_steps(runs: Sequence[RunSummary], plots: Mapping[str, Sequence[Plot]]) -> str:
    """Where bytes and time go, and how deep drafts are accepted."""
    return f"<h2>Inside a round</h2>\n{_pair(runs, plots, ('draft-step', 'acceptance'))}"


def _pair(runs: Sequence[RunSummary], plots: Mapping[str, Sequence[Plot]], names: Iterable[str]) -> str:
    drawn = [
        _figure(plot, number, len(runs) > 1)
        for name in names
        for number, run in enumerate(runs)
        for plot in plots[run.label]
        if plot.name == name
    ]
    return '<div class="pair">' + "\n".join(drawn) + "</div>"


def _figure(plot: Plot, number: int, labelled: bool) -> str:
    prefix = f"{plot.name}-{number}"
    moves = ""
    if plot.cursor is not None:
        start, scale = plot.cursor
        moves = f' data-cursor="{prefix}-{CURSOR}" data-from="{start}" data-scale="{scale:.3f}"'
    label = f'<p class="over">{text(plot.run)}</p>' if labelled else ""
    header = f"<header>{label}<h3>{text(plot.finding)}</h3></header>"
    return f'<figure{moves} role="group" aria-label="{text(plot.alt)}">{header}{inline_svg(plot, prefix)}</figure>'
