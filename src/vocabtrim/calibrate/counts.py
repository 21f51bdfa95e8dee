"""TokenCounts: how often the target's tokens occur, per source, in a calibration and a held-out part.

Knows vectors of counts, the file that holds them, and how several are merged. Knows nothing of text, tokenisation
or which ids will be kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, MismatchError
from ..provenance import birth_certificate, write_file
from .blocks import BLOCKS, Blocks, added_up, summed
from .tokenizer import TokenizerFacts

Counts = npt.NDArray[np.int64]

RAW = "raw"
TARGET_GENERATED = "target-generated"
DRAFTER_GENERATED = "drafter-generated"
ORIGINS = (RAW, TARGET_GENERATED, DRAFTER_GENERATED)

MAX_WEIGHT = 1_000_000
_MAX_TOKENS = 1 << 53  # of one source once weighted: sums of many stay within int64, and each count exact

_REMEDY = "pass the file that `vocabtrim count` or `vocabtrim merge` wrote"


@dataclass(frozen=True, eq=False)
class SourceCounts:
    """The counts of one source of calibration text.

    name: unique among the sources of a TokenCounts.
    origin: who wrote the text: "raw", "target-generated" or "drafter-generated".
    counts, heldout: (target_vocab,) int64, occurrences of each id in the calibration and in the held-out documents.
    details: files with sizes and hashes, documents, skipped, how it was tokenised; for people and provenance.
    blocks: (2, entries) int64, `heldout` in blocks of documents, as in blocks.py; None where they were not kept.
    """

    name: str
    origin: str
    counts: Counts
    heldout: Counts
    details: Mapping[str, Any] = field(default_factory=dict)
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            raise InputError(
                f"source {self.name} has an unknown origin",
                expected=" or ".join(ORIGINS),
                found=repr(self.origin),
                remedy="name who wrote the text with --origin",
            )
        for part, vector in (("counts", self.counts), ("heldout", self.heldout)):
            if vector.dtype != np.int64 or vector.shape != self.counts.shape or vector.ndim != 1:
                raise InputError(
                    f"{part} of source {self.name} have the wrong form",
                    expected=f"int64 ({self.counts.size},)",
                    found=f"{vector.dtype} {vector.shape}",
                    remedy=_REMEDY,
                )
            if (vector < 0).any():
                raise InputError(
                    f"{part} of source {self.name} are negative at id {int(np.argmax(vector < 0))}",
                    expected="0 or more",
                    found=int(vector.min()),
                    remedy=_REMEDY,
                )
            vector.setflags(write=False)
        if self.blocks is not None and not _add_up(self.blocks, self.heldout):
            raise InputError(
                f"blocks of source {self.name} do not add up to its held-out counts",
                expected=f"{int(self.heldout.sum())} tokens",
                found=int(self.blocks[-1].sum()),
                remedy=_REMEDY,
            )

    @property
    def tokens(self) -> int:
        """Tokens counted, held-out ones included."""
        return int(self.counts.sum() + self.heldout.sum())

    @property
    def distinct(self) -> int:
        """How many different ids were seen, held-out ones included."""
        return int(np.count_nonzero(self.counts + self.heldout))


@dataclass(frozen=True, eq=False)
class TokenCounts:
    """Token counts of one or more sources under one tokenizer.

    documents: how many documents were counted, held-out ones included.
    skipped: reason -> number of documents, records or lines that were not counted.
    provenance: arguments, input hashes, birth certificate.
    """

    tokenizer: TokenizerFacts
    sources: tuple[SourceCounts, ...]
    documents: int
    skipped: Mapping[str, int] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("token counts have no source", expected="at least one", remedy=_REMEDY)
        names = [source.name for source in self.sources]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"two sources are named {min(twice)}", expected="unique names", remedy=_REMEDY)
        for source in self.sources:
            if source.counts.size != self.tokenizer.vocab_size:
                raise InputError(
                    f"counts of source {source.name} do not fit the tokenizer",
                    expected=f"{self.tokenizer.vocab_size} ids",
                    found=source.counts.size,
                    remedy=_REMEDY,
                )

    @property
    def counts(self) -> Counts:
        """(target_vocab,) int64: occurrences of each id in the calibration documents of all sources."""
        return _sum([source.counts for source in self.sources])

    @property
    def heldout(self) -> Counts:
        """(target_vocab,) int64: occurrences of each id in the held-out documents of all sources."""
        return _sum([source.heldout for source in self.sources])

    @property
    def tokens(self) -> int:
        """Tokens counted over all sources, held-out ones included."""
        return sum(source.tokens for source in self.sources)

    @property
    def distinct(self) -> int:
        """How many different ids were seen at all, held-out ones included."""
        return int(np.count_nonzero(self.counts + self.heldout))

    @property
    def hash(self) -> str:
        """Hex SHA-256 of the tensors as the file holds them, in the order of their names."""
        digest = hashlib.sha256()
        for name, vector in sorted(self._tensors().items()):
            digest.update(f"{name}:{vector.size}:".encode() + vector.astype("<i8").tobytes())
        return digest.hexdigest()

    def _tensors(self) -> dict[str, Counts]:
        tensors = {"counts": self.counts, "heldout": self.heldout}
        for source in self.sources:
            tensors[f"counts/{source.name}"] = source.counts
            tensors[f"heldout/{source.name}"] = source.heldout
            if source.blocks is not None:
                tensors[f"blocks/{source.name}"] = source.blocks
        return tensors

    def save(self, path: Path) -> None:
        """Write `counts.safetensors`: `counts`, `heldout` and, per source, `counts/<name>`, `heldout/<name>`.

        All are int64 (target_vocab,). `blocks/<name>`, int64 (2, entries), is the held-out part in blocks of documents
        (blocks.py), where it was kept. The rest is JSON under the metadata key "vocabtrim".
        """
        from safetensors.numpy import save

        story = {
            "tokenizer": asdict(self.tokenizer),
            "sources": [{"name": s.name, "origin": s.origin, "details": dict(s.details)} for s in self.sources],
            "documents": self.documents,
            "skipped": dict(self.skipped),
            "counts_hash": self.hash,
            "provenance": dict(self.provenance),
        }
        write_file(path, save(self._tensors(), metadata={"vocabtrim": json.dumps(story)}), "counts")

    @classmethod
    def load(cls, path: Path) -> TokenCounts:
        """Read `counts.safetensors`, proving every invariant.

        Raises InputError when the file is missing, holds no token counts, or breaks an invariant.
        """
        from safetensors import SafetensorError, safe_open

        try:
            path.open("rb").close()  # the library calls a file that may not be read missing
            with safe_open(path, framework="np") as file:
                story = json.loads((file.metadata() or {})["vocabtrim"])
                blocks = {name: file.get_tensor(name) for name in file.keys() if name.startswith("blocks/")}  # noqa: SIM118
                counts = cls(
                    tokenizer=_facts(story["tokenizer"]),
                    sources=tuple(
                        SourceCounts(
                            name=source["name"],
                            origin=source["origin"],
                            counts=file.get_tensor(f"counts/{source['name']}"),
                            heldout=file.get_tensor(f"heldout/{source['name']}"),
                            details=source["details"],
                            blocks=blocks.get(f"blocks/{source['name']}"),
                        )
                        for source in story["sources"]
                    ),
                    documents=int(story["documents"]),
                    skipped=story["skipped"],
                    provenance=story["provenance"],
                )
                together = {name: file.get_tensor(name) for name in ("counts", "heldout")}
        except FileNotFoundError as error:
            raise InputError(f"token counts {path} do not exist", remedy=_REMEDY) from error
        except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(f"{path} holds no token counts", found=error, remedy=_REMEDY) from error
        _prove_whole(counts, together, str(story.get("counts_hash")), path)
        return counts


def _sum(vectors: Sequence[Counts]) -> Counts:
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return total


def _add_up(blocks: Blocks, heldout: Counts) -> bool:
    """Whether blocks have their form and sum to the held-out counts."""
    formed = blocks.dtype == np.int64 and blocks.ndim == 2 and blocks.shape[0] == 2 and not (blocks < 0).any()
    if not formed or (blocks[0] >= BLOCKS * heldout.size).any():
        return False
    return np.array_equal(summed(blocks, heldout.size), heldout)


def _facts(story: Mapping[str, Any]) -> TokenizerFacts:
    always_keep = {int(token): str(reason) for token, reason in story["always_keep"].items()}
    return TokenizerFacts(story["hash"], int(story["vocab_size"]), int(story["merge_ordered"]), always_keep)


def _prove_whole(counts: TokenCounts, together: Mapping[str, Counts], written_hash: str, path: Path) -> None:
    for name, expected in (("counts", counts.counts), ("heldout", counts.heldout)):
        if not np.array_equal(together[name], expected):
            raise InputError(
                f"{name} of {path} are not the sum of their sources",
                expected=f"{int(expected.sum())} tokens",
                found=int(together[name].sum()),
                remedy="count again with `vocabtrim count`",
            )
    if counts.hash != written_hash:
        raise InputError(
            f"counts of {path} were changed after they were written",
            expected=f"hash {written_hash[:12]}",
            found=counts.hash[:12],
            remedy="count again with `vocabtrim count`",
        )


def merge(counts: Sequence[TokenCounts], weights: Sequence[float] | None = None) -> TokenCounts:
    """Several counts under one tokenizer as one.

    weights: one per element of `counts`, 0 to 1,000,000; its counts are multiplied and rounded to whole numbers,
        but an id that was seen never drops to 0 at a positive weight. Default: 1 each. At weight 0 a source stays by
        name, with nothing in it. A source with another weight than 1 loses its blocks.
    Sources of one name are added where they are parts of one source (same origin, same argument to `count`);
    otherwise both stay, the later one numbered.

    Raises MismatchError for counts made with different tokenizers, InputError for bad weights.
    """
    weights = [1.0] * len(counts) if weights is None else list(weights)
    if not counts or len(weights) != len(counts):
        raise InputError(
            "weights do not fit the counts to merge",
            expected=f"{len(counts)} weights for {len(counts)} files" if counts else "at least one counts file",
            found=len(weights),
            remedy="pass one --weight for each counts file, in the same order",
        )
    for weight in weights:
        if not 0 <= weight <= MAX_WEIGHT:  # neither is NaN
            raise InputError(
                "weight is out of range", expected=f"0 to {MAX_WEIGHT:,}", found=weight, remedy="correct --weight"
            )
    first = counts[0].tokenizer
    for other in counts[1:]:
        if other.tokenizer.hash != first.hash:
            raise MismatchError(
                "counts were made with different tokenizers",
                expected=f"tokenizer hash {first.hash}",
                found=other.tokenizer.hash,
                remedy="count all text with the target's own tokenizer",
            )

    merged: dict[str, SourceCounts] = {}
    for part, weight in zip(counts, weights, strict=True):
        for source in part.sources:
            _add_source(merged, _scaled(source, weight))
    skipped: dict[str, int] = {}
    for part in counts:
        for reason, number in part.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + number
    return TokenCounts(
        tokenizer=replace(first, always_keep={k: v for part in counts for k, v in part.tokenizer.always_keep.items()}),
        sources=tuple(merged.values()),
        documents=sum(part.documents for part in counts),
        skipped=skipped,
        provenance=birth_certificate(
            {"weights": weights}, {f"counts {n}": part.hash for n, part in enumerate(counts, 1)}
        ),
    )


def _scaled(source: SourceCounts, weight: float) -> SourceCounts:
    if weight == 1:
        return source

    if source.tokens * weight > _MAX_TOKENS:
        raise InputError(
            f"weight {weight:g} makes the counts of source {source.name} too large",
            expected=f"at most {_MAX_TOKENS:,} tokens",
            found=f"{source.tokens * weight:.2g}",
            remedy="lower --weight; only the ratio of the weights matters",
        )

    def scale(counts: Counts) -> Counts:
        scaled: Counts = np.rint(counts * weight).astype(np.int64)
        scaled[(counts > 0) & (scaled == 0) & (weight > 0)] = 1
        return scaled

    details = {**source.details, "weight": source.details.get("weight", 1.0) * weight}
    # Blocks are of documents as they were counted, and rounded parts would not add up to rounded sums.
    return replace(source, counts=scale(source.counts), heldout=scale(source.heldout), details=details, blocks=None)


def _add_source(merged: dict[str, SourceCounts], source: SourceCounts) -> None:
    name, number = source.name, 1
    while (there := merged.get(name)) is not None:
        if there.origin == source.origin and there.details.get("argument") == source.details.get("argument"):
            parts = [*there.details.get("parts", [dict(there.details)]), dict(source.details)]
            documents = sum(part.get("documents", 0) for part in parts)
            both = [part.blocks for part in (there, source) if part.blocks is not None]
            merged[name] = replace(
                there,
                counts=there.counts + source.counts,
                heldout=there.heldout + source.heldout,
                details={"argument": source.details.get("argument"), "documents": documents, "parts": parts},
                blocks=added_up(both) if len(both) == 2 else None,
            )
            return
        number += 1
        name = f"{source.name} ({number})"
    merged[name] = replace(source, name=name)
