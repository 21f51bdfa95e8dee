"""The finished family as the package carries it: models, calibration text, held-out prompts, hashes.

    python -m vocabtrim.testbed.train.pack RUN OUT

Reads what the other scripts left in RUN. OUT must not exist; copy it to testbed/data/family when it is good.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...provenance import atomic_directory, birth_certificate, sha256_file
from ..family import MANIFEST
from .completions import records
from .export_drafters import main as export_drafters
from .shards import Encoder

_CALIBRATION = 1000  # answers carried
_PROMPTS = 30  # held-out prompts per category
_HEAVIEST = 40e6


def pack(run: Path, out: Path) -> None:
    """Write OUT whole or not at all."""
    encoder = Encoder(run / "tokenizer")
    with atomic_directory(out) as folder:
        shutil.copytree(run / "target-exported", folder / "target")
        export_drafters(run, folder)
        _write_lines(folder / "calibration" / "target-generated.jsonl", _answers(run, encoder))
        _write_lines(folder / "prompts" / "heldout.jsonl", _prompts(run))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files:
            path.chmod(0o644)
        listed = {
            path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in files
        }
        if (total := sum(path.stat().st_size for path in files)) > _HEAVIEST:
            raise SystemExit(f"the family takes {total:,} bytes, at most {_HEAVIEST:,.0f} are to be carried")
        made = birth_certificate({"runs": _runs(run)}, {})
        (folder / MANIFEST).write_text(json.dumps({"files": listed, "made": made}, indent=1) + "\n")


def _answers(run: Path, encoder: Encoder) -> Iterable[dict[str, Any]]:
    """Conversations that the target wrote on training prompts, as many of each category as its share."""
    every = list(records(run / "completions.jsonl"))
    share = min(1.0, _CALIBRATION / len(every))
    taken = {category: int(share * count) for category, count in Counter(r["category"] for r in every).items()}
    for record in sorted(every, key=lambda record: (record["category"], record["number"])):
        if record["number"] < taken[record["category"]]:
            turns = [*record["turns"], ("assistant", encoder.tokenizer.decode(record["answer"]))]
            messages = [{"role": role, "content": text} for role, text in turns]
            yield {"category": record["category"], "messages": messages}


def _prompts(run: Path) -> Iterable[dict[str, Any]]:
    """The first held-out prompts of every category, with reference answers."""
    seen: Counter[str] = Counter()
    for line in (run / "heldout_prompts.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        seen[record["category"]] += 1
        if seen[record["category"]] <= _PROMPTS:
            yield record


def _runs(run: Path) -> dict[str, Any]:
    """What each training run came to: its log's last line."""
    logs = sorted(run.glob("*/log.jsonl"))
    return {log.parent.name: json.loads(log.read_text().splitlines()[-1]) for log in logs}


def _write_lines(file: Path, lines: Iterable[dict[str, Any]]) -> None:
    file.parent.mkdir()
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
