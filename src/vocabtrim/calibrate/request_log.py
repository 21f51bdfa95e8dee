"""Requests to an OpenAI-compatible server with their responses, as servers, gateways and batch jobs log them.

A record is one where choices stand somewhere: beside the request's own fields, or under one of the names below, as an
object or as JSON text. Knows fields; knows nothing of templates or ids.

    {"messages": [...], "choices": [{"message": {...}, "finish_reason": "stop"}]}
    {"request": {"messages": [...]}, "response": {"choices": [...]}}
    {"custom_id": ..., "response": {"status_code": 200, "body": {"choices": [...]}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_REQUESTS = ("request", "request_body", "input")
_RESPONSES = ("response", "response_body", "output")
_CUT = ("length", "max_tokens")  # finish reasons of an answer that was not ended by a stop token


@dataclass(frozen=True)
class LoggedAnswer:
    """One choice. message: of a chat. text: of a completion. stopped: the target ended it itself."""

    message: Mapping[str, Any] | None
    text: str | None
    stopped: bool


@dataclass(frozen=True)
class Exchange:
    """A request with its response. messages, tools, prompt: what was asked, where that was logged."""

    messages: Sequence[Any] | None
    tools: Any
    prompt: str | None
    answers: tuple[LoggedAnswer, ...]


def exchange(record: Mapping[str, Any]) -> Exchange | None:
    """The exchange in a record; None where there is none."""
    response = _choices_in(record)
    if response is None:
        return None
    request = next((found for name in _REQUESTS if (found := _object(record.get(name))) is not None), record)
    body = _object(request.get("body"))
    request = request if body is None else body
    messages, prompt = _value(request.get("messages")), request.get("prompt")
    return Exchange(
        messages=messages if isinstance(messages, list) else None,
        tools=request.get("tools"),
        prompt=prompt if isinstance(prompt, str) else None,
        answers=tuple(_answer(choice) for choice in response if isinstance(choice, Mapping)),
    )


def _choices_in(record: Mapping[str, Any]) -> list[Any] | None:
    places = [record, *(_object(record.get(name)) for name in _RESPONSES)]
    places += [_object(place.get("body")) for place in places if place is not None]
    found = (_value(place.get("choices")) for place in places if place is not None)
    return next((choices for choices in found if isinstance(choices, list) and _are_choices(choices)), None)


def _are_choices(choices: list[Any]) -> bool:
    """Those of a quiz are texts, with or without a label."""
    return bool(choices) and all(
        isinstance(choice, Mapping)
        and (isinstance(choice.get("message"), Mapping) or {"text", "finish_reason"} <= choice.keys())
        for choice in choices
    )


def _answer(choice: Mapping[str, Any]) -> LoggedAnswer:
    message, text = choice.get("message"), choice.get("text")
    said = {"role": "assistant", **message} if isinstance(message, Mapping) else None
    stopped = choice.get("finish_reason") not in _CUT
    return LoggedAnswer(said, text if isinstance(text, str) else None, stopped)


def _object(value: Any) -> Mapping[str, Any] | None:
    found = _value(value)
    return found if isinstance(found, Mapping) else None


def _value(value: Any) -> Any:
    """What stands there, or what its JSON text says."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value
