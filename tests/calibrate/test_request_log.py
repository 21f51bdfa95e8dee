"""Logs of requests and responses, as servers, gateways and batch jobs write them, in every container."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import vocabtrim as vt
from tiny_tokenizer import write_jsonl
from vocabtrim.calibrate.chat import ChatTemplate
from vocabtrim.calibrate.forms import Document, Forms, UnusableError
from vocabtrim.calibrate.tokenizer import open_tokenizer

ASKED = [{"role": "user", "content": "Hi"}]
HISTORY = [*ASKED, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}]


def choice(text: str, ended: str | None = "stop") -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": ended}


def written(text: str, ended: str | None = "stop") -> dict[str, Any]:
    return {"index": 0, "text": text, "finish_reason": ended}


@pytest.fixture(scope="module")
def forms(tiny: Path) -> Forms:
    opened = open_tokenizer(tiny)
    return Forms(ChatTemplate(opened), facts=opened.facts)


@pytest.mark.parametrize(
    ("record", "texts", "stops"),
    [
        ({"messages": ASKED, "choices": [choice("Hello")]}, ("Hello",), 1),
        ({"messages": ASKED, "choices": [choice("  Hello ")]}, ("Hello",), 1),  # as the template renders it
        ({"messages": HISTORY, "choices": [choice("See you")]}, ("See you",), 1),  # the history was counted before
        ({"messages": ASKED, "choices": [choice("a"), choice("b")]}, ("a", "b"), 2),
        ({"messages": ASKED, "choices": [choice("cut off", "length")]}, ("cut off",), 0),
        ({"request": {"messages": ASKED}, "response": {"choices": [choice("Hello")]}}, ("Hello",), 1),
        ({"request": {"prompt": "p"}, "response": {"choices": [written("c")]}}, ("c",), 1),
        ({"request": {"body": {"messages": ASKED}}, "response": {"body": {"choices": [choice("c")]}}}, ("c",), 1),
        ({"custom_id": "1", "response": {"status_code": 200, "body": {"choices": [choice("c")]}}}, ("c",), 1),
        ({"request": json.dumps({"messages": ASKED}), "response": json.dumps({"choices": [choice("c")]})}, ("c",), 1),
        ({"id": "chatcmpl-1", "choices": [choice("alone")]}, ("alone",), 1),
        ({"messages": json.dumps(ASKED), "choices": json.dumps([choice("c")])}, ("c",), 1),
        ({"prompt": "p", "choices": [written("c", None)]}, ("c",), 1),
    ],
)
def test_the_response_is_counted(forms: Forms, record: Mapping[str, Any], texts: tuple[str, ...], stops: int) -> None:
    document = forms.document(record)
    assert (document.form, document.texts, len(document.stops)) == ("request log", texts, stops)


@pytest.mark.parametrize(
    ("record", "form"),
    [
        ({"question": "q", "choices": [{"label": "A", "text": "a"}], "text": "t"}, "text"),  # a quiz
        ({"prompt": "p", "response": "plain"}, "completion"),
        ({"prompt": "p", "response": '{"answer": 3}'}, "completion"),  # JSON that the target wrote
        ({"prompt": "p", "response": "{broken"}, "completion"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "x"}], "choices": None}, "chat"),
    ],
)
def test_what_is_no_log(forms: Forms, record: Mapping[str, Any], form: str) -> None:
    assert forms.document(record).form == form


@pytest.mark.parametrize("response", [{"error": {"message": "busy"}}, {"status_code": 500, "body": None}, None])
def test_a_request_without_an_answer(forms: Forms, response: Any) -> None:
    with pytest.raises(UnusableError):
        forms.document({"request": {"messages": ASKED}, "response": response})


def test_an_answer_without_text(forms: Forms) -> None:
    with pytest.raises(UnusableError, match="no text in it"):
        forms.document({"id": "1", "choices": [choice("")]})


def test_the_key_is_the_request_and_its_response(forms: Forms) -> None:
    def key(asked: list[Any], text: str) -> str:
        document: Document = forms.document({"messages": asked, "choices": [choice(text)]})
        return document.key

    assert key(ASKED, "a") == key(ASKED, "a") and len({key(ASKED, "a"), key(ASKED, "b"), key(HISTORY, "a")}) == 3


def test_partitioned_folders_in_every_container(tiny: Path, tmp_path: Path) -> None:
    """year=2024/month=01/..., as Spark leaves it: with marks, checksums and a summary; each container counts alike."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    records = [
        {"request": {"messages": ASKED}, "response": {"choices": [choice(f"answer {n}")]}, "latency": 0.5}
        for n in range(6)
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    months = [tmp_path / "logs" / "year=2024" / f"month={month:02}" for month in (1, 2, 3)]
    for month in months:
        month.mkdir(parents=True)
    (months[0] / "part-0.jsonl").write_text(lines)
    (months[1] / "part-0.json.gz").write_bytes(gzip.compress(lines.encode()))
    table = arrow.Table.from_pylist(records)
    parquet.write_table(table, months[2] / "part-0.snappy.parquet")
    parquet.write_metadata(table.schema, tmp_path / "logs" / "_common_metadata")
    (tmp_path / "logs" / "_SUCCESS").touch()
    (months[0] / ".part-0.jsonl.crc").write_bytes(b"crc\0\0")
    once = vt.count([write_jsonl(tmp_path / "once.jsonl", records)], tokenizer=tiny, heldout=0)
    all_of_them = vt.count([tmp_path / "logs"], tokenizer=tiny, heldout=0)
    assert (all_of_them.counts == 3 * once.counts).all() and once.tokens > 0
    assert all_of_them.documents == 18 and not all_of_them.skipped
