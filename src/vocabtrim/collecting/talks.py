"""Prompt files -> the answers that are wanted, each with a key of its own, in an order that favours nothing.

Knows questions; knows nothing of models, servers or files of answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..measure.questions import Question, questions


@dataclass(frozen=True)
class Talk:
    """A question, asked as the `sample`-th of several times. keys: of the answer to each of its turns."""

    question: Question
    sample: int
    keys: tuple[str, ...]

    def messages(self, answers: Sequence[str]) -> list[dict[str, Any]]:
        """What the target reads before its next answer. answers: to the turns before."""
        asked = [dict(message) for message in self.question.before]
        for turn, answer in zip(self.question.turns, answers, strict=False):
            asked += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
        return [*asked, {"role": "user", "content": self.question.turns[len(answers)]}]


def talks(
    files: Sequence[str | Path],
    *,
    samples: int = 1,
    categories: Collection[str] | None = None,
    limit: int | None = None,
) -> tuple[list[Talk], int]:
    """All talks of some question files in the order of their keys, and how many questions stood there again.

    The keys are hashes, so that any part of the order is a random sample of all categories, and the same one each time.
    categories, limit: see `questions`, for each file. Raises InputError as `questions`, without a file, and for samples
    below 1.
    """
    if not files:
        raise InputError("there are no prompts", expected="at least one file", remedy="name a file of prompts")
    if samples < 1:
        raise InputError("no answer is asked for", expected="1 sample or more", found=samples, remedy="raise --samples")
    found: dict[str, Talk] = {}
    read = 0
    for file in files:
        for question in questions(file, categories=categories, limit=limit):
            read += 1
            for sample in range(samples):
                keys = tuple(_key(question, turn, sample) for turn in range(len(question.turns)))
                found.setdefault(keys[0], Talk(question, sample, keys))
    return [found[key] for key in sorted(found)], read - len(found) // samples


def _key(question: Question, turn: int, sample: int) -> str:
    """Of what is asked, by whatever name."""
    asked = json.dumps([question.before, question.turns, turn, sample], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:32]
