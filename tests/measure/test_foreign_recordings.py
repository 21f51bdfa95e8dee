"""Other people's recordings: ZeroEval results and chats, into prompts and outputs of ids."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny_tokenizer import train, write_jsonl
from vocabtrim.calibrate.tokenizer import OpenTokenizer, open_tokenizer
from vocabtrim.decoding.stopping import Reason
from vocabtrim.errors import InputError
from vocabtrim.measure.foreign_recordings import LOOPS, NO_OUTPUT, NO_RECORDING, ForeignRecordings
from vocabtrim.measure.recording import Recorded

LOOP = "the same words again and again, " * 200
CHAT = {
    "language": "en",
    "messages": [
        {"role": "user", "content": "Who sells shells?"},
        {"role": "assistant", "content": "She does."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "By the sea shore."},
    ],
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> OpenTokenizer:
    return open_tokenizer(train(tmp_path_factory.mktemp("tiny")))


def result(name: str, prompt: str, *outputs: str, **more: Any) -> dict[str, Any]:
    return {"session_id": name, "model_input": prompt, "output": list(outputs), **more}


def read(tiny: OpenTokenizer, file: Path, **how: Any) -> tuple[list[Recorded], Counter[str]]:
    reader = ForeignRecordings(tiny, **how)
    return list(reader.read(file)), reader.skipped


def text(tiny: OpenTokenizer, ids: tuple[int, ...]) -> str:
    """Of ASCII; the tiny tokenizer has no decoder."""
    pieces = "".join(str(tiny.tokenizer.id_to_token(token)) for token in ids)
    return pieces.replace("Ġ", " ").replace("Ċ", "\n")


def test_zeroeval_results(tiny: OpenTokenizer, tmp_path: Path) -> None:
    """The prompt as it is, without a second BOS; the first sample; no stop token; nothing is known of its end."""
    file = tmp_path / "run.json"
    prompt = "<|start|><|user|>\nWho sells shells?<|end|>\n<|assistant|>\n"
    file.write_text(json.dumps([result("q1", prompt, "She does.", "He does.", dataset="sea")]))
    [found], skipped = read(tiny, file, group_by="dataset")
    assert (text(tiny, found.prompt), text(tiny, found.output)) == (prompt, "She does.")
    assert found.prompt.count(tiny.tokenizer.token_to_id("<|start|>")) == 1
    assert (found.name, found.category, found.source) == ("q1", "sea", "run.json")
    assert found.ended is None and found.max_new_tokens is None and found.hidden is None and not skipped


def test_every_turn_of_the_assistant_is_an_output(tiny: OpenTokenizer, tmp_path: Path) -> None:
    found, skipped = read(tiny, write_jsonl(tmp_path / "chats.jsonl", [CHAT]), group_by="language")
    first = "<|start|><|user|>\nWho sells shells?<|end|>\n<|assistant|>\n"
    second = f"{first}She does.<|end|>\n<|user|>\nWhere?<|end|>\n<|assistant|>\n"
    assert [(text(tiny, one.prompt), text(tiny, one.output)) for one in found] == [
        (first, "She does.<|end|>"),
        (second, "By the sea shore.<|end|>"),
    ]
    assert {one.ended for one in found} == {Reason.STOP_ID} and {one.category for one in found} == {"en"}
    assert [one.name for one in found] == ["line 1, turn 1", "line 1, turn 2"] and not skipped


def test_what_cannot_be_used_is_counted(tiny: OpenTokenizer, tmp_path: Path) -> None:
    records = [
        result("good", "a", "b"),
        result("none", "a"),
        result("empty", "a", ""),
        result("no prompt", "", "b"),
        result("loop", "a", LOOP),
        {"text": "prose"},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": LOOP}]},
        {"messages": ["Hi"]},
    ]
    file = write_jsonl(tmp_path / "mixed.jsonl", records)
    with file.open("a") as opened:
        opened.write("{broken\n")
    found, skipped = read(tiny, file)
    assert [one.name for one in found] == ["good"]
    assert skipped[LOOPS] == 2 and skipped[NO_OUTPUT] == 2 and skipped[NO_RECORDING] == 1
    assert sum(skipped.values()) == len(records)  # all but the good one, and the broken line
    kept, skipped = read(tiny, file, keep_loops=True)
    assert [one.name for one in kept] == ["good", "loop", "line 8, turn 1"] and skipped[LOOPS] == 0


def test_compressed_and_as_lines(tiny: OpenTokenizer, tmp_path: Path) -> None:
    plain = write_jsonl(tmp_path / "run.jsonl", [result("q", "a", "b c")])
    packed = tmp_path / "run.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for file in (plain, packed):
        [found], _ = read(tiny, file)
        assert text(tiny, found.output) == "b c"


@pytest.mark.parametrize("content", ["", "[]", '{"text": "prose"}', "no JSON at all", "[1, 2]"])
def test_a_file_of_something_else_is_refused(tiny: OpenTokenizer, tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(InputError, match=r"holds no recording: expected records with messages"):
        read(tiny, file)


def test_chats_take_a_chat_template(tmp_path: Path) -> None:
    folder = train(tmp_path / "plain")
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match="no chat template, and the recording holds chats"):
        read(open_tokenizer(folder), write_jsonl(tmp_path / "chats.jsonl", [CHAT]))


@pytest.mark.parametrize(("name", "results", "loops"), [("gsm", 1319, 5), ("crux", 800, 6)])
def test_real_results(data: Path, opened: Callable[[str], OpenTokenizer], name: str, results: int, loops: int) -> None:
    """Llama-3.1-8B-Instruct's: every prompt begins with its one BOS and ends where the assistant speaks."""
    tokenizer = opened("llama3_2")
    found, skipped = read(tokenizer, data / "recorded" / f"zeroeval_{name}_llama3.1-8b.json", group_by="dataset")
    assert len(found) == results - loops and skipped == {LOOPS: loops}
    assert {one.category for one in found} == {name} and len({one.name for one in found}) == len(found)
    header = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    header_ids = tokenizer.tokenizer.encode(header, add_special_tokens=False).ids
    assert all(one.prompt[0] == 128_000 and one.prompt.count(128_000) == 1 for one in found)
    assert all(list(one.prompt[-len(header_ids) :]) == header_ids for one in found)
    assert max(token for one in found for token in one.output) < 128_000, "no stop token in the text"


@pytest.fixture(scope="module")
def opened(data: Path) -> Callable[[str], OpenTokenizer]:
    known: dict[str, OpenTokenizer] = {}
    return lambda name: known.setdefault(name, open_tokenizer(data / "tokenizers" / name))
