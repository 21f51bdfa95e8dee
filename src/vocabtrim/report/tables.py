"""The page's tables and lists: what was measured, by category, what was lost, parity, and what was run.

Each a function of the summaries -> markup. Every foreign name goes through `escape.text`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..measure.figures import OVERALL, Figures
from ..measure.paired import Paired
from ..measure.records import AUTOREGRESSIVE, FULL
from . import findings
from .about import facts_of_page, facts_of_run
from .escape import text
from .findings import FEWEST_QUESTIONS
from .summary import RunSummary
from .words import interval, milliseconds, share, size

_MOST_TOKENS = 30  # shown
_MOST_DIFFERENCES = 8


def methods(runs: Sequence[RunSummary]) -> str:
    """Everything that was measured, a row a method."""
    tables = [run_label(run, runs) + _methods(run) for run in runs]
    return "<h2>Everything that was measured</h2>\n" + "\n".join(tables)


def _methods(run: RunSummary) -> str:
    columns = (
        *("", "head rows", "tokens per pass", "MBSU", "tokens/s", "over target alone", "over full head"),
        *("outside head", "draft step", "its time", "equal"),
    )
    rows = []
    for name, of in run.overall.items():
        step, compared = run.steps.get(name), run.over_full.get(name)
        cells = [
            f"{of.kept_size:,}" if of.kept_size else "–",
            _with(of.summary.block_efficiency, of.block_efficiency_interval) if step else "1.00",
            f"{of.mbsu:.2f}",
            f"{of.summary.tokens_per_second:.1f}",
            _with(of.speedup, of.speedup_interval) if step else "1.00",
            _with(compared.speed, compared.speed_interval) if compared else ("1.00" if name == FULL else "–"),
            share(of.outside) if step else "–",
            size(step.bytes) if step else "–",
            milliseconds(step.seconds) if step else "–",
            f"{of.parity.same} of {of.parity.compared}" if of.parity else "–",
        ]
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr{_picked(run, name)}><th scope="row">{text(_method_name(name))}</th>{row}</tr>')
    return _table(columns, rows, "95 % intervals by questions. Reading the prompt is in none of the speeds.")


def _picked(run: RunSummary, name: str) -> str:
    return ' class="pick"' if name == run.pick else ""


def _method_name(name: str) -> str:
    return {AUTOREGRESSIVE: "target alone", FULL: "full head"}.get(name, name)


def _with(value: float, within: tuple[float, float]) -> str:
    return f'{value:.2f} <span class="pm">{interval(within)}</span>'


def _table(columns: Sequence[str], rows: Sequence[str], caption: str) -> str:
    head = "".join(f'<th scope="col">{text(column)}</th>' for column in columns)
    region = f'<div class="table" tabindex="0" role="region" aria-label="{text(caption)}">'
    return (
        f'<p class="note">{text(caption)}</p>{region}<table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def categories(runs: Sequence[RunSummary]) -> str:
    """The judged head by category."""
    told = [run for run in runs if len(run.figures) > 2]
    return _by_run(told, runs, findings.categories, _categories) if told else ""


def _categories(run: RunSummary) -> str:
    name = run.pick or run.drafting[0]
    beside_full = name in run.over_full
    columns = ["", "questions", "tokens per pass", "over target alone", "outside head"]
    if beside_full:
        columns = [*columns[:3], "full head’s", "over full head", *columns[3:]]
    rows = []
    for category, by_method in [*list(run.figures.items())[1:], (OVERALL, run.overall)]:
        of = by_method[name]
        cells = [f"<td>{of.questions}</td>", _cell(of.summary.block_efficiency, of.block_efficiency_interval, of)]
        if beside_full:
            compared = run.pick_over_full[category]
            cells.append(f"<td>{by_method[FULL].summary.block_efficiency:.2f}</td>")
            cells.append(_cell(compared.speed, compared.speed_interval, compared))
        cells += [_cell(of.speedup, of.speedup_interval, of), f"<td>{share(of.outside)}</td>"]
        all_of_them = ' class="pick"' if category == OVERALL else ""
        rows.append(f'<tr{all_of_them}><th scope="row">{text(category)}</th>{"".join(cells)}</tr>')
    few = f" Faint: of fewer than {FEWEST_QUESTIONS} questions, not to be relied on." if _any_few(run, name) else ""
    return _table(columns, rows, f"{_head(run, name)}, with 95 % intervals by questions.{few}")


def _any_few(run: RunSummary, name: str) -> bool:
    return any(by_method[name].questions < FEWEST_QUESTIONS for by_method in run.figures.values())


def _head(run: RunSummary, name: str) -> str:
    return f"The head of {run.overall[name].kept_size or 0:,} ids"


def _cell(value: float, within: tuple[float, float], of: Figures | Paired) -> str:
    if of.questions == 1:
        return f'<td class="few">{value:.2f}</td>'
    few = ' class="few"' if of.questions < FEWEST_QUESTIONS else ""
    return f"<td{few}>{_with(value, within)}</td>"


def lost_tokens(runs: Sequence[RunSummary], tokens: Mapping[int, str]) -> str:
    """What the judged head cannot draft, the most frequent first."""
    told = [run for run in runs if run.lost is not None]
    return _by_run(told, runs, findings.lost_tokens, lambda run: _lost(run, tokens)) if told else ""


def _lost(run: RunSummary, tokens: Mapping[int, str]) -> str:
    assert run.lost is not None
    if not run.lost.tokens:
        return '<p class="lead">Everything that was emitted can be drafted.</p>'
    items = [
        f"<li><bdi><code>{text(tokens.get(lost.token, f'id {lost.token}'))}</code></bdi>"
        f'<span class="n">{lost.times:,}</span>'
        f'<span class="p">{f"{lost.in_prompt:,} in prompt" if lost.in_prompt else ""}</span></li>'
        for lost in run.lost.tokens[:_MOST_TOKENS]
    ]
    shown = "" if len(run.lost.tokens) <= _MOST_TOKENS else f"The {_MOST_TOKENS} most frequent of "
    unread = "" if tokens else " Pass <code>--tokenizer</code> to see their text."
    return (
        f'<p class="lead">{shown}{len(run.lost.tokens):,} lost ids, with how often each was emitted and how often its '
        f"prompt held it too: what a copy from the prompt could have drafted.{unread}</p>"
        f'<ul class="tokens">{"".join(items)}</ul>'
    )


def parity(runs: Sequence[RunSummary]) -> str:
    """Whether the answers are the target's own."""
    return _by_run(list(runs), runs, findings.parity, _parity)


def _parity(run: RunSummary) -> str:
    if not run.greedy:
        return (
            '<p class="lead">Above temperature 0 every method draws answers of its own; that they are drawn from the '
            "target’s distribution is shown by the tests of the decoder, not by a run.</p>"
        )
    rows = [
        f'<tr><th scope="row">{text(_method_name(name))}</th><td>{text(found.question)}</td><td>{found.turn + 1}</td>'
        f"<td>{found.at}</td><td>{'–' if found.gap is None else f'{found.gap:.3g}'}</td></tr>"
        for name, of in run.overall.items()
        if of.parity is not None
        for found in of.parity.differences[:_MOST_DIFFERENCES]
    ]
    if not rows:
        return '<p class="lead">Drafting changed the speed and nothing else.</p>'
    caption = (
        "Where greedy answers part, and how far apart the target’s logits of the two tokens are there: a gap near 0 is "
        "a tie that rounding broke."
    )
    return _table(("", "question", "turn", "equal tokens before", "gap of logits"), rows, caption)


def about(runs: Sequence[RunSummary], counted: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> str:
    """What was run, on what, with which versions; what the words mean."""
    lists = [run_label(run, runs) + _facts(facts_of_run(run)) for run in runs]
    return (
        "<h2>What was run</h2>\n"
        + "\n".join(lists)
        + f"<h3>This page</h3>{_facts(facts_of_page(counted, made))}"
        + f"<h2>How to read it</h2>{_facts(_WORDS.items())}"
    )


_WORDS = {
    "block efficiency": "emitted tokens by target passes; a pass emits what it accepts and one token of its own.",
    "MBSU": "block efficiency by what a round reads, in target passes: the speed-up over the target alone where memory "
    "sets the pace. Predicted, never timed.",
    "speed-up": "tokens per second by another method's, on the same questions; timed, the reading of prompts left out.",
    "coverage": "share of tokens that lie inside the kept ids; held out: of text that chose none of them.",
    "95 %": "questions were drawn again 10,000 times with all that was measured on them; the middle 95 % of results.",
}


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return '<dl class="facts">' + "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in facts) + "</dl>"


def _by_run(
    told: Sequence[RunSummary],
    runs: Sequence[RunSummary],
    heading: Callable[[RunSummary], str],
    content: Callable[[RunSummary], str],
) -> str:
    """A section of every run: its finding is the heading, and the run's name stands above where there are several."""
    return "\n".join(f"<h2>{text(heading(run))}</h2>\n{run_label(run, runs)}{content(run)}" for run in told)


def run_label(run: RunSummary, runs: Sequence[RunSummary]) -> str:
    """A run's name, where there are several."""
    return f'<p class="over">{text(run.label)}</p>' if len(runs) > 1 else ""
