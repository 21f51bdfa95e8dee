"""Which part of a record is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vocabtrim.calibrate.chat import ChatTemplate
from vocabtrim.calibrate.forms import Document, Forms, UnusableError
from vocabtrim.calibrate.tokenizer import open_tokenizer

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.fixture(scope="session")
def chat_template(tiny: Path) -> ChatTemplate:
    return ChatTemplate(open_tokenizer(tiny))


def found(chat_template: ChatTemplate, record: Any, **fields: Any) -> tuple[str, tuple[str, ...], int]:
    document = Forms(chat_template, **fields).document(record)
    return document.form, document.texts, len(document.stops)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": "some"}, ("text", ("some",), 0)),
        ("bare", ("text", ("bare",), 0)),
        ({"prompt": "p", "completion": "c"}, ("completion", ("c",), 1)),
        ({"prompt": "p", "response": "c", "text": "t"}, ("completion", ("c",), 1)),
        ({"prompt": "p", "completion": ["c", "d"]}, ("completion", ("c", "d"), 2)),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, ("completion", ("Hello",), 1)),
        ({"messages": MESSAGES, "prompt": "p", "completion": "c"}, ("chat", ("Hello",), 1)),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, ("chat", ("b",), 1)),
        ({"conversation": MESSAGES, "messages": None}, ("chat", ("Hello",), 1)),
    ],
)
def test_forms_are_recognised(chat_template: ChatTemplate, record: Any, expected: Any) -> None:
    assert found(chat_template, record) == expected


def test_a_named_field_is_the_only_one_looked_at(chat_template: ChatTemplate) -> None:
    record = {"messages": MESSAGES, "text": "t", "question": "q", "answer": "a", "output": ["x", "y"]}
    assert found(chat_template, record, text_field="question") == ("text", ("q",), 0)
    assert found(chat_template, record, completion_field="answer") == ("completion", ("a",), 1)
    assert found(chat_template, record, prompt_field="question", completion_field="output") == (
        "completion",
        ("x", "y"),
        2,
    )


@pytest.mark.parametrize(
    ("record", "fields", "reason", "named"),
    [
        ({"question": "q", "n": 1}, {}, "no usable field", ["question", "n"]),
        ({"prompt": "p"}, {}, "no usable field", ["prompt"]),
        ({"text": None}, {}, "no usable field", ["text"]),
        (["x"], {}, "no usable field", ["list"]),
        ({"text": ""}, {}, "no text in it", None),
        ({"text": 5}, {}, "no text in it", None),
        ({"prompt": "p", "completion": ""}, {}, "no text in it", None),
        ({"prompt": "p", "completion": []}, {}, "no text in it", None),
        ({"prompt": "p", "completion": {"a": 1}}, {}, "no text in it", None),
        ({"a": "x"}, {"text_field": "b"}, "no field 'b'", ["a"]),
        ({"a": "x"}, {"prompt_field": "b", "completion_field": "a"}, "no field 'b'", ["a"]),
        ({"a": "x"}, {"prompt_field": "a", "completion_field": "b"}, "no field 'b'", ["a"]),
        ({"text": "x"}, {"chat_only": True}, "no chat", ["text"]),
        ("bare", {"chat_only": True}, "no usable field", ["str"]),
        ({"messages": [{"role": "user", "content": "x"}]}, {}, "chat without an assistant turn", None),
        ({"messages": []}, {}, "chat without an assistant turn", None),
        ({"messages": ["x"]}, {}, "malformed chat message", None),
    ],
)
def test_unusable_records(chat_template: ChatTemplate, record: Any, fields: Any, reason: str, named: Any) -> None:
    with pytest.raises(UnusableError) as error:
        Forms(chat_template, **fields).document(record)
    assert (error.value.reason, error.value.fields) == (reason, named)


def test_the_key_is_the_whole_record(chat_template: ChatTemplate) -> None:
    """Another prompt makes another document, though the target wrote the same."""
    forms = Forms(chat_template)

    def key(record: Any) -> str:
        document: Document = forms.document(record)
        return document.key

    assert key({"prompt": "p", "completion": "c"}) != key({"prompt": "q", "completion": "c"})
    other = [{"role": "user", "content": "Hey"}, MESSAGES[1]]
    assert key({"messages": MESSAGES}) != key({"messages": other})
    assert key({"messages": MESSAGES, "id": 1}) == key({"messages": MESSAGES, "id": 2})
