"""The main job: calibration text in, a trimmed and checked drafter out, and what engines load of it.

Puts the stages in order and hands each its inputs; every step is another module's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .calibrate.count import count
from .calibrate.counts import RAW, TokenCounts
from .calibrate.sources import find_sources
from .calibrate.tokenizer import STOP, stop_ids
from .checkpoint.check import CheckReport, check
from .checkpoint.costs import available_ids, cost_of
from .checkpoint.head_ids import head_ids
from .checkpoint.layouts import identify
from .checkpoint.read import open_checkpoint
from .checkpoint.trim import TrimPlan, TrimResult, apply_trim, plan_trim, tokenizer_beside
from .errors import InputError, UnsafeError, VocabTrimError
from .exports.engines import engines_named
from .exports.export import Export, export_all
from .exports.manifest import BESIDE
from .hub import local_folder
from .measure.measured_sizes import measured_sizes, swept_sizes
from .provenance import refuse_existing
from .vocabulary import choose_size
from .vocabulary.choose_size import Choice
from .vocabulary.kept import KeptVocabulary
from .vocabulary.mixture import prove_weights


@dataclass(frozen=True, eq=False)
class Job:
    """What the main job did.

    counts: the primary first. choice: None where the kept vocabulary was given. plan: None where the verdict is not to
    trim. result, report: None for a dry run too. exports: what was written for engines, in OUT's folder `exports`.
    """

    counts: tuple[TokenCounts, ...]
    choice: Choice | None
    plan: TrimPlan | None
    result: TrimResult | None
    report: CheckReport | None
    exports: tuple[Export, ...] = ()


def calibrate_and_trim(
    drafter: str | Path,
    *,
    target: str | Path,
    calibrate: Sequence[str | Path],
    out: str | Path,
    keep: int | float | str = "auto",
    tokenizer: str | Path | None = None,
    dry_run: bool = False,
    strict: bool = False,
    exports: Sequence[str] = (),
    count_options: Mapping[str, Any] | None = None,
    choose_options: Mapping[str, Any] | None = None,
) -> Job:
    """Count, choose, trim and check, in that order.

    drafter, target: local folders or hub ids. calibrate: sources of text, or counts files; the first is the primary,
    the others fill in what it is too small to show. tokenizer: the target's own by default.
    keep: as in `choose`. dry_run: plan, and write nothing. strict: refuse a trim that is predicted to lose.
    exports: engines to write the result for as well, refused by kind before anything is counted.
    count_options, choose_options: passed on to `count` and `choose`.
    Raises VocabTrimError kinds; nothing is written before everything fits.
    """
    refuse_existing(Path(out))
    named, drafter, target = str(target), local_folder(drafter), local_folder(target)
    _refuse_exports(exports, drafter, target)
    available_ids(drafter, target)  # counting may take hours: what cannot be trimmed is refused before
    options = count_options or {}
    texts = [source for source in calibrate if not _is_counts(source)]
    found = find_sources(texts, options.get("origin", RAW)) if texts else []
    loaded = {source: TokenCounts.load(Path(source)) for source in calibrate if _is_counts(source)}
    choosing = dict(choose_options or {})
    names = [*(source.name for source in found), *(one.name for part in loaded.values() for one in part.sources)]
    prove_weights(choosing.get("weights") or {}, names)
    if choosing.get("workload") is not None:
        choosing["workload"] = _workload(choosing["workload"], tokenizer or target)
    counts = tuple(
        loaded[source] if source in loaded else count([str(source)], tokenizer=tokenizer or target, **options)
        for source in calibrate
    )
    choice = choose(counts, keep, drafter=drafter, target=target, **choosing)
    if strict and choice.verdict in {choose_size.DO_NOT_TRIM, choose_size.LOSING}:
        raise UnsafeError(choice.reason, remedy="serve the drafter as it is; nothing was written")
    if choice.kept is None:
        return Job(counts, choice, None, None, None)
    plan = plan_trim(drafter, choice.kept, target)
    return Job(counts, choice, plan, *((None, None) if dry_run else _apply(plan, Path(out), target, named, exports)))


def trim_to(
    drafter: str | Path,
    kept: str | Path,
    *,
    target: str | Path,
    out: str | Path,
    dry_run: bool = False,
    exports: Sequence[str] = (),
) -> Job:
    """Trim and check with a kept vocabulary that was chosen before. kept: its file. The rest as above."""
    refuse_existing(Path(out))
    named, drafter, target = str(target), local_folder(drafter), local_folder(target)
    _refuse_exports(exports, drafter, target)
    plan = plan_trim(drafter, KeptVocabulary.load(Path(kept)), target)
    return Job((), None, plan, *((None, None) if dry_run else _apply(plan, Path(out), target, named, exports)))


def _refuse_exports(engines: Sequence[str], drafter: Path, target: Path) -> None:
    """What an engine refuses by the drafter's kind, said before hours of counting."""
    if engines:
        understood = identify(open_checkpoint(drafter), open_checkpoint(target))
        for engine in engines_named(engines).values():
            engine.refuse(understood)


def _apply(
    plan: TrimPlan, out: Path, target: Path, named: str, engines: Sequence[str]
) -> tuple[TrimResult, CheckReport, tuple[Export, ...]]:
    """Trim, check and export. named: the target as it was given, which exports may have to say."""
    result = apply_trim(plan, out)
    report = check(result.out, target)
    if not engines or not report.ok:
        return result, report, ()
    try:
        return result, report, tuple(export_all(out, engines, out=out / BESIDE, target=named))
    except VocabTrimError as error:
        what = f"{out} was written, but nothing for engines: {error.what}"
        raise type(error)(what, expected=error.expected, found=error.found, remedy=error.remedy) from error


def choose(
    counts: TokenCounts | str | Path | Sequence[TokenCounts | str | Path],
    keep: int | float | str = "auto",
    *,
    drafter: str | Path | None = None,
    target: str | Path | None = None,
    measured: str | Path | None = None,
    sweep: Sequence[str | Path] = (),
    workload: TokenCounts | str | Path | None = None,
    tokenizer: str | Path | None = None,
    **options: Any,
) -> Choice:
    """Choose the ids to keep, for a drafter and a target by their folders: cost, ids its head has, stop ids.

    counts: TokenCounts or counts files, the primary first. measured: a run of `bench`, whose block efficiencies and
    stage times take the place of predicted ones. sweep: recordings of the target's output; a grid of sizes is replayed
    on them first, for the block efficiency of each. workload: a sample of real traffic, text or counts, that weights
    are fitted to; text is tokenised as the target's, or as `tokenizer`, and half of it held out.
    options: those of `vocabulary.choose_size.choose`.
    """
    several = counts if isinstance(counts, Sequence) and not isinstance(counts, str) else [counts]
    loaded = [part if isinstance(part, TokenCounts) else TokenCounts.load(Path(part)) for part in several]
    target = None if target is None else local_folder(target)
    if target is not None and options.get("always_keep", True):  # known even where the tokenizer lies elsewhere
        known = {token: STOP for token in stop_ids(target) if token < loaded[0].tokenizer.vocab_size}
        options["also_keep"] = {**dict.fromkeys(options.get("also_keep", ()), choose_size.ASKED_FOR), **known}
    if workload is not None:
        options["workload"] = _workload(workload, tokenizer or target)
    if drafter is not None:
        if target is None:
            raise InputError("a drafter's cost is measured beside its target's", remedy="pass --target with --drafter")
        opened = open_checkpoint(target)
        understood = identify(open_checkpoint(local_folder(drafter)), opened)
        options["cost"], options["available"] = cost_of(understood, opened), head_ids(understood).ids
    if sweep:
        if drafter is None or target is None or measured is not None:
            raise InputError(
                "a sweep replays a drafter",
                expected="--drafter and --target, and no --measured",
                remedy="pass both, or leave --sweep out",
            )
        folder = local_folder(drafter)
        options["sweep"] = lambda kept: swept_sizes(sweep, kept, drafter=folder, target=target)
    if measured is not None:
        options["measured"] = measured_sizes(Path(measured))
    return choose_size.choose(loaded, keep, target=tokenizer_beside(target), **options)


def _workload(workload: TokenCounts | str | Path, tokenizer: str | Path | None) -> TokenCounts:
    """Traffic as counts, a part of it held out."""
    if isinstance(workload, TokenCounts):
        return workload
    if _is_counts(workload):
        return TokenCounts.load(Path(workload))
    if tokenizer is None:
        raise InputError(
            "a workload of text must be tokenised",
            expected="the target's tokenizer, or a counts file",
            remedy="pass --target or --tokenizer",
        )
    return count([workload], tokenizer=tokenizer, heldout=0.5)


def _is_counts(source: str | Path) -> bool:
    return Path(source).suffix == ".safetensors"
