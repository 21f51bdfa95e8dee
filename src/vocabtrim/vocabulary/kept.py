"""KeptVocabulary: the target ids a trimmed head still scores, and the one place where their invariants are proven.

Knows ids, where each came from, and the file that holds them; knows nothing of counts, heads or engines.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import InputError
from ..provenance import write_file

Ids = npt.NDArray[np.int64]

ALWAYS_KEEP = "always-keep"
MERGE_ORDER = "merge order"
GIVEN = "given"


@dataclass(frozen=True, eq=False)
class KeptVocabulary:
    """Ascending, unique int64 target ids inside [0, target_vocab), with the story of each.

    ids: (kept,), ascending target ids; row i of a trimmed head scores ids[i].
    target_vocab: how many ids the target's tokenizer has; padded head rows above it are never kept.
    tokenizer_hash: `TokenizerFacts.hash` of the tokenizer that gives the ids their meaning; None where unknown.
    origin: (kept,) uint8, for each id the index into `origin_names` of what put it there: the forced ids
        ("always-keep"), a source of counts by name, the prior ("merge order"), or "given".
    always_keep: the ids that were forced, each with the reason ("stop token", "chat template", ...).
    provenance: how the ids were chosen: arguments, counts hash, birth certificate.
    """

    ids: Ids
    target_vocab: int
    tokenizer_hash: str | None = None
    origin: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    origin_names: tuple[str, ...] = (GIVEN,)
    always_keep: Mapping[int, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.origin.size == 0:
            object.__setattr__(self, "origin", np.zeros(self.ids.size, np.uint8))
        _prove(self.ids, self.target_vocab)
        if self.origin.shape != self.ids.shape or (self.origin >= len(self.origin_names)).any():
            raise InputError(
                "kept vocabulary does not say where each id came from",
                expected=f"{self.ids.size} origins below {len(self.origin_names)}",
                found=f"{self.origin.size}, the largest {self.origin.max(initial=0)}",
                remedy="choose it again with `vocabtrim choose`",
            )
        ids = self.ids.view()  # the caller's own array stays writable
        ids.setflags(write=False)
        object.__setattr__(self, "ids", ids)

    @property
    def size(self) -> int:
        """Number of kept ids: the rows of a trimmed head."""
        return int(self.ids.size)

    @property
    def hash(self) -> str:
        """Hex SHA-256 of the ids and the target vocabulary's size; a trimmed head stores it beside its rows."""
        return hashlib.sha256(f"{self.target_vocab}:".encode() + self.ids.astype("<i8").tobytes()).hexdigest()

    def by_origin(self) -> dict[str, int]:
        """How many ids each origin put there."""
        tally = np.bincount(self.origin, minlength=len(self.origin_names))
        return {name: int(n) for name, n in zip(self.origin_names, tally, strict=True)}

    def save(self, path: Path) -> None:
        """Write `kept.safetensors`: tensors `kept_ids` int64 (kept,), `kept_origin` uint8 (kept,); the rest as JSON."""
        story = {
            "target_vocab": self.target_vocab,
            "tokenizer_hash": self.tokenizer_hash,
            "kept_hash": self.hash,
            "origin_names": self.origin_names,
            "always_keep": {str(token): reason for token, reason in self.always_keep.items()},
            "provenance": dict(self.provenance),
        }
        # safetensors writes the memory behind an array, whatever its strides.
        parts = {"kept_ids": self.ids, "kept_origin": self.origin}
        tensors: dict[str, npt.NDArray[Any]] = {name: np.ascontiguousarray(part) for name, part in parts.items()}
        write_file(path, save(tensors, metadata={"vocabtrim": json.dumps(story)}), "kept")

    @classmethod
    def load(cls, path: Path) -> KeptVocabulary:
        """Read `kept.safetensors`, proving every invariant.

        Raises InputError when the file is missing, no kept vocabulary, or breaks an invariant.
        """
        remedy = "pass the file that `vocabtrim choose` or `vocabtrim convert` wrote"
        try:
            path.open("rb").close()  # the library calls a file that may not be read missing
            with safe_open(path, framework="np") as file:
                story = json.loads((file.metadata() or {})["vocabtrim"])
                kept = cls(
                    ids=file.get_tensor("kept_ids"),
                    target_vocab=story["target_vocab"],
                    tokenizer_hash=None if story["tokenizer_hash"] is None else str(story["tokenizer_hash"]),
                    origin=file.get_tensor("kept_origin"),
                    origin_names=tuple(story["origin_names"]),
                    always_keep={int(token): reason for token, reason in story["always_keep"].items()},
                    provenance=story["provenance"],
                )
        except FileNotFoundError as error:
            raise InputError(f"kept vocabulary {path} does not exist", remedy=remedy) from error
        except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(f"{path} is no kept vocabulary", found=error, remedy=remedy) from error
        if kept.hash != story.get("kept_hash"):
            raise InputError(
                f"kept ids of {path} were changed after they were written",
                expected=f"hash {str(story.get('kept_hash'))[:12]}",
                found=kept.hash[:12],
                remedy="choose them again with `vocabtrim choose`",
            )
        return kept


def _prove(ids: Ids, target_vocab: int) -> None:
    if ids.dtype != np.int64 or ids.ndim != 1:
        raise InputError(
            "kept ids have the wrong form",
            expected="int64 (kept,)",
            found=f"{ids.dtype} {ids.shape}",
            remedy="pass one vector of token ids",
        )
    if ids.size == 0:
        raise InputError("kept vocabulary is empty", expected="at least one id", remedy="keep more ids")
    outside = ids[(ids < 0) | (ids >= target_vocab)]
    if outside.size:
        raise InputError(
            f"{outside.size} kept ids lie outside the target's vocabulary",
            expected=f"0 to {target_vocab - 1}",
            found=f"{outside[0]}",
            remedy="choose the ids with the target's own tokenizer",
        )
    steps = np.diff(ids)
    if (steps <= 0).any():
        at = int(np.argmax(steps <= 0))
        kind = "unsorted" if steps[at] < 0 else "repeated"
        raise InputError(
            f"kept ids are {kind} at position {at + 1}",
            expected="ascending unique ids",
            found=f"{ids[at]} then {ids[at + 1]}",
            remedy="read a foreign map with `vocabtrim convert --to ids`",
        )
