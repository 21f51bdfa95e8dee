"""What a target reads before it answers a turn of a question: ids, in its chat template where there is one.

Knows questions and words; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable

from ..decoding.text import TargetText
from ..errors import InputError
from .questions import Question


def prompt_of(
    words: TargetText, question: Question, turn: int, answer: Callable[[int], str], *, chat: bool
) -> list[int]:
    """Earlier turns with their answers, and this one. answer: the text of an earlier turn's, or an error.

    Raises InputError for several turns without a chat template.
    """
    if not chat or not words.template.exists:
        if turn or question.before:
            raise InputError(
                "several turns need a chat template",
                expected="a question of one turn",
                found=f"turn {turn + 1} behind {len(question.before)} messages",
                remedy="use a target whose tokenizer has a chat template",
            )
        return words.prompt(question.turns[0], chat=False)
    messages = list(question.before)
    for place in range(turn):
        messages += [_message("user", question.turns[place]), _message("assistant", answer(place))]
    return words.conversation([*messages, _message("user", question.turns[turn])])


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
