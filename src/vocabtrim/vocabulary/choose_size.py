"""How many ids to keep, or "do not trim": from token counts to a kept vocabulary and the table that argues for it.

Knows rankings, sizes and verdicts; reads no drafter (what it costs comes in as a `Cost`) and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..calibrate.counts import TokenCounts
from ..calibrate.tokenizer import TokenizerFacts
from ..cost import Cost
from ..errors import InputError, MismatchError
from ..provenance import birth_certificate
from .confidence import Interval, Unseen, heldout_interval, unseen
from .kept import Ids, KeptVocabulary
from .kept_size import asked_size, best_size, grid, rows_of, ways_out
from .measured import Measured
from .mixture import OTHER_WORK, PRIOR_OPTION, Mixture, default_mixture, with_weights
from .select import Ranking, rank
from .size_table import DRAFT_LENGTH, SizeRow, SizeTable, size_table
from .workload import WorkloadFit, fit_to_workload

TRIM = "trim"
DO_NOT_TRIM = "do not trim"  # auto: no size beats the full head
LOSING = "losing trim"  # the size that was asked for is predicted to lose
NOT_JUDGED = "not judged"  # no drafter to judge it by

ASKED_FOR = "asked for"


@dataclass(frozen=True, eq=False)
class Choice:
    """The pick and its grounds.

    kept: None exactly where the verdict is "do not trim".
    reason: the verdict in one sentence with its numbers.
    sizes: rows by kept size, the pick among them, the full head last.
    basis: "held-out" or "in-sample": the tokens that coverage and predictions rest on; basis_tokens: how many.
    block_efficiency: of the full head; assumed: nobody measured it. measured: what was read of runs and replays.
    ranked, seen: how many ids could be kept, and how many of them something was counted for or forced.
    unavailable: always-keep ids that a head trimmed before no longer has.
    weights: of each source and of merge order in the estimate that ranks, summing to 1. weighed: where from, in words.
    interval: of the held-out coverage at the pick; None without a pick or where documents are too few.
    unseen: what calibration has not shown; None without a pick. workload: what fitting weights to it was worth.
    """

    kept: KeptVocabulary | None
    verdict: str
    reason: str
    sizes: tuple[SizeRow, ...]
    basis: str
    basis_tokens: int
    block_efficiency: float
    draft_length: int
    assumed: bool
    ranked: int
    seen: int
    always_keep: Mapping[int, str]
    unavailable: Mapping[int, str]
    weights: Mapping[str, float]
    weighed: str
    interval: Interval | None = None
    unseen: Unseen | None = None
    workload: WorkloadFit | None = None
    measured: str | None = None

    @property
    def picked(self) -> int | None:
        return None if self.kept is None else self.kept.size

    def as_dict(self) -> dict[str, Any]:
        """Everything but the ids, ready for JSON."""
        told = ("verdict", "reason", "basis", "basis_tokens", "block_efficiency", "draft_length", "assumed", "measured")
        return {
            "picked": self.picked,
            **{name: getattr(self, name) for name in told},
            "ranked": self.ranked,
            "seen": self.seen,
            "origins": None if self.kept is None else self.kept.by_origin(),
            "always_keep": {str(token): reason for token, reason in self.always_keep.items()},
            "unavailable": {str(token): reason for token, reason in self.unavailable.items()},
            "weights": dict(self.weights),
            "weighed": self.weighed,
            "interval": None if self.interval is None else asdict(self.interval),
            "unseen": None if self.unseen is None else asdict(self.unseen),
            "workload": None if self.workload is None else asdict(self.workload),
            "sizes": [asdict(row) for row in self.sizes],
        }


def choose(
    counts: TokenCounts | Sequence[TokenCounts],
    keep: int | float | str = "auto",
    *,
    cost: Cost | None = None,
    target: TokenizerFacts | None = None,
    available: Ids | None = None,
    multiple: int | None = None,
    prior: bool = True,
    other_work: float = OTHER_WORK,
    weights: Mapping[str, float] | None = None,
    workload: TokenCounts | None = None,
    always_keep: bool = True,
    also_keep: Iterable[int] | Mapping[int, str] = (),
    block_efficiency: float | None = None,
    draft_length: int = DRAFT_LENGTH,
    measured: Measured | None = None,
    sweep: Callable[[Sequence[KeptVocabulary]], Measured] | None = None,
) -> Choice:
    """Choose the ids that a drafter keeps.

    counts: the first is the primary, of the text most like the work; the others, and merge order, fill in what it
        is too small to show (mixture.py). Coverage and predictions are of the primary.
    keep: a number of ids (int); a share of the tokens to cover (float up to 1); or "auto", the size of the highest
        predicted MBSU, which needs `cost`.
    cost: of the drafter beside its target. target: the target's tokenizer, whose always-keep ids join those of the
        counts. available: (rows,) the ids that a head trimmed before still has; None for all.
    multiple: sizes are rounded up to it. Default: 64 as far as ids last, none for a number of ids.
    prior: whether the tokenizer's merge order is asked too; without it, ids that nobody has seen are not kept.
    other_work: the share of the estimate that is left to work unlike the primary (mixture.py); 0: there is none.
    weights: of sources by name, and of "merge-order", in place of the default ones; sources not named get none.
    workload: counts of real traffic; weights are fitted to its calibration part and read on its held-out part.
    always_keep: whether stop and chat-template ids are forced. also_keep: further ids to force, by themselves or
        each with its reason.
    block_efficiency: of the drafter with its head as it is, where measured; otherwise assumed. draft_length: with it.
    measured: block efficiencies of several sizes, and stage times; they take the place of predictions, and with times
        "auto" takes the size of the highest speed-up by them instead of MBSU. It tells the block efficiency too.
    sweep: measures a grid of sizes of this ranking, the smallest first, instead of `measured`.

    Raises InputError for a size or a coverage that cannot be had, MismatchError for another tokenizer's counts.
    """
    files = [counts] if isinstance(counts, TokenCounts) else list(counts)
    if weights and other_work != OTHER_WORK:
        raise InputError(
            "weights are given, and a share for other work that they leave no room for",
            remedy=f"pass --weight {PRIOR_OPTION}=W in place of --other-work",
        )
    tokenizer = one_tokenizer([*files, *([] if workload is None else [workload])], target, available, cost)
    forced = _forced(files, target, always_keep, also_keep)
    mixture, fitted = _weighed(
        combined(files, prior, other_work), weights, workload, keep, always_keep=forced, available=available
    )
    ranking = rank(mixture, always_keep=forced, available=available)
    if sweep is not None:
        sizes = grid(ranking, tokenizer.vocab_size)
        grid_kept = [ranking.kept(size, tokenizer.vocab_size, tokenizer.hash, {"verb": "sweep"}) for size in sizes]
        measured = sweep(grid_kept)
    if measured is not None:
        block_efficiency, draft_length = _agreed(block_efficiency, measured, cost), measured.draft_length
    table = _tabulate(
        files,
        ranking,
        available=available,
        cost=cost,
        block_efficiency=block_efficiency,
        draft_length=draft_length,
        measured=measured,
    )
    remedy = ways_out(prior, tokenizer.merge_ordered, available)
    if keep == "auto":
        best = best_size(table, ranking, multiple)
        size = best if best is not None and table.worth(best) > table.worth(None) else None
    else:
        best = size = asked_size(keep, table, ranking, multiple, remedy)
    verdict, reason = _judge(table, size, best)
    arguments = {
        "verb": "choose",
        "keep": keep,
        "multiple": multiple,
        "prior": prior,
        "other_work": other_work,
        "weights": mixture.weights,
        "weighed": mixture.how,
        "always_keep": always_keep,
        "block_efficiency": block_efficiency,
        "draft_length": draft_length,
    }
    certificate = birth_certificate(arguments, {f"counts {n}": part.hash for n, part in enumerate(files, start=1)})
    kept = None if size is None else ranking.kept(size, tokenizer.vocab_size, tokenizer.hash, certificate)
    mask = np.zeros(tokenizer.vocab_size, bool)
    mask[[] if kept is None else kept.ids] = True
    return Choice(
        kept=kept,
        verdict=verdict,
        reason=reason,
        sizes=rows_of(table, ranking, best),
        basis="held-out" if table.basis is table.heldout else "in-sample",
        basis_tokens=table.basis.total,
        block_efficiency=table.block_efficiency(None),
        draft_length=draft_length,
        assumed=block_efficiency is None,
        ranked=ranking.ids.size,
        seen=ranking.seen,
        always_keep=ranking.always_keep,
        unavailable=ranking.unavailable,
        weights=mixture.weights,
        weighed=mixture.how,
        interval=None if kept is None else heldout_interval(files[0], mask),
        unseen=None if kept is None else unseen(files[0].counts, files[0].heldout, mask),
        workload=fitted,
        measured=None if measured is None else measured.source,
    )


def _agreed(block_efficiency: float | None, measured: Measured, cost: Cost | None) -> float:
    """The full head's block efficiency, said once, by what was measured of this drafter."""
    if block_efficiency is not None:
        raise InputError(
            "the full head's block efficiency is given twice",
            expected="--measured or --block-efficiency",
            remedy="leave one of them out",
        )
    if cost is None or cost.full_head_rows != measured.full_size:
        raise InputError(
            f"{measured.source} was measured with another drafter",
            expected=f"a drafter with {measured.full_size:,} head rows",
            found="none" if cost is None else f"{cost.full_head_rows:,}",
            remedy="pass the --drafter and --target that it was measured with",
        )
    return measured.full


def rank_and_tabulate(
    files: Sequence[TokenCounts],
    *,
    cost: Cost,
    available: Ids | None,
    block_efficiency: float,
    draft_length: int,
) -> tuple[Ranking, SizeTable]:
    """The ranking that a size is cut from, and the table that predicts every size; arguments as for `choose`.

    Raises InputError for counts without a token, MismatchError for counts of different tokenizers.
    """
    one_tokenizer(files, None, available, cost)
    ranking = rank(combined(files), always_keep=_forced(files, None, True, ()), available=available)
    table = _tabulate(
        files,
        ranking,
        available=available,
        cost=cost,
        block_efficiency=block_efficiency,
        draft_length=draft_length,
        measured=None,
    )
    return ranking, table


def combined(files: Sequence[TokenCounts], prior: bool = True, other_work: float = OTHER_WORK) -> Mixture:
    """Every source of the files, and merge order unless without `prior`, with the weights taken by default."""
    groups = [[(source.name, source.counts) for source in part.sources] for part in files]
    return default_mixture(groups, files[0].tokenizer.merge_ordered if prior else 0, other_work)


def _weighed(
    mixture: Mixture,
    weights: Mapping[str, float] | None,
    workload: TokenCounts | None,
    keep: int | float | str,
    **ranked_with: Any,
) -> tuple[Mixture, WorkloadFit | None]:
    """The mixture that ranks: as it is by default, with weights as given, or with weights fitted to a workload."""
    if workload is None:
        return (with_weights(mixture, weights) if weights else mixture), None
    if weights:
        raise InputError("weights are given and to be fitted too", remedy="pass --weight or --workload, not both")
    ranking, vocab = rank(mixture, **ranked_with), mixture.sources[0].counts.size
    several = [1 << power for power in range(vocab.bit_length()) if vocab / 64 <= 1 << power <= vocab / 3]
    possible = range(len(ranking.always_keep) + 1, ranking.ids.size + 1)
    sizes = [size for size in ([keep] if isinstance(keep, int) else several) if size in possible]
    if not sizes:
        raise InputError(
            "no size to fit weights at",
            expected=f"{possible.start} to {ranking.ids.size} ids",
            found=keep,
            remedy="correct --keep",
        )
    return fit_to_workload(mixture, workload, sizes, **ranked_with)


def _tabulate(files: Sequence[TokenCounts], ranking: Ranking, **options: Any) -> SizeTable:
    table = size_table(files, ranking.ids, **options)
    if not table.basis.total:
        raise InputError("token counts are empty", expected="at least one token", found=0, remedy="count more text")
    return table


def one_tokenizer(
    files: Sequence[TokenCounts],
    target: TokenizerFacts | None = None,
    available: Ids | None = None,
    cost: Cost | None = None,
) -> TokenizerFacts:
    """The tokenizer that all counts share, proven to be the target's and to fit the drafter's head."""
    first = files[0].tokenizer
    others = [*(part.tokenizer for part in files[1:]), *([target] if target is not None else [])]
    for other in others:
        if other.hash != first.hash:
            raise MismatchError(
                "the target's tokenizer is not the one of the counts"
                if other is target
                else "token counts were made with different tokenizers",
                expected=f"tokenizer hash {first.hash}",
                found=other.hash,
                remedy="count the text again with the target's tokenizer",
            )
    if cost is not None and available is None and cost.full_head_rows < first.vocab_size:
        raise MismatchError(
            "the drafter's head has fewer rows than the tokenizer has ids, and no map says which",
            expected=f"at least {first.vocab_size} rows",
            found=cost.full_head_rows,
            remedy="pass the drafter that belongs to this target",
        )
    return first


def _forced(
    files: Sequence[TokenCounts],
    target: TokenizerFacts | None,
    always_keep: bool,
    also_keep: Iterable[int] | Mapping[int, str],
) -> dict[int, str]:
    forced = dict(also_keep) if isinstance(also_keep, Mapping) else dict.fromkeys(also_keep, ASKED_FOR)
    if always_keep:
        for facts in [*(part.tokenizer for part in files), *([target] if target is not None else [])]:
            forced.update(facts.always_keep)
    return dict(sorted(forced.items()))


def _judge(table: SizeTable, size: int | None, best: int | None) -> tuple[str, str]:
    """Verdict and reason for keeping `size` ids; None: auto found nothing, and `best` came closest."""
    if table.cost is None:
        return NOT_JUDGED, f"{size:,} ids; without --drafter and --target no gain can be predicted"
    full = table.worth(None)
    what = "predicted MBSU" if table.speedup(None) is None else "speed-up by measured times"
    if size is None:
        closest = "" if best is None else f"; the best, {best:,} ids, would reach {table.worth(best):.3f}"
        return DO_NOT_TRIM, f"No size beats the full head's {what} of {full:.3f}{closest}"
    gain = table.worth(size) / full - 1
    sentence = f"{size:,} ids: {what} {table.worth(size):.3f} against {full:.3f} with the full head"
    speedup = table.speedup(size)
    slow = "; the target alone is faster than either" if speedup is not None and max(speedup, full) < 1 else ""
    return (TRIM if gain > 0 else LOSING), f"{sentence} ({gain:+.1%}){slow}"
