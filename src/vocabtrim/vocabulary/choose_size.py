"""How many ids to keep, or "do not trim": from token counts to a kept vocabulary and the table that argues for it.

Knows rankings, sizes and verdicts; reads no drafter (what it costs comes in as a `Cost`) and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..calibrate.counts import TokenCounts
from ..calibrate.tokenizer import TokenizerFacts
from ..cost import Cost
from ..errors import InputError, MismatchError
from ..provenance import birth_certificate
from .kept import Ids, KeptVocabulary
from .measured import Measured
from .select import Ranking, rank
from .size_table import DRAFT_LENGTH, SizeRow, SizeTable, size_table

TRIM = "trim"
DO_NOT_TRIM = "do not trim"  # auto: no size beats the full head
LOSING = "losing trim"  # the size that was asked for is predicted to lose
NOT_JUDGED = "not judged"  # no drafter to judge it by

ASKED_FOR = "asked for"
MULTIPLE = 64  # of rows: what matrix kernels like


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
    always_keep: bool = True,
    also_keep: Iterable[int] | Mapping[int, str] = (),
    block_efficiency: float | None = None,
    draft_length: int = DRAFT_LENGTH,
    measured: Measured | None = None,
    sweep: Callable[[Sequence[KeptVocabulary]], Measured] | None = None,
) -> Choice:
    """Choose the ids that a drafter keeps.

    counts: the first is the primary, of the text most like the work; the others are asked, in their order, about ids
        that it never saw. Coverage and predictions are of the primary.
    keep: a number of ids (int); a share of the tokens to cover (float up to 1); or "auto", the size of the highest
        predicted MBSU, which needs `cost`.
    cost: of the drafter beside its target. target: the target's tokenizer, whose always-keep ids join those of the
        counts. available: (rows,) the ids that a head trimmed before still has; None for all.
    multiple: sizes are rounded up to it. Default: 64 as far as ids last, none for a number of ids.
    prior: whether ids that nobody has seen may follow in the tokenizer's merge order.
    always_keep: whether stop and chat-template ids are forced. also_keep: further ids to force, by themselves or
        each with its reason.
    block_efficiency: of the drafter with its head as it is, where measured; otherwise assumed. draft_length: with it.
    measured: block efficiencies of several sizes, and stage times; they take the place of predictions, and with times
        "auto" takes the size of the highest speed-up by them instead of MBSU. It tells the block efficiency too.
    sweep: measures a grid of sizes of this ranking, the smallest first, instead of `measured`.

    Raises InputError for a size or a coverage that cannot be had, MismatchError for another tokenizer's counts.
    """
    files = [counts] if isinstance(counts, TokenCounts) else list(counts)
    tokenizer = _one_tokenizer(files, target, available, cost)
    forced = _forced(files, target, always_keep, also_keep)
    ranking = _rank(files, available, prior, forced)
    if sweep is not None:
        sizes = grid(ranking, tokenizer.vocab_size)
        kept = [ranking.kept(size, tokenizer.vocab_size, tokenizer.hash, {"verb": "sweep"}) for size in sizes]
        measured = sweep(kept)
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
    ways_out = _ways_out(prior, tokenizer.merge_ordered, available)
    if keep == "auto":
        best = best_size(table, ranking, multiple)
        size = best if best is not None and table.worth(best) > table.worth(None) else None
    else:
        best = size = _asked_size(keep, table, ranking, multiple, ways_out)
    verdict, reason = _judge(table, size, best)
    arguments = {
        "verb": "choose",
        "keep": keep,
        "multiple": multiple,
        "prior": prior,
        "always_keep": always_keep,
        "block_efficiency": block_efficiency,
        "draft_length": draft_length,
    }
    certificate = birth_certificate(arguments, {f"counts {n}": part.hash for n, part in enumerate(files, start=1)})
    return Choice(
        kept=None if size is None else ranking.kept(size, tokenizer.vocab_size, tokenizer.hash, certificate),
        verdict=verdict,
        reason=reason,
        sizes=_rows(table, ranking, best),
        basis="held-out" if table.basis is table.heldout else "in-sample",
        basis_tokens=table.basis.total,
        block_efficiency=table.block_efficiency(None),
        draft_length=draft_length,
        assumed=block_efficiency is None,
        ranked=ranking.ids.size,
        seen=ranking.seen,
        always_keep=ranking.always_keep,
        unavailable=ranking.unavailable,
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
    _one_tokenizer(files, None, available, cost)
    ranking = _rank(files, available, True, _forced(files, None, True, ()))
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


def grid(ranking: Ranking, vocab: int) -> list[int]:
    """Sizes that a sweep measures: the vocabulary halved and halved again, down to what is always kept."""
    halves = [vocab >> times for times in range(1, vocab.bit_length())]
    possible = range(max(len(ranking.always_keep), 1), min(ranking.ids.size, vocab - 1) + 1)
    return sorted(size for size in halves[:7] if size in possible)


def _rank(files: Sequence[TokenCounts], available: Ids | None, prior: bool, forced: Mapping[int, str]) -> Ranking:
    return rank(
        [(" + ".join(source.name for source in part.sources), part.counts) for part in files],
        always_keep=forced,
        merge_ordered=files[0].tokenizer.merge_ordered if prior else 0,
        available=available,
    )


def _tabulate(files: Sequence[TokenCounts], ranking: Ranking, **options: Any) -> SizeTable:
    table = size_table(files, ranking.ids, **options)
    if not table.basis.total:
        raise InputError("token counts are empty", expected="at least one token", found=0, remedy="count more text")
    return table


def parse_keep(text: str) -> int | float | str:
    """What `--keep` says: "auto", a whole number of ids, or a share of the tokens above 0 and up to 1.

    A whole "1" is one id; "1.0" is all tokens. Raises InputError for anything else.
    """
    if text == "auto":
        return text
    try:
        keep = int(text) if text.isdecimal() else float(text)
    except ValueError:
        keep = 0
    if keep == 0 or (isinstance(keep, float) and not 0 < keep <= 1):
        raise InputError(
            "--keep is no size",
            expected='"auto", a number of ids such as 32000, or a coverage such as 0.99',
            found=repr(text),
            remedy="correct --keep",
        )
    return keep


def _one_tokenizer(
    files: Sequence[TokenCounts], target: TokenizerFacts | None, available: Ids | None, cost: Cost | None
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


def _ways_out(prior: bool, merge_ordered: int, available: Ids | None) -> str:
    more = "keep fewer, count more text, or add counts to fall back on"
    if available is not None:
        more = f"the drafter's head was trimmed to {available.size:,} ids before, so {more}"
    if not prior and merge_ordered:
        return f"{more}, or drop --no-prior to continue in the tokenizer's merge order"
    return more if merge_ordered else f"{more}; this tokenizer has no merge order to continue in"


def _asked_size(
    keep: int | float | str, table: SizeTable, ranking: Ranking, multiple: int | None, ways_out: str
) -> int:
    if isinstance(keep, str):
        raise InputError("keep is no size", expected='"auto", int or float', found=repr(keep), remedy="correct it")
    if isinstance(keep, int):
        size = _round_up(keep, multiple or 1)
    else:
        size = _round_up(_size_of_coverage(keep, table, ranking, ways_out), multiple or MULTIPLE)
        if multiple is None:
            size = min(size, ranking.ids.size)
    forced = len(ranking.always_keep)
    if size < max(forced, 1):
        raise InputError(
            "kept size has no room for the always-keep ids",
            expected=f"at least {max(forced, 1)}",
            found=size,
            remedy="keep more, or pass --no-always-keep",
        )
    if size > ranking.ids.size:
        raise InputError(
            f"kept size asks for ids that nothing speaks for ({ranking.seen:,} were seen or are always kept)",
            expected=f"at most {ranking.ids.size}",
            found=size,
            remedy=ways_out,
        )
    return size


def _size_of_coverage(share: float, table: SizeTable, ranking: Ranking, ways_out: str) -> int:
    if not 0 < share <= 1:
        raise InputError("coverage is out of range", expected="above 0 and up to 1", found=share, remedy="correct it")
    size = table.basis.smallest(share)
    if size is None:
        reached = table.basis.share(ranking.ids.size)
        raise InputError(
            f"no kept vocabulary covers that much: all {ranking.ids.size:,} ids that can be ranked reach {reached:.6f}",
            expected=f"a coverage up to {reached:.6f}",
            found=share,
            remedy=ways_out,
        )
    return max(size, len(ranking.always_keep), 1)


def best_size(table: SizeTable, ranking: Ranking, multiple: int | None = None) -> int | None:
    """The multiple of the highest `SizeTable.worth`, the smallest of equals; None where no multiple is a trim."""
    if table.cost is None:
        raise InputError(
            "auto weighs coverage against the drafter's cost, which is not known",
            remedy="pass --drafter and --target, or --keep with a number of ids or a coverage such as 0.99",
        )
    step = multiple or MULTIPLE
    measured = [] if table.measured is None else sorted(table.measured.block_efficiencies)[:-1]
    # Below the smallest measured size nothing is known of what is lost.
    smallest = _round_up(max(len(ranking.always_keep), *measured[:1], 1), step)
    sizes = range(smallest, min(ranking.ids.size, table.full_size - 1) + 1, step)
    return max(sizes, key=table.worth, default=None)  # the first of equals


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


def _rows(table: SizeTable, ranking: Ranking, picked: int | None) -> tuple[SizeRow, ...]:
    """Powers of two, what was measured, the pick, and the full head."""
    smallest = 1024 if table.full_size > 8192 else 32
    sizes = {smallest << doubling for doubling in range(table.full_size.bit_length())}
    possible = range(len(ranking.always_keep), min(ranking.ids.size, table.full_size - 1) + 1)
    measured = set() if table.measured is None else set(table.measured.block_efficiencies)
    rows = {size for size in sizes | measured | {picked} if size is not None and size in possible}
    return (*(table.row(size) for size in sorted(rows)), table.row(None))


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
