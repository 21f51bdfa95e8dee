"""The questions of a benchmark, whichever of the usual files they lie in.

Knows the fields of question files; knows nothing of models or templates, and leaves containers to `record_file.py`.
A record is told by its fields, the first that is there:

    turns                                 Spec-Bench, MT-Bench: the user's turns
    messages, conversations, conversation a chat, in OpenAI's keys (role, content) or ShareGPT's (from, value)
    prompt                                HumanEval and others: a text, or a chat
    question                              GSM8K
    text, beside task_id                  MBPP; text alone is no question

Texts are taken as they stand: no few-shot examples, no instruction around them, no tests of MBPP behind them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from ..calibrate.chat import Message, openai_messages
from ..calibrate.forms import CHAT_FIELDS
from ..errors import InputError
from .record_file import read_records

NO_CATEGORY = "all"

_NAME_FIELDS = ("question_id", "task_id", "id")
_COLUMNS = (*_NAME_FIELDS, "category", "turns", *CHAT_FIELDS, "prompt", "question", "text")


@dataclass(frozen=True)
class Question:
    """One question, of one turn or of several that are answered one after the other.

    name: unique in its file: `question_id`, `task_id` or `id`, else the place, as "line 3".
    category: "all" where the file names none.
    turns: what the user says; every turn is asked behind the answer to the one before.
    before: messages that stand before the first turn: a system turn, an earlier exchange.
    """

    name: str
    category: str
    turns: tuple[str, ...]
    before: tuple[Message, ...] = ()


def questions(
    path: str | Path, *, categories: Collection[str] | None = None, limit: int | None = None
) -> list[Question]:
    """The questions of a file, in its order.

    categories: only these. limit: at most so many, taken category by category in turn: the first of each, then the
    second of each, until there are enough, so that a small limit covers all and a larger one adds to a smaller.
    Of a chat the answers are not read: what the assistant says counts only where a user's turn stands behind it. Tool
    definitions beside a chat are left out.
    Raises InputError with file and line for whatever cannot be read or asked, for two questions of one name, an unknown
    category and a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError("the limit leaves no question", expected="at least 1", found=limit, remedy="raise it")
    found = _read(Path(path))
    if categories is not None:
        there = dict.fromkeys(question.category for question in found)
        if not categories or (unknown := [category for category in categories if category not in there]):
            raise InputError(
                f"{path} holds no question of the categories asked for",
                expected=", ".join(there),
                found=", ".join(unknown) if categories else "none named",
                remedy="name categories of the file",
            )
        found = [question for question in found if question.category in categories]
    return found if limit is None else _from_every_category(found, limit)


def _from_every_category(found: Sequence[Question], limit: int) -> list[Question]:
    members: dict[str, list[int]] = {}
    for position, question in enumerate(found):
        members.setdefault(question.category, []).append(position)
    in_turn = (position for nth in zip_longest(*members.values()) for position in nth if position is not None)
    return [found[position] for position in sorted(islice(in_turn, limit))]


def _read(file: Path) -> list[Question]:
    found: list[Question] = []
    places: dict[str, str] = {}
    for place, record in read_records(file, _COLUMNS):
        question = _question(record, f"{file}, {place}", place)
        if question.name in places:
            raise InputError(
                f"{file}: two questions are named {question.name}",
                found=f"{places[question.name]} and {place}",
                remedy="name each once, by question_id, task_id or id",
            )
        places[question.name] = place
        found.append(question)
    return found


def _question(record: Any, where: str, place: str) -> Question:
    if not isinstance(record, Mapping):
        raise _refused(where, "no question", expected="an object with fields", found=type(record).__name__)
    before, turns = _asked(record, where)
    return Question(_name(record, where) or place, _category(record, where), turns, before)


def _asked(record: Mapping[str, Any], where: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """(before, turns) of a record."""
    fields = {name: value for name, value in record.items() if value is not None}  # Parquet fills absent ones with null
    if "turns" in fields:
        return (), _turns(fields["turns"], where)
    for name in CHAT_FIELDS:
        if name in fields:
            return _chat(fields[name], where, name)
    if isinstance(fields.get("prompt"), list):
        return _chat(fields["prompt"], where, "prompt")
    for name in ("prompt", "question", "text"):
        if name in fields and (name != "text" or "task_id" in fields):
            return (), (_text(fields[name], where, name),)
    raise _refused(
        where,
        "no question",
        expected="turns, messages, prompt, question, or text beside task_id",
        found=f"fields {', '.join(map(str, fields))[:200] or 'none'}",
    )


def _turns(turns: Any, where: str) -> tuple[str, ...]:
    if not isinstance(turns, list) or not turns:
        raise _refused(where, "turns", expected="a list of texts", found=type(turns).__name__ if turns else "none")
    return tuple(_text(turn, where, f"turn {number}") for number, turn in enumerate(turns, start=1))


def _chat(conversation: Any, where: str, name: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """User's turns that nothing stands between are asked one by one, else only the last of them."""
    messages = openai_messages(conversation) if isinstance(conversation, list) else None
    if messages is None:
        raise _refused(where, f"malformed chat in {name}", expected="messages with role and content, or from and value")
    users = [position for position, message in enumerate(messages) if message["role"] == "user"]
    if not users:
        raise _refused(where, f"{name} without a user's turn", found=f"{len(messages)} messages")
    last = users[-1]
    first = users[0] if users[0] + len(users) == last + 1 else last
    for position, message in enumerate(messages[:first], start=1):
        _unicode(message["content"], where, f"message {position} of {name}")
    asked = (
        _text(messages[position]["content"], where, f"message {position + 1} of {name}")
        for position in range(first, last + 1)
    )
    return tuple(messages[:first]), tuple(asked)


def _text(text: Any, where: str, name: str) -> str:
    if not isinstance(text, str):
        raise _refused(where, name, expected="a text", found=type(text).__name__)
    if not text.strip():
        raise _refused(where, f"{name} is blank")
    return _unicode(text, where, name)


def _unicode(text: str, where: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refused(where, f"{name} holds half a surrogate pair") from error
    return text


def _name(record: Mapping[str, Any], where: str) -> str | None:
    """The name that a record gives itself."""
    for field in _NAME_FIELDS:
        name = record.get(field)
        if isinstance(name, int) and not isinstance(name, bool):
            return str(name)
        if name is not None:
            return _text(name, where, field)
    return None


def _category(record: Mapping[str, Any], where: str) -> str:
    category = record.get("category")
    return NO_CATEGORY if category is None else _text(category, where, "category")


def _refused(where: str, what: str, *, expected: str | None = None, found: str | None = None) -> InputError:
    return InputError(f"{where}: {what}", expected=expected, found=found, remedy="correct the record, or take it out")
