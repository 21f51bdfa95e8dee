"""Which kept vocabularies are tried: the head halved and halved again, and what `choose` would pick by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..calibrate.count import count
from ..calibrate.counts import TokenCounts
from ..errors import InputError
from ..job import choose
from ..vocabulary.kept import KeptVocabulary
from ..vocabulary.kept_size import MULTIPLE

_HALVINGS = 6


def kept_from_counts(
    counts: Sequence[TokenCounts], *, full_size: int, drafter: Path, target: Path
) -> list[KeptVocabulary]:
    """The smallest first. Sizes that leave no room for the ids that are always kept, or that nothing speaks for, are
    left out."""
    found: dict[int, KeptVocabulary] = {}
    halves = [full_size >> times for times in range(1, _HALVINGS + 1)]
    sizes: list[int | str] = ["auto", *(size for size in halves if size >= MULTIPLE)]
    for keep in sizes:
        try:
            kept = choose(counts, keep, drafter=drafter, target=target).kept
        except InputError:
            if keep == "auto":
                raise
            continue
        if kept is not None and kept.size < full_size:
            found[kept.size] = kept
    return [found[size] for size in sorted(found)]


def read_counts(calibrate: Sequence[str | Path], tokenizer: str | Path) -> list[TokenCounts]:
    """Counts files as they are; text is counted. The first is the primary."""
    return [
        TokenCounts.load(Path(source))
        if Path(source).suffix == ".safetensors"
        else count([str(source)], tokenizer=tokenizer)
        for source in calibrate
    ]
