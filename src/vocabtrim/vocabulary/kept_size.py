"""Kept sizes: what `--keep` says, the size that is meant by it, and the sizes that a table shows.

Knows rankings and tables of sizes; passes no verdict.
"""

from __future__ import annotations

from ..errors import InputError
from .kept import Ids
from .select import Ranking
from .size_table import SizeRow, SizeTable

MULTIPLE = 64  # of rows: what matrix kernels like


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


def grid(ranking: Ranking, vocab: int) -> list[int]:
    """Sizes that a sweep measures: the vocabulary halved and halved again, down to what is always kept."""
    halves = [vocab >> times for times in range(1, vocab.bit_length())]
    possible = range(max(len(ranking.always_keep), 1), min(ranking.ids.size, vocab - 1) + 1)
    return sorted(size for size in halves[:7] if size in possible)


def rows_of(table: SizeTable, ranking: Ranking, picked: int | None) -> tuple[SizeRow, ...]:
    """Powers of two, what was measured, the pick, and the full head."""
    smallest = 1024 if table.full_size > 8192 else 32
    sizes = {smallest << doubling for doubling in range(table.full_size.bit_length())}
    possible = range(len(ranking.always_keep), min(ranking.ids.size, table.full_size - 1) + 1)
    measured = set() if table.measured is None else set(table.measured.block_efficiencies)
    rows = {size for size in sizes | measured | {picked} if size is not None and size in possible}
    return (*(table.row(size) for size in sorted(rows)), table.row(None))


def ways_out(prior: bool, merge_ordered: int, available: Ids | None) -> str:
    more = "keep fewer, count more text, or add counts to fall back on"
    if available is not None:
        more = f"the drafter's head was trimmed to {available.size:,} ids before, so {more}"
    if not prior and merge_ordered:
        return f"{more}, or drop --no-prior to continue in the tokenizer's merge order"
    return more if merge_ordered else f"{more}; this tokenizer has no merge order to continue in"


def asked_size(keep: int | float | str, table: SizeTable, ranking: Ranking, multiple: int | None, ways_out: str) -> int:
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


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
