"""The whole job on the built-in family: trim a drafter, let it and the full one draft what the target writes, tell.

Puts the public functions in order; knows no stage from inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from ..decoding.text import Piece, TargetText, TextStream
from ..job import Job, calibrate_and_trim
from ..measure.bench import Seen, bench
from ..measure.methods import Settings
from ..measure.questions import Question
from ..measure.records import Generated, Run
from ..report.write import write
from .family import CALIBRATION, FAMILY, MEMBERS, HeldOut, calibration, held_out_prompts, member

DRAFTERS = tuple(name for name in MEMBERS if name != "target")
REACHED = {"eagle": (3.0, 5), "eagle3": (3.17, 5), "independent": (2.2, 4), "medusa": (1.79, 3)}
"""Block efficiency with the full head, and how deep was drafted: bench/paper.py, docs/paper.md."""
WAYS = ("plain", "full head", "trimmed head")  # the methods of `compare`, in their order
TRIMMED, RUN, COUNTS = "trimmed", "run", "counts"  # folders that a demo makes


def trim_built_in(drafter: str, out: Path, *, family: Path = FAMILY) -> Job:
    """Count the carried calibration text, choose, trim and check. Raises as `member` and `calibrate_and_trim`."""
    block_efficiency, draft_length = REACHED[drafter]
    return calibrate_and_trim(
        member(drafter, family=family),
        target=member("target", family=family),
        calibrate=[f"{origin}:{calibration(origin, family=family)}" for origin in CALIBRATION],
        out=out,
        choose_options={"block_efficiency": block_efficiency, "draft_length": draft_length},
    )


def chosen_prompts(number: int, *, family: Path = FAMILY) -> list[HeldOut]:
    """The first `number` held-out prompts, one category after the other in turn."""
    by_category: dict[str, list[HeldOut]] = {}
    for prompt in held_out_prompts(family=family):
        by_category.setdefault(prompt.category, []).append(prompt)
    longest = max(map(len, by_category.values()))
    turns = (part[turn] for turn in range(longest) for part in by_category.values() if turn < len(part))
    return [prompt for prompt, _ in zip(turns, range(number), strict=False)]


def questions_of(prompts: Sequence[HeldOut]) -> list[Question]:
    """Held-out prompts as a bench asks them, named by their place."""
    return [
        Question(str(place), prompt.category, (prompt.messages[-1]["content"],), prompt.messages[:-1])
        for place, prompt in enumerate(prompts, start=1)
    ]


def compare(
    drafter: str, questions: Sequence[Question], out: Path, *, max_new_tokens: int, seen: Seen, family: Path = FAMILY
) -> Run:
    """Bench the target alone, the full drafter, and the one in `out`/trimmed; the run goes to `out`/run.

    In float32, where the order of two tokens does not hang on rounding: all must then write the same.
    """
    return bench(
        member("target", family=family),
        questions,
        out=out / RUN,
        drafter=member(drafter, family=family),
        trimmed=[out / TRIMMED],
        settings=Settings(max_new_tokens=max_new_tokens, dtype="float32"),
        seen=seen,
    )


def pieces(words: TargetText, answer: Generated) -> list[Piece]:
    """The text of an answer, with what of it was drafted and accepted."""
    stream, tokens, said = TextStream(words), iter(answer.token_ids), list[Piece]()
    for round in answer.rounds:
        for position, token in enumerate(islice(tokens, round.emitted)):
            said += stream.feed(token, accepted=position < round.accepted)
    return said + stream.finish()


def write_page(job: Job, out: Path, page: Path, *, family: Path = FAMILY) -> None:
    """Write the report of `out`/run. Raises as `report.write.write`: UnsupportedError without a plotting library."""
    files = []
    for origin, counts in zip(CALIBRATION, job.counts, strict=True):
        files.append(out / COUNTS / f"{origin}.safetensors")
        files[-1].parent.mkdir(exist_ok=True)
        counts.save(files[-1])
    write([out / RUN], page, counts=files, tokenizer=member("target", family=family))
