"""What a bench measured by kept size, or a replay of recorded output says, for `choose`.

Knows runs, recordings and their figures; what is made of the numbers is vocabulary/measured.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..vocabulary.kept import KeptVocabulary
from ..vocabulary.measured import Measured, StageTimes
from .figures import OVERALL, Figures, drafted_depth, figures
from .records import AUTOREGRESSIVE, FULL, read_run
from .replay import replay


def measured_sizes(folder: Path) -> Measured:
    """Block efficiency and stage times of the full drafter and its trims, over all questions of a run.

    Of two trims to one size the later counts. Raises InputError for a folder without a run, a run without a whole
    question, one without its full drafter, and one whose drafters are of different kinds or sizes.
    """
    run = read_run(folder)
    found = {part.method: part for part in figures(run, {})[OVERALL]}
    about = {method["name"]: method for method in run.header["methods"]}
    plain = found.pop(AUTOREGRESSIVE)
    if not plain.questions:
        raise InputError(f"{folder} holds no question that all methods answered", remedy="let the bench end")
    if FULL not in found:
        raise InputError(
            f"{folder} does not tell what the full head reaches",
            expected="a bench with --drafter",
            found=", ".join(found) or "no drafter",
            remedy="bench the full drafter beside its trims",
        )
    kinds = {about[name]["kind"] for name in found}
    if len(kinds) > 1:
        raise InputError(
            f"the drafters of {folder} are not trims of one",
            expected=about[FULL]["kind"],
            found=", ".join(sorted(kinds)),
            remedy="bench a drafter and its own trims",
        )
    return Measured(
        source=str(folder),
        full_size=_rows(found[FULL]),
        draft_length=max(drafted_depth(about[FULL], found[FULL].summary), 1),
        block_efficiencies={_rows(part): part.summary.block_efficiency for part in found.values()},
        times=StageTimes(
            plain=plain.summary.seconds / plain.summary.rounds,
            target=_seconds(found[FULL], drafting=False),
            drafting={_rows(part): _seconds(part, drafting=True) for part in found.values()},
        ),
    )


def swept_sizes(
    recorded: Sequence[str | Path], kept: Sequence[KeptVocabulary], *, drafter: Path, target: Path
) -> Measured:
    """Block efficiency of the drafter's own head and of each kept vocabulary on recorded target output; no times.

    Drafted as `choose_plan` does by default. Raises what `replay` raises.
    """
    own, *others = replay(recorded, drafter=drafter, target=target, kept=list(kept), dtype="float32").kept
    assert own.summary is not None
    return Measured(
        source=f"replay of {', '.join(map(str, recorded))}",
        full_size=own.kept_size,
        draft_length=max(own.depth or len(own.summary.drafted_at), 1),
        block_efficiencies={
            part.kept_size: part.summary.block_efficiency for part in [*others, own] if part.summary is not None
        },
    )


def _rows(part: Figures) -> int:
    assert part.kept_size is not None
    return part.kept_size


def _seconds(part: Figures, *, drafting: bool) -> float:
    summary = part.summary
    return (summary.draft_seconds if drafting else summary.seconds - summary.draft_seconds) / summary.rounds
