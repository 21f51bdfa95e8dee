"""The finished family as the package carries it: models, calibration text, held-out prompts, logs, hashes.

    python -m vocabtrim.testbed.train.pack RUN DATA OUT

Reads what the other scripts left in RUN, and raw text from DATA. OUT must not exist; copy it to testbed/data/family
when it is good. Sources in `corpus.UNCARRIED` are left out.
"""

from __future__ import annotations

import gzip
import json
import platform
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...provenance import atomic_directory, birth_certificate, sha256_file
from ..family import CALIBRATION, MANIFEST, PROMPTS
from .completions import completions_file, records
from .corpus import UNCARRIED, documents
from .documents import PLAIN_CATEGORIES, draw
from .export_drafters import main as export_drafters
from .shards import Encoder

_ANSWER_TOKENS = 15_000  # of the target's, carried of each category
_RAW_SHARE = 0.07  # of the raw texts: about as many tokens as the answers have
_PROMPTS = 30  # held-out prompts per category
_HEAVIEST = 40e6


def pack(run: Path, data: Path, out: Path) -> None:
    """Write OUT whole or not at all."""
    encoder = Encoder(run / "tokenizer")
    with atomic_directory(out) as folder:
        shutil.copytree(run / "target-exported", folder / "target")
        export_drafters(run, folder)
        for writer, origin in (("target", "target-generated"), ("independent", "drafter-generated")):
            _write_lines(folder / CALIBRATION[origin], _answers(run, writer, encoder))
        _write_lines(folder / CALIBRATION["raw"], _raw(data))
        _write_lines(folder / PROMPTS, _prompts(run))
        (folder / "logs").mkdir()
        for log in run.glob("*/log.jsonl"):
            shutil.copyfile(log, folder / "logs" / f"{log.parent.name}.jsonl")
        (folder / "PROVENANCE.md").write_text(_provenance(), encoding="utf-8")
        _write_manifest(folder)


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        path.chmod(0o644)
    if (total := sum(path.stat().st_size for path in files)) > _HEAVIEST:
        raise SystemExit(f"the family takes {total:,} bytes, at most {_HEAVIEST:,.0f} are to be carried")
    listed = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in files
    }
    made = birth_certificate({}, {})
    (folder / MANIFEST).write_text(json.dumps({"files": listed, "made": made}, indent=1) + "\n")


def _answers(run: Path, writer: str, encoder: Encoder) -> Iterator[dict[str, Any]]:
    """What a writer answered to prompts that may be carried, the same whoever wrote.

    Of every category as much as of the others, as far as there is: a list that is to serve them all must not be cut to
    the longest answers.
    """
    written = {tuple(record["prompt"]): record for record in records(completions_file(run, writer))}
    tokens: Counter[str] = Counter()
    for record in sorted(records(completions_file(run, "target")), key=lambda record: record["number"]):
        category = record["category"]
        if record["source"] in UNCARRIED or tokens[category] >= _ANSWER_TOKENS:
            continue
        if (answered := written.pop(tuple(record["prompt"]), None)) is None:  # asked before, or not of this writer
            continue
        tokens[category] += len(record["answer"])
        answer = encoder.tokenizer.decode(answered["answer"])
        yield _conversation(record) | {"messages": _messages([*record["turns"], ("assistant", answer)])}


def _raw(data: Path) -> Iterator[dict[str, Any]]:
    """Plain training texts, by lot."""
    for document, out in documents(data):
        if document.category in PLAIN_CATEGORIES and not out and document.source not in UNCARRIED:
            text = document.turns[0][1]
            if draw(text, "raw", 1000) < 1000 * _RAW_SHARE:
                yield {"category": document.category, "source": document.source, "text": text}


def _prompts(run: Path) -> Iterator[dict[str, Any]]:
    """Held-out prompts of every category with their reference answers, by lot, none twice."""
    lines = (run / "heldout_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    unlike = {record["turns"][-2][1]: record for record in map(json.loads, lines) if record["source"] not in UNCARRIED}
    seen: Counter[str] = Counter()
    for question in sorted(unlike, key=lambda question: draw(question, "carried", 2**60)):
        record = unlike[question]
        seen[record["category"]] += 1
        if seen[record["category"]] <= _PROMPTS:
            messages = _messages(record["turns"])
            yield _conversation(record) | {"messages": messages[:-1], "reference": messages[-1]["content"]}


def _conversation(record: dict[str, Any]) -> dict[str, Any]:
    return {"category": record["category"], "source": record["source"]}


def _messages(turns: Iterable[Iterable[str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def _write_lines(file: Path, lines: Iterable[dict[str, Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    if file.suffix == ".gz":
        content = gzip.compress(content, mtime=0)  # no time: the same each time
    file.write_bytes(content)


def _provenance() -> str:
    return f"""# Where the family comes from

Made by the scripts of `vocabtrim.testbed.train` (docs/testbed.md says how), with Python {platform.python_version()}'s
own library and language reference among the texts. The models, and what they wrote, are under vocabtrim's licence.
Every line of `calibration/` and `prompts/` names the source of its prompt or text:

| source | what is carried of it | licence |
|---|---|---|
| GSM8K (openai/grade-school-math) | prompts, reference answers | MIT |
| MBPP (google-research) | prompts, reference answers | CC BY 4.0 |
| Glaive function calling (demo set of hiyouga/LLaMA-Factory) | prompts, reference answers | Apache-2.0 |
| tangqiaoyu/ToolAlpaca, and requests made up from its list of APIs | prompts, reference answers | Apache-2.0 |
| Python's library and language reference | prompts, reference answers, raw text | PSF |
| WikiText-2 (Wikipedia's authors, Merity et al.) | prompts, reference answers, raw text | CC BY-SA 3.0 |
| Shakespeare's plays | raw text | public domain |

The texts are cut into prompts, and calculator marks, docstrings and spacing changed, as the scripts say. Pages of C4
(ODC-BY) were learned from, and none is carried. No output of another model is among the texts.
"""


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
