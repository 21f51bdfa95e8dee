"""What there is by now, and whether it is enough: tokens against a budget, held-out coverage against its last gain.

Knows answers and vectors; knows nothing of who writes them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..calibrate.tally import is_held_out
from ..errors import InputError
from .answers import SERVER, TARGET, TEXT, Answer

HELD_OUT = 0.1  # share of prompts whose answers are not calibration text but what coverage is read on
_FEWEST = 10_000  # tokens of calibration text before a gain is believed


@dataclass(frozen=True)
class Until:
    """When to stop before the prompts are used up. tokens: when so many were collected. gain: when the second half of
    the calibration tokens raised held-out coverage by less than this share; see `Tally.gain`."""

    tokens: int | None = None
    gain: float | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 1:
            raise InputError(
                "the budget is out of range", expected="1 token or more", found=self.tokens, remedy="raise --max-tokens"
            )
        if self.gain is not None and not 0 < self.gain < 1:
            raise InputError(
                "the gain to stop at is out of range",
                expected="a share between 0 and 1",
                found=self.gain,
                remedy="--until-flat 0.001",
            )


class Tally:
    """Answers counted as they come, those of an earlier run first. vocab_size: ids of the tokenizer."""

    def __init__(self, vocab_size: int) -> None:
        self.answers = 0
        self.tokens = 0
        self.left_out: Counter[str] = Counter()
        self.ids_from: Counter[str] = Counter()
        self.compared = self.fitting = 0  # answers of a server that could be compared with the tokenizer
        self._calibration = self._looked_at = 0
        self._flat = False
        self._first_seen = np.full(vocab_size, np.iinfo(np.int64).max)  # calibration tokens before an id's first one
        self._heldout = np.zeros(vocab_size, np.int64)

    def add(self, answer: Answer) -> None:
        """Take one more answer."""
        self.answers += 1
        self.compared += answer.written.fits is not None
        self.fitting += answer.written.fits is True
        if answer.left_out is not None:
            self.left_out[answer.left_out] += 1
            return
        written = answer.written
        self.ids_from[written.ids_from] += 1
        self.tokens += len(written.token_ids)
        ids = np.asarray([token for token in written.token_ids if 0 <= token < len(self._heldout)], np.int64)
        if is_held_out(answer.key, HELD_OUT):
            np.add.at(self._heldout, ids, 1)
        else:
            new, place = np.unique(ids, return_index=True)
            np.minimum.at(self._first_seen, new, self._calibration + place)
            self._calibration += len(ids)

    @property
    def coverage(self) -> float | None:
        """Share of held-out tokens whose id was seen in calibration text; None before there are any."""
        return self._covered(self._calibration)

    @property
    def gain(self) -> float | None:
        """What the second half of the calibration tokens added to that coverage; None while there are too few of them.

        Twice the text brings about this much; both halves are read on the same held-out tokens.
        """
        now, before = self._covered(self._calibration), self._covered(self._calibration // 2)
        return None if now is None or before is None or self._calibration < _FEWEST else now - before

    def _covered(self, calibration: int) -> float | None:
        held = int(self._heldout.sum())
        return None if not held else float(self._heldout[self._first_seen < calibration].sum() / held)

    def enough(self, until: Until) -> str | None:
        """Why no more is asked for; None while more is."""
        if until.tokens is not None and self.tokens >= until.tokens:
            return "budget"
        if until.gain is not None and self._calibration >= 1.02 * self._looked_at:  # now and then: it takes a while
            self._looked_at = self._calibration
            self._flat = (gain := self.gain) is not None and gain < until.gain
        return "flat" if self._flat else None


IDS_FROM = {TARGET: "emitted by the target", SERVER: "told by the server", TEXT: "tokenised again"}
