"""A summary and its pictures -> one page that stands by itself: no network, no file beside it.

Knows how a page is put together and what may never reach a browser as it is: names and tokens come out of strangers'
files. Only the page's own script may run, by its hash; nothing may be fetched. The parts are made by sections.py and
tables.py.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from ..provenance import MARKS
from . import findings, sections, tables
from .escape import text
from .plots import Plot, starting_size
from .sections import FIELDS
from .summary import RunSummary


def page(
    runs: Sequence[RunSummary],
    plots: Mapping[str, Sequence[Plot]],
    tokens: Mapping[int, str],
    counted: Sequence[Mapping[str, Any]],
    made: Mapping[str, Any],
) -> bytes:
    """The whole page as UTF-8.

    plots: by run label, as `plots.draw` made them. tokens: id -> readable text; an id that is not in it shows as id.
    counted: what is said of each counts file. made: the page's own birth certificate.
    """
    sizes = _slider_sizes(runs)
    start = next((starting_size(run) for run in runs if run.sizes is not None), None)
    at = 0 if start is None else sizes.index(start)
    parts = [
        sections.verdicts(runs),
        sections.slider(runs, sizes, at),
        sections.curves(runs, plots),
        sections.draft_steps(runs, plots),
        tables.methods(runs),
        tables.categories(runs),
        tables.lost_tokens(runs, tokens),
        tables.parity(runs),
        tables.about(runs, counted, made),
    ]
    script = _part("page.js").strip()
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        Template(_part("page.html"))
        .substitute(
            mark=MARKS["page"],
            policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'",
            title=text(f"{findings.joint_headline(runs)} · {runs[0].header['target']}"),
            style=_part("page.css").strip(),
            body="\n".join(parts),
            data=embedded(_slider_data(runs, sizes)),
            script=script,
        )
        .encode("utf-8", "replace")
    )


def embedded(data: Any) -> str:
    """JSON that may stand between script tags: nothing in it ends the element or begins a comment."""
    told = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return told.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _slider_sizes(runs: Sequence[RunSummary]) -> list[int]:
    """Every stop of any run."""
    return sorted({size for run in runs if run.sizes is not None for size in run.sizes.stops})


def _slider_data(runs: Sequence[RunSummary], sizes: Sequence[int]) -> dict[str, Any] | None:
    """What the slider puts where: for every run and field the text of every size."""
    if not sizes:
        return None
    return {
        "sizes": sizes,
        "said": [sections.size_said(size, runs) for size in sizes],
        "runs": [
            {name: [sections.field(run, name, size) for size in sizes] for name in FIELDS} if run.sizes else None
            for run in runs
        ],
    }


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
