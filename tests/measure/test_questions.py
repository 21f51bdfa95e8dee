"""Question files: real ones, one record of every form, and what an untrusted or broken file may hold."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vocabtrim.errors import InputError
from vocabtrim.measure.questions import Question, questions
from vocabtrim.testbed.family import FAMILY, PROMPTS, held_out_prompts

SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}
BYE = {"role": "user", "content": "Bye"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "now", "arguments": "{}"}}]}
NOON = {"role": "tool", "content": "12:00"}


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write records, or lines as they are, as a question file."""

    def write(*lines: Any, name: str = "q.jsonl") -> Path:
        raw = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
        (tmp_path / name).write_bytes(b"\n".join(raw) + b"\n")
        return tmp_path / name

    return write


def test_spec_bench(data: Path) -> None:
    found = questions(data / "spec-bench" / "question.jsonl")
    assert len(found) == 480
    assert found[0].name == "81" and found[0].category == "writing"
    assert found[0].turns[1] == "Rewrite your previous response. Start every sentence with the letter A."
    mt_bench = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
    others = ("translation", "summarization", "qa", "math_reasoning", "rag")
    assert Counter(question.category for question in found) == {
        **dict.fromkeys(mt_bench, 10),
        **dict.fromkeys(others, 80),
    }
    assert all(len(question.turns) == 1 + (question.category in mt_bench) for question in found)


@pytest.mark.parametrize(
    ("file", "number", "first", "begins"),
    [
        ("code/humaneval.jsonl", 164, "HumanEval/0", "from typing import List\n\n\ndef has_close_elements("),
        ("code/mbpp.jsonl", 974, "1", "Write a function to find the minimum cost path"),
        ("text/gsm8k_test.jsonl", 1319, "line 1", "Janet’s ducks lay 16 eggs per day."),
        ("recorded/zeroeval_gsm_llama3.1-8b.json", 1319, "gsm8k-main-test-#0", "Janet’s ducks lay 16 eggs per day."),
    ],
)
def test_other_real_files(data: Path, file: str, number: int, first: str, begins: str) -> None:
    found = questions(data / file)
    assert len({question.name for question in found}) == len(found) == number
    assert (found[0].name, found[0].category, found[0].before) == (first, "all", ())
    assert found[0].turns[0].startswith(begins) and {len(question.turns) for question in found} == {1}


def test_real_chats_in_sharegpt_keys(data: Path) -> None:
    """A JSON array; the first chat calls a function before its last question."""
    found = questions(data / "tools" / "glaive_toolcall_en_demo.json")
    assert len(found) == 300 and found[0].name == "record 1"
    roles = [message["role"] for message in found[0].before]
    assert roles[:5] == ["user", "assistant", "user", "assistant", "tool"] and roles[-1] == "assistant"
    assert found[0].before[3]["tool_calls"][0]["function"]["name"] == "search_recipes"


def test_the_family_s_held_out_prompts() -> None:
    """As the testbed reads them; some have a system turn before the one that is asked."""
    found = questions(FAMILY / PROMPTS)
    asked = [(prompt.category, prompt.messages) for prompt in held_out_prompts()]
    user = [{"role": "user", "content": question.turns[0]} for question in found]
    assert [(q.category, (*q.before, message)) for q, message in zip(found, user, strict=True)] == asked
    assert {len(question.before) for question in found} == {0, 1}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"turns": ["a", " b\n"]}, Question("line 1", "all", ("a", " b\n"))),
        ({"question_id": 7, "id": "x", "category": "c", "turns": ["a"]}, Question("7", "c", ("a",))),
        ({"question_id": None, "task_id": "H/0", "prompt": "p", "turns": None}, Question("H/0", "all", ("p",))),
        ({"question": "q", "answer": "a", "text": "t"}, Question("line 1", "all", ("q",))),
        ({"task_id": 0, "text": "t", "code": "c"}, Question("0", "all", ("t",))),
        ({"messages": [HI], "prompt": "p"}, Question("line 1", "all", ("Hi",))),
        ({"prompt": [SYSTEM, HI, HELLO]}, Question("line 1", "all", ("Hi",), (SYSTEM,))),
        ({"messages": [SYSTEM, HI, BYE]}, Question("line 1", "all", ("Hi", "Bye"), (SYSTEM,))),
        ({"conversation": [HI, HELLO, BYE, HELLO]}, Question("line 1", "all", ("Bye",), (HI, HELLO))),
        ({"messages": [HI, SYSTEM, BYE]}, Question("line 1", "all", ("Bye",), (HI, SYSTEM))),
        ({"messages": [HI, HELLO, HI, BYE]}, Question("line 1", "all", ("Bye",), (HI, HELLO, HI))),
        (
            {"messages": [HI, CALL, NOON, BYE]},
            Question("line 1", "all", ("Bye",), (HI, {**CALL, "content": ""}, NOON)),
        ),
        (
            {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}]},
            Question("line 1", "all", ("a",), ({"role": "system", "content": "s"},)),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
            Question("line 1", "all", ("ab",)),
        ),
    ],
)
def test_forms(written: Callable[..., Path], record: Any, expected: Question) -> None:
    assert questions(written(record)) == [expected]


IN_CONTAINERS = [
    {"question_id": 5, "turns": ["a", "b"], "category": None, "score": 0.5},
    {"question_id": 6, "turns": ["c"], "category": "x", "score": None},
]
OF_CONTAINERS = [Question("5", "all", ("a", "b")), Question("6", "x", ("c",))]


def test_compressed_lines_and_an_array(written: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(written(*IN_CONTAINERS).read_bytes()))
    (tmp_path / "q.json").write_text(json.dumps(IN_CONTAINERS, indent=1))
    assert questions(tmp_path / "q.jsonl.gz") == questions(str(tmp_path / "q.json")) == OF_CONTAINERS


def test_parquet(tmp_path: Path) -> None:
    """Columns of numbers, which calibration text leaves out, hold names here."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(IN_CONTAINERS), tmp_path / "q.parquet")
    assert questions(tmp_path / "q.parquet") == OF_CONTAINERS


def names(file: Path, **how: Any) -> list[str]:
    return [question.name for question in questions(file, **how)]


def test_a_limit_covers_every_category(written: Callable[..., Path]) -> None:
    """a has three questions, b one, c two; taken in the order a1 b1 c1 a2 c2 a3, told in the file's."""
    ids = ["a1", "a2", "b1", "c1", "a3", "c2"]
    file = written(*({"id": name, "category": name[0], "prompt": "p"} for name in ids))
    assert names(file, limit=1) == ["a1"]
    assert names(file, limit=3) == ["a1", "b1", "c1"]
    assert names(file, limit=4) == ["a1", "a2", "b1", "c1"]
    assert names(file, limit=5) == ["a1", "a2", "b1", "c1", "c2"]
    assert names(file, limit=100) == names(file) == ids
    assert names(file, categories=["c", "a"], limit=3) == ["a1", "a2", "c1"]
    assert names(file, categories={"b"}) == ["b1"]


def test_wrong_choices(written: Callable[..., Path]) -> None:
    file = written({"category": "a", "prompt": "p"}, {"category": "b", "prompt": "p"})
    with pytest.raises(InputError, match=r"categories asked for: expected a, b, found c, d; name categories"):
        questions(file, categories=["a", "c", "d"])
    with pytest.raises(InputError, match=r"expected a, b, found none named"):
        questions(file, categories=[])
    for limit in (0, -1):
        with pytest.raises(InputError, match=rf"expected at least 1, found {limit}"):
            questions(file, limit=limit)


GOOD = {"question_id": 1, "category": "a", "turns": ["t"]}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"turns": ["a"]', "q.jsonl, line 3: malformed JSON; correct it, or get the file again if it was cut off"),
        (b"not json", "line 3: malformed JSON"),
        (b'{"prompt": "caf\xe9"}', "line 3: invalid UTF-8"),
        (b"[" * 100_000, "line 3: malformed JSON"),
        (["a"], "line 3: no question: expected an object with fields, found list"),
        (b'"bare"', "line 3: no question: expected an object with fields, found str"),
        (b"null", "line 3: no question: expected an object with fields, found NoneType"),
        (
            {},
            "no question: expected turns, messages, prompt, question, or text beside task_id, found fields none;",
        ),
        ({"text": "t", "n": 1}, "found fields text, n;"),
        ({"id": 2, "turns": None}, "found fields id;"),
        ({"turns": []}, "line 3: turns: expected a list of texts, found none"),
        ({"turns": "ab"}, "line 3: turns: expected a list of texts, found str"),
        ({"turns": ["a", ""]}, "line 3: turn 2 is blank; correct the record, or take it out"),
        ({"turns": [" \n\t"]}, "line 3: turn 1 is blank"),
        ({"turns": ["a", 3]}, "line 3: turn 2: expected a text, found int"),
        ({"turns": [None]}, "line 3: turn 1: expected a text, found NoneType"),
        ({"turns": [["a"]]}, "line 3: turn 1: expected a text, found list"),
        ({"prompt": {"role": "user"}}, "line 3: prompt: expected a text, found dict"),
        ({"question": " "}, "line 3: question is blank"),
        ({"turns": ["\ud83d"]}, "line 3: turn 1 holds half a surrogate pair"),
        ({"messages": []}, "line 3: messages without a user's turn, found 0 messages"),
        ({"messages": [SYSTEM, HELLO]}, "line 3: messages without a user's turn, found 2 messages"),
        ({"messages": "Hi"}, "line 3: malformed chat in messages, expected messages with role and content"),
        ({"conversations": ["Hi"]}, "line 3: malformed chat in conversations"),
        ({"messages": [{"role": "user", "content": 7}]}, "line 3: malformed chat in messages"),
        ({"prompt": ["a", "b"]}, "line 3: malformed chat in prompt"),
        ({"messages": [HI, HELLO, {"role": "user", "content": ""}]}, "line 3: message 3 of messages is blank"),
        ({"messages": [{"role": "system", "content": "\ud83d"}, HI]}, "line 3: message 1 of messages holds half a"),
        ({**GOOD, "question_id": 1.5}, "line 3: question_id: expected a text, found float"),
        ({**GOOD, "question_id": True}, "line 3: question_id: expected a text, found bool"),
        ({**GOOD, "question_id": ""}, "line 3: question_id is blank"),
        ({**GOOD, "question_id": 2, "category": 5}, "line 3: category: expected a text, found int"),
        ({**GOOD, "question_id": 2, "category": ""}, "line 3: category is blank"),
        (GOOD, "q.jsonl: two questions are named 1, found line 1 and line 3; name each once"),
        ({**GOOD, "question_id": "1"}, "two questions are named 1, found line 1 and line 3"),
    ],
)
def test_one_bad_record_refuses_the_file(written: Callable[..., Path], line: Any, said: str) -> None:
    """Behind a good record and an empty line: the place is the line's in the file."""
    with pytest.raises(InputError) as caught:
        questions(written(GOOD, b"", line))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_files_without_questions(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "blank.jsonl").write_bytes(b"\n \n")
    (tmp_path / "empty.json").write_text("[]")
    for name in ("empty.jsonl", "blank.jsonl", "empty.json"):
        with pytest.raises(InputError, match=rf"{name} holds no record; check the path"):
            questions(tmp_path / name)
    with pytest.raises(InputError, match=r"nowhere\.jsonl does not exist; check the path"):
        questions(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match=r"is a folder, expected a file"):
        questions(tmp_path)


def test_a_truncated_array_and_a_truncated_archive(written: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(json.dumps([GOOD, {**GOOD, "question_id": 2}])[:-10])
    with pytest.raises(InputError, match=r"q\.json, record 2 and what follows: malformed JSON"):
        questions(tmp_path / "q.json")
    (tmp_path / "open.json").write_text(json.dumps([GOOD])[:-1])
    with pytest.raises(InputError, match=r"open\.json, end of the array: malformed JSON"):
        questions(tmp_path / "open.json")
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(written(GOOD).read_bytes())[:-9])
    with pytest.raises(InputError, match=r"q\.jsonl\.gz is damaged or cut off"):
        questions(tmp_path / "q.jsonl.gz")


def test_a_name_that_says_nothing_and_a_binary_file(written: Callable[..., Path]) -> None:
    assert names(written(GOOD, name="questions")) == ["1"]
    with pytest.raises(InputError, match=r"questions, line 1: malformed JSON"):
        questions(written(b"\0\0\0\0", name="questions"))
