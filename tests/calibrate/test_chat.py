"""What the target writes in a chat, spelled out for real templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny_tokenizer import edit
from vocabtrim.calibrate.chat import NOT_CONTINUED, NOT_RENDERED, ChatTemplate, openai_messages, tool_definitions
from vocabtrim.calibrate.tokenizer import OpenTokenizer, open_tokenizer
from vocabtrim.errors import InputError

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "  Hi.\n\nHow are you? "},
    {"role": "user", "content": "Fine."},
    {"role": "assistant", "content": "Good"},
]
CALL = {"type": "function", "function": {"name": "area", "arguments": '{"r": [1, 2]}'}}
TOOL_CHAT = [
    {"role": "user", "content": "Area?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "12"},
    {"role": "assistant", "content": "It is 12."},
]


Opened = Callable[[str], OpenTokenizer]


def template(folder: Path) -> ChatTemplate:
    return ChatTemplate(open_tokenizer(folder))


@pytest.fixture(scope="session")
def llama(opened: Opened) -> ChatTemplate:
    return ChatTemplate(opened("llama3_2"))


@pytest.fixture(scope="session")
def qwen(opened: Opened) -> ChatTemplate:
    return ChatTemplate(opened("qwen2_5"))


def written(chat_template: ChatTemplate, messages: list[dict[str, Any]], tools: Any = None) -> list[tuple[str, int]]:
    turns, skipped = chat_template.turns(openai_messages(messages), tool_definitions(tools))
    assert not skipped
    return [(turn.text, turn.stop) for turn in turns]


def test_llama_trims_and_stops_at_eot(llama: ChatTemplate) -> None:
    assert written(llama, CHAT) == [("Hi.\n\nHow are you?", 128009), ("Good", 128009)]


def test_qwen_does_not_write_the_newline_behind_its_stop_token(qwen: ChatTemplate) -> None:
    assert written(qwen, CHAT) == [("  Hi.\n\nHow are you? ", 151645), ("Good", 151645)]


def test_llama_tool_call(llama: ChatTemplate) -> None:
    expected = [('{"name": "area", "parameters": {"r": [1, 2]}}', 128009), ("It is 12.", 128009)]
    assert written(llama, TOOL_CHAT) == expected


def test_an_empty_list_of_tool_calls_is_none(llama: ChatTemplate) -> None:
    """Some loggers write `"tool_calls": []` into every turn; Llama's template only asks whether the key is there."""
    assert written(llama, [CHAT[1], {**CHAT[2], "tool_calls": []}]) == [("Hi.\n\nHow are you?", 128009)]


def test_qwen_tool_call(qwen: ChatTemplate) -> None:
    call = '<tool_call>\n{"name": "area", "arguments": {"r": [1, 2]}}\n</tool_call>'
    assert written(qwen, TOOL_CHAT) == [(call, 151645), ("It is 12.", 151645)]


def test_tools_are_the_prompt_s_and_are_not_counted(llama: ChatTemplate) -> None:
    tools = [{"name": "area", "description": "unique words", "parameters": {}}]
    assert written(llama, CHAT, json.dumps(tools)) == written(llama, CHAT)


def test_the_template_sees_the_tools(tiny: Path, tmp_path: Path) -> None:
    """A template may let tools change what the target writes; then they must have reached it."""
    folder = with_template(
        tiny,
        tmp_path / "t",
        "{% for m in messages %}{{ m.role }}{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant{{ tools[0].function.name }}{% endif %}",
    )
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "area: 1"}]
    turns, _ = template(folder).turns(messages, tool_definitions([{"name": "area"}]))
    assert [turn.text for turn in turns] == [": 1"]


def test_stop_token_for_completions(llama: ChatTemplate, qwen: ChatTemplate) -> None:
    assert (llama.stop, qwen.stop) == (128009, 151645)


def test_without_a_template_the_stop_is_eos_and_a_chat_is_refused(opened: Opened) -> None:
    mistral = ChatTemplate(opened("mistral-v0.1"))
    assert mistral.stop == 2 and not mistral.exists
    with pytest.raises(InputError, match="has no chat template"):
        mistral.turns(CHAT, None)


def test_neither_template_nor_eos(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    assert template(tmp_path).stop is None


def with_template(tiny: Path, out: Path, jinja: str, **config: Any) -> Path:
    folder = edit(tiny, out, lambda said: None)
    kept = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**kept, "chat_template": jinja, **config}))
    return folder


def test_a_template_that_rewrites_earlier_turns(tiny: Path, tmp_path: Path) -> None:
    """Reasoning models drop the thoughts of turns before the last question. Each turn is rendered while it is last."""
    jinja = (
        "{% set last = namespace(question=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set last.question = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}<|{{ m.role }}|>"
        "{{ m.content if loop.index0 >= last.question else m.content.split('</think>')[-1] }}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    question = {"role": "user", "content": "x"}
    answer = {"role": "assistant", "content": "<think>a</think>b"}
    turns, skipped = template(with_template(tiny, tmp_path / "t", jinja)).turns([question, answer] * 2, None)
    assert [turn.text for turn in turns] == ["<think>a</think>b"] * 2 and not skipped


def test_a_turn_that_is_no_continuation_is_skipped(tiny: Path, tmp_path: Path) -> None:
    """The generation prompt opens a thought that the stored answer does not have."""
    jinja = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
    )
    messages = [*CHAT[1:3], CHAT[3], {"role": "assistant", "content": "<think>so</think>Good"}]
    turns, skipped = template(with_template(tiny, tmp_path / "t", jinja)).turns(messages, None)
    assert [turn.text for turn in turns] == ["so</think>Good"] and skipped == [NOT_CONTINUED]


def test_a_chat_that_the_template_refuses(llama: ChatTemplate) -> None:
    """Llama's template takes one tool call per turn."""
    double = [TOOL_CHAT[0], {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}]
    assert llama.turns(double, None) == ([], [NOT_RENDERED])


def test_a_template_that_wants_arguments_as_text(tiny: Path, tmp_path: Path) -> None:
    jinja = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
        "{% if m.tool_calls %}{{ 'call ' + m.tool_calls[0].function.arguments }}{% endif %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    turns, skipped = template(with_template(tiny, tmp_path / "t", jinja)).turns(TOOL_CHAT[:2], None)
    assert [turn.text for turn in turns] == ['call {"r": [1, 2]}'] and not skipped


def test_a_template_without_a_stop_token(tiny: Path, tmp_path: Path) -> None:
    """What the template adds is kept as it is; the target still ends with its eos token."""
    jinja = (
        "{% for m in messages %}\n{{ m.role }}: {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}\nassistant: {% endif %}"
    )
    chat_template = template(with_template(tiny, tmp_path / "t", jinja))
    turns, _ = chat_template.turns(CHAT, None)
    assert [turn.text for turn in turns] == ["  Hi.\n\nHow are you? ", "Good"]
    assert {turn.stop for turn in turns} == {chat_template.stop} != {None}


def test_sharegpt_becomes_openai() -> None:
    conversation = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "h"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "o"},
        {"from": "gpt", "value": "g"},
        {"from": "function_call", "value": "no json"},
    ]
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert openai_messages(conversation) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "h"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "o"},
        {"role": "assistant", "content": "g"},
        {"role": "assistant", "content": "no json"},
    ]


def test_content_in_parts_is_joined() -> None:
    """Left as a list, Llama's template would print it as Python does, and that would be counted."""
    parts = [{"type": "text", "text": "one "}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "two"}]
    assert openai_messages([{"role": "user", "content": parts}]) == [{"role": "user", "content": "one two"}]


@pytest.mark.parametrize(
    "message", ["text", 3, {}, {"role": 1}, {"role": "user", "content": 5}, {"from": "gpt", "value": 1}]
)
def test_malformed_messages(message: Any) -> None:
    assert openai_messages([message]) is None


def test_real_function_calls(llama: ChatTemplate, data: Path) -> None:
    """All of the function-calling conversations are read, and what is written is what they hold."""
    records = json.loads((data / "tools/glaive_toolcall_en_demo.json").read_text())
    for record in records[:50]:
        turns, skipped = llama.turns(openai_messages(record["conversations"]), tool_definitions(record["tools"]))
        spoken = [m for m in record["conversations"] if m["from"] in ("gpt", "function_call")]
        assert not skipped and len(turns) == len(spoken)
        for turn, message in zip(turns, spoken, strict=True):
            if message["from"] == "gpt":
                assert turn.text == message["value"].strip()
            else:
                call = json.loads(message["value"])
                assert json.loads(turn.text) == {"name": call["name"], "parameters": call["arguments"]}
