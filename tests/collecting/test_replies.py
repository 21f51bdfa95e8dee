"""Answers of servers, whole and in pieces, as they are and as they should not be."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any

import pytest

from vocabtrim.collecting.patience import retry_after
from vocabtrim.collecting.replies import CutError, Reply, ToldError, streamed_reply, whole_reply


def streamed(*events: Any, end: str = "data: [DONE]") -> Reply:
    async def lines() -> AsyncIterator[str]:
        for event in events:
            for line in (f"data: {json.dumps(event)}", ""):
                yield line
        yield end

    return asyncio.run(streamed_reply(lines()))


def piece(text: str | None = None, ended: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": ended, **more}]}


def usage(tokens: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"completion_tokens": tokens}}


def test_surrogates_become_characters_and_half_a_pair_the_mark_of_none() -> None:
    assert streamed(piece("ok \ud83d"), piece("\ude00", "stop")).text == "ok \U0001f600"
    body = json.dumps({"choices": [{"message": {"content": "\ud800 abc"}, "finish_reason": "stop"}]})
    assert whole_reply(body.encode()).text == "\ufffd abc"


def test_pieces_become_one_answer() -> None:
    """As vLLM sends them: a first one without ids, one with ids and no text, usage at the end."""
    reply = streamed(
        {"model": "m", "choices": [{"delta": {"role": "assistant", "content": ""}}]},
        piece("One", token_ids=[5, 6]),
        piece("", token_ids=[7]),
        piece(" two", "stop", token_ids=[8]),
        usage(4),
    )
    assert (reply.text, reply.token_ids, reply.ended, reply.tokens, reply.model) == (
        "One two",
        [5, 6, 7, 8],
        "stop",
        4,
        "m",
    )


@pytest.mark.parametrize(
    "events",
    [
        [piece("a", token_ids=[5]), piece("b", "stop")],  # a piece of the text has no ids
        [piece("a", token_ids=[5]), piece("b", "stop", token_ids=[6]), usage(3)],  # an id is missing somewhere
    ],
)
def test_ids_with_holes_are_none(events: list[Any]) -> None:
    reply = streamed(*events)
    assert reply.token_ids is None and reply.text == "ab"


@pytest.mark.parametrize(
    "events",
    [
        [],
        [piece("half of")],
        [piece("half", "abort")],
        [["no object"]],
        [{"choices": [3]}],
        [piece("x", "stop", token_ids=["a"])],
    ],
)
def test_what_is_not_whole(events: list[Any]) -> None:
    with pytest.raises(CutError):
        streamed(*events)


def test_the_end_of_the_connection_is_no_end() -> None:
    with pytest.raises(CutError, match="broke off"):
        streamed(piece("half"), end="")


def test_an_error_in_the_stream() -> None:
    with pytest.raises(ToldError, match="too long") as error:
        streamed(piece("a"), {"error": {"message": "too long", "code": 400}})
    assert error.value.code == 400


@pytest.mark.parametrize(
    ("choice", "text", "reasoning", "ids"),
    [
        ({"message": {"content": "a"}, "response_token_ids": [1]}, "a", "", [1]),
        ({"message": {"content": "a", "reasoning_content": "hm"}}, "a", "hm", None),
        ({"message": {"content": None, "reasoning": "hm"}}, "", "hm", None),
        ({"text": "a", "token_ids": []}, "a", "", []),
    ],
)
def test_fields_of_several_servers(choice: dict[str, Any], text: str, reasoning: str, ids: list[int] | None) -> None:
    reply = whole_reply(json.dumps({"choices": [choice | {"finish_reason": "stop"}]}).encode())
    assert (reply.text, reply.reasoning, reply.token_ids) == (text, reasoning, ids)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"choices": []}', b"\xff", b"[" * 100000])
def test_bodies_that_are_no_answer(body: bytes) -> None:
    with pytest.raises(CutError):
        whole_reply(body)


@pytest.mark.parametrize(
    ("told", "seconds"), [("3", 3), ("0.5", 0.5), ("-2", 0), (None, None), ("", None), ("x", None)]
)
def test_retry_after_as_a_number(told: str | None, seconds: float | None) -> None:
    assert retry_after(told) == seconds


def test_retry_after_as_a_date() -> None:
    found = retry_after(formatdate(time.time() + 60, usegmt=True))
    assert found is not None and 55 < found <= 60
