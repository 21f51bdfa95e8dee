"""What the target answers to questions, once: recorded for replays, or counted to choose kept ids from.

Knows questions, recordings and counts; knows nothing of shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..calibrate.counts import TARGET_GENERATED, SourceCounts, TokenCounts
from ..calibrate.tokenizer import TokenizerFacts
from ..decoding.rounds import decode
from ..decoding.target import Target
from ..decoding.text import TargetText
from ..measure.bench import answer_seed
from ..measure.methods import Settings
from ..measure.prompts import prompt_of
from ..measure.questions import Question
from ..measure.recording import Recorded
from ..measure.state_recorder import StateRecorder

_HELD_OUT = 4  # one answer of so many


def answer_turns(
    target: Target,
    words: TargetText,
    question: Question,
    *,
    settings: Settings,
    states: Sequence[int] = (),
    max_new_tokens: int,
) -> list[Recorded]:
    """A question's turns, answered one behind the other, with these hidden states. Raises as `decode`."""
    told: list[Recorded] = []
    for turn in range(len(question.turns)):
        prompt = prompt_of(words, question, turn, lambda place: words.decode(told[place].output), chat=settings.chat)
        recorder = StateRecorder(states)
        generator = torch.Generator(target.lm.device)
        generator.manual_seed(answer_seed(settings.seed, question.name, turn))
        rounds = list(
            decode(
                target,
                recorder,
                prompt,
                max_new_tokens=max_new_tokens,
                sampling=settings.sampling,
                generator=generator,
            )
        )
        told.append(
            Recorded(
                name=f"{question.name}/{turn + 1}",
                prompt=tuple(prompt),
                output=tuple(token for one in rounds for token in one.tokens),
                category=question.category,
                ended=rounds[-1].ended,
                max_new_tokens=max_new_tokens,
                hidden=recorder.hidden if states else None,
            )
        )
    return told


def counted(answers: Sequence[Recorded], facts: TokenizerFacts) -> TokenCounts:
    """Counts of answers, one of four held out."""
    counts, heldout = (np.zeros(facts.vocab_size, np.int64) for _ in range(2))
    for number, answer in enumerate(answers):
        ids = [token for token in answer.output if token < facts.vocab_size]
        part = heldout if number % _HELD_OUT == _HELD_OUT - 1 else counts
        part += np.bincount(ids, minlength=facts.vocab_size)
    source = SourceCounts("answers", TARGET_GENERATED, counts, heldout)
    return TokenCounts(facts, (source,), documents=len(answers))
