"""Loss curves of the family, out of its kept logs.

    python -m vocabtrim.testbed.train.curves LOGS OUT.svg

LOGS holds one .jsonl per model (loop.py writes them, pack.py keeps them). Needs the extra `report`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_ORDER = ("target", "eagle", "eagle3", "independent", "medusa")
_PER_ROW = 3


def draw(logs: Path, out: Path) -> None:
    """One panel per model: training loss every ten steps, held-out loss by category, over the tokens seen."""
    from matplotlib.figure import Figure

    files = [logs / f"{name}.jsonl" for name in _ORDER if (logs / f"{name}.jsonl").exists()]
    rows = -(-len(files) // _PER_ROW)
    figure = Figure(figsize=(4 * _PER_ROW, 3 * rows), layout="constrained")
    for number, file in enumerate(files):
        axes = figure.add_subplot(rows, _PER_ROW, number + 1)
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        axes.plot(*_points(lines, lambda line: line.get("loss")), color="black", linewidth=0.8, label="training")
        for category in sorted({name for line in lines for name in line.get("heldout", {})}):
            heldout = _points(lines, lambda line, name=category: line.get("heldout", {}).get(name))
            axes.plot(*heldout, marker=".", linewidth=0.8, label=category)
        axes.set(title=file.stem, xlabel="million tokens", ylabel="loss, nats")
        axes.set_ylim(bottom=0)
    if files:
        figure.axes[0].legend(fontsize=6, ncols=2)
    figure.savefig(out)


def _points(lines: list[dict[str, Any]], value: Any) -> tuple[list[float], list[float]]:
    told = [(line["tokens"] / 1e6, value(line)) for line in lines if value(line) is not None]
    return [tokens for tokens, _ in told], [loss for _, loss in told]


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
