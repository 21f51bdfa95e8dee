"""Collecting from a server over HTTP, in every manner of asking and through every fault: nothing lost or doubled."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from answering_server import FAULTS, HOST, NAME, AnsweringServer, Model
from tiny_tokenizer import edit, train
from vocabtrim.collecting.answers import SERVER, TEXT
from vocabtrim.errors import InputError, MismatchError

from .conftest import LENGTH, WANTED, by_key, read

Expected = dict[str, tuple[int, ...]]


@pytest.mark.parametrize(
    ("manner", "api", "way"),
    [
        ("vllm", "chat", "streamed, token ids"),
        ("vllm", "completions", "streamed, token ids"),
        ("sglang", "chat", "in one piece, token ids"),
        ("sglang", "completions", "streamed, token ids"),
        ("plain", "chat", "streamed, its text"),
        ("plain", "completions", "streamed, its text"),
        ("strict", "chat", "streamed, its text"),
        ("bare", "chat", "in one piece, its text"),
    ],
)
def test_the_answers_are_those_of_the_model(
    manner: str, api: str, way: str, model: Model, ask: Callable[..., Any], expected: Expected, tmp_path: Path
) -> None:
    """Id for id where the server tells ids; where its text is tokenised again, marked so and as long as it says."""
    with AnsweringServer(model, manner=manner) as server:
        state = ask(server.url, api=api)
    assert way in state.way and (state.answers, state.failed, state.ended) == (WANTED, [], "prompts")
    found = by_key(read(tmp_path / "completions.jsonl"))
    told = SERVER if "token ids" in way else TEXT
    assert found.keys() == expected.keys() and {answer.written.ids_from for answer in found.values()} == {told}
    assert len(server.asked) == WANTED
    if told == SERVER:
        assert {key: answer.written.token_ids for key, answer in found.items()} == expected
    else:
        same = sum(answer.written.token_ids == expected[key] for key, answer in found.items())
        assert same >= 0.9 * WANTED  # a model may write a word in other tokens than the tokenizer does
        if manner in ("plain", "bare"):
            assert state.tally.fitting >= 0.9 * state.tally.compared > 0


def test_a_second_turn_follows_the_first_answer(model: Model, ask: Callable[..., Any], tmp_path: Path) -> None:
    with AnsweringServer(model) as server:
        ask(server.url)
    turns = {(one.question, one.turn): one for one in read(tmp_path / "completions.jsonl")}
    first, second = turns["two2", 1], turns["two2", 2]
    assert isinstance(second.prompt, list)
    assert [message["content"] for message in second.prompt] == [
        "Name 2 animals.",
        first.written.text,
        "And their colours?",
    ]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_passes(
    fault: str, model: Model, ask: Callable[..., Any], expected: Expected, tmp_path: Path
) -> None:
    """Each prompt meets it at its first request."""
    seen: set[str] = set()

    def once(number: int, body: dict[str, Any]) -> str | None:
        prompt = str(body["messages"])
        if prompt in seen:
            return None
        seen.add(prompt)
        return fault

    with AnsweringServer(model, fault=once) as server:
        state = ask(server.url)
    found = by_key(read(tmp_path / "completions.jsonl"))
    assert {key: answer.written.token_ids for key, answer in found.items()} == expected and not state.failed
    assert len(server.asked) == (WANTED if fault == "slow" else 2 * WANTED)


def test_all_faults_at_once(model: Model, ask: Callable[..., Any], expected: Expected, tmp_path: Path) -> None:
    """Each prompt meets two of them, one prompt others than the next."""
    met: Counter[str] = Counter()

    def twice(number: int, body: dict[str, Any]) -> str | None:
        prompt = str(body["messages"])
        met[prompt] += 1
        return FAULTS[(len(met) + met[prompt]) % len(FAULTS)] if met[prompt] < 3 else None

    with AnsweringServer(model, fault=twice) as server:
        state = ask(server.url, concurrency=8)
    found = by_key(read(tmp_path / "completions.jsonl"))
    assert {key: answer.written.token_ids for key, answer in found.items()} == expected and not state.failed
    assert len(server.asked) > 2 * WANTED


def test_a_server_that_dies_and_comes_back(
    model: Model, ask: Callable[..., Any], expected: Expected, tmp_path: Path
) -> None:
    """On its port, in the middle of answers; those that were under way are asked for again."""
    with AnsweringServer(model, fault=lambda number, body: "until it dies" if number == 6 else "slow") as server:
        died = threading.Event()

        def accident() -> None:
            while server.answered < 6 or len(server.asked) < 7:
                time.sleep(0.005)
            server.stop()
            died.set()
            time.sleep(0.4)
            server.start()

        threading.Thread(target=accident, daemon=True).start()
        state = ask(server.url)
    assert died.is_set() and not state.failed
    found = by_key(read(tmp_path / "completions.jsonl"))
    assert {key: answer.written.token_ids for key, answer in found.items()} == expected
    assert len(server.asked) > WANTED


def test_a_server_that_dies_for_good(model: Model, ask: Callable[..., Any], expected: Expected, tmp_path: Path) -> None:
    """Patience ends in one line; the finished part is kept, and another server goes on with it."""
    out = tmp_path / "completions.jsonl"
    with AnsweringServer(model) as server:

        def seen(state: Any) -> None:
            if state.answers == 7:
                server.stop()

        with pytest.raises(InputError, match=r"has given no answer for \d+ s: expected an answer within 0 s, .* kept"):
            ask(server.url, patience=0.3, seen=seen)
    kept = by_key(read(out))
    assert 7 <= len(kept) < WANTED
    with AnsweringServer(model) as another:
        state = ask(another.url)
        assert len(another.asked) == WANTED - len(kept) == state.answers
    assert {key: answer.written.token_ids for key, answer in by_key(read(out)).items()} == expected


def test_it_comes_back_as_another_model(model: Model, ask: Callable[..., Any], tmp_path: Path) -> None:
    with AnsweringServer(model) as server:

        def seen(state: Any) -> None:
            if state.answers == 5:
                server.answering = "large"

        with pytest.raises(MismatchError, match="serves another model: expected small, found large"):
            ask(server.url, seen=seen)
    assert 5 <= len(read(tmp_path / "completions.jsonl")) < WANTED


def test_requests_in_flight_are_bounded(model: Model, ask: Callable[..., Any]) -> None:
    """As many as were allowed, at the same time, and never more."""
    with AnsweringServer(model, fault=lambda number, body: "slow") as server:
        ask(server.url, concurrency=3)
    assert server.most_in_flight == 3


def test_no_prompt_is_fetched_before_there_is_room(model: Model, ask: Callable[..., Any], tmp_path: Path) -> None:
    """Back-pressure, seen at a budget: once it is reached, only what was in flight comes still."""
    from vocabtrim.collecting.tally import Until

    with AnsweringServer(model) as server:
        state = ask(server.url, concurrency=2, until=Until(tokens=100))
    assert state.ended == "budget" and 100 <= state.tally.tokens < 100 + 3 * LENGTH
    assert len(server.asked) == state.answers == len(read(tmp_path / "completions.jsonl"))


def test_a_wait_beyond_all_patience(model: Model, ask: Callable[..., Any]) -> None:
    with (
        AnsweringServer(model, fault=lambda number, body: "busy for long" if number > 3 else None) as server,
        pytest.raises(InputError, match=r"429 Too Many Requests.* to be asked again in 86400 s"),
    ):
        ask(server.url)


def test_a_prompt_that_breaks_the_server_every_time(
    model: Model, ask: Callable[..., Any], expected: Expected, tmp_path: Path
) -> None:
    """It is given up; the others are answered. The next run asks it again, and it alone."""

    def fault(number: int, body: dict[str, Any]) -> str | None:
        return "broken" if "Name 3" in str(body["messages"]) else None

    with AnsweringServer(model, fault=fault) as server:
        state = ask(server.url)
        assert [(failure.question, failure.turn) for failure in state.failed] == [("two3", 1)]
        assert "failed 6 times" in state.failed[0].reason and "500" in state.failed[0].reason
        server.fault = lambda number, body: None
        before = len(server.asked)
        assert not ask(server.url).failed
        assert len(server.asked) == before + 2
    found = by_key(read(tmp_path / "completions.jsonl"))
    assert {key: answer.written.token_ids for key, answer in found.items()} == expected


def test_a_prompt_that_is_too_long(model: Model, ask: Callable[..., Any], tmp_path: Path) -> None:
    """Asked once, named with the server's words; the others are answered."""

    def fault(number: int, body: dict[str, Any]) -> str | None:
        return "too long" if "Name 3" in str(body["messages"]) else None

    with AnsweringServer(model, fault=fault) as server:
        state = ask(server.url)
    [failure] = state.failed
    assert failure.question == "two3" and "maximum context length" in failure.reason
    assert len(server.asked) == WANTED - 1 and len(read(tmp_path / "completions.jsonl")) == WANTED - 2


def test_no_prompt_is_answered_at_all(model: Model, ask: Callable[..., Any]) -> None:
    with (
        AnsweringServer(model, fault=lambda number, body: "too long") as server,
        pytest.raises(InputError, match=r"none of the first 20 prompts was answered, found 400 .*maximum context"),
    ):
        ask(server.url)


@pytest.mark.parametrize(
    ("manner", "decoder", "said"),
    [
        ("vllm", True, r"not in the tokens of this tokenizer: expected .*, found [0-9] of 2[0-9] answers that do"),
        ("plain", True, r"not in the tokens of this tokenizer: expected .*, found [0-9] of 2[0-9] answers that do"),
        ("plain", False, r"none of the first 2[0-9] answers tokenises back"),
    ],
)
def test_another_tokenizer_is_noticed(
    manner: str, decoder: bool, said: str, model: Model, ask: Callable[..., Any], tmp_path: Path
) -> None:
    """By the text where the server tells ids, by the number of tokens where it tells text, or by what comes back."""
    other = train(tmp_path / "bare")
    if decoder:
        other = edit(other, tmp_path / "other", lambda said: said.update(decoder=said["pre_tokenizer"]))
    with AnsweringServer(model, manner=manner) as server, pytest.raises(MismatchError, match=said):
        ask(server.url, tokenizer=other)
    assert len(read(tmp_path / "completions.jsonl")) >= 20


@pytest.mark.parametrize(
    ("names", "model_name", "said"),
    [
        (["large"], "small", "serves another model: expected small, found large"),
        (["large", "small"], None, "names 2 models, found large, small; say which is meant with --model"),
        ([], None, "names no models"),
        (["no list"], None, "does not say what it serves, found failed 6 times"),
        (["hostile"], None, "/models is no list of models"),
    ],
)
def test_which_model(
    names: list[str], model_name: str | None, said: str, model: Model, ask: Callable[..., Any], tmp_path: Path
) -> None:
    with AnsweringServer(model) as server:
        server.names = names
        with pytest.raises(Exception, match=said):
            ask(server.url, model=model_name)
    assert not (tmp_path / "completions.jsonl").exists()


def test_a_named_model_needs_no_list(model: Model, ask: Callable[..., Any]) -> None:
    with AnsweringServer(model) as server:
        server.names = ["no list", NAME]
        assert ask(server.url, model=NAME).answers == WANTED


def test_a_server_that_is_not_there(ask: Callable[..., Any], model: Model, tmp_path: Path) -> None:
    with AnsweringServer(model) as server:
        url = server.url
    with pytest.raises(InputError, match=f"cannot reach {url}/v1, found .*; start the server"):
        ask(url)
    assert not (tmp_path / "completions.jsonl").exists()


SECRET = "sk-topsecret-0123456789"


def test_the_key_is_in_no_file_and_no_message(
    model: Model,
    ask: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vocabtrim: Any,
    prompts: Path,
) -> None:
    """Even where the server says it back. VOCABTRIM_API_KEY goes before OPENAI_API_KEY."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another")
    monkeypatch.setenv("VOCABTRIM_API_KEY", SECRET)
    with AnsweringServer(model, key=SECRET) as server:
        ask(server.url)
        assert server.authorization == {f"Bearer {SECRET}"}
    assert len(read(tmp_path / "completions.jsonl")) == WANTED
    with AnsweringServer(model, key="a better one") as server:
        arguments = ["--endpoint", server.url, "--tokenizer", model._folder, "--out", tmp_path / "new.jsonl"]
        run = vocabtrim("collect", prompts, *arguments)
    assert run.code == 2 and not run.out and not (tmp_path / "new.jsonl").exists()
    assert "refuses the key" in run.err and "***" in run.err and "correct VOCABTRIM_API_KEY" in run.err
    written = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(SECRET in text for text in [run.err, *written])


def test_no_key_where_one_is_needed(model: Model, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "VOCABTRIM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with (
        AnsweringServer(model, key=SECRET) as server,
        pytest.raises(InputError, match=r"refuses requests without a key.*put the key into VOCABTRIM_API_KEY"),
    ):
        ask(server.url)


@pytest.mark.parametrize("key", ["two words", "schlüssel"])
def test_a_key_that_is_none_is_not_repeated(key: str, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOCABTRIM_API_KEY", key)
    with pytest.raises(InputError, match="VOCABTRIM_API_KEY is no key") as error:
        ask(f"http://{HOST}:9")
    assert key not in str(error.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://somewhere/v1", "is no address"),
        ("somewhere", "is no address"),
        ("http://", "is no address"),
        ("http://some:99999/v1", "is no address"),
        ("http://[half/v1", "is no address"),
        (f"http://user:{SECRET}@host/v1", "holds a password"),
        (f"http://host/v1?key={SECRET}", "holds a password or a query"),
    ],
)
def test_addresses_that_are_none(url: str, said: str, ask: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=said) as error:
        ask(url)
    assert SECRET not in str(error.value)


def test_the_server_may_move_the_model_may_not_change(model: Model, ask: Callable[..., Any], tmp_path: Path) -> None:
    """Another port is the same run; another model is another run, and its file is not touched."""
    with AnsweringServer(model) as first:
        ask(first.url)
    before = (tmp_path / "completions.jsonl").read_bytes()
    with AnsweringServer(model) as second:
        assert ask(second.url).answers == 0 and not second.asked
        second.names, second.answering = ["large"], "large"
        with pytest.raises(InputError, match='holds answers of another model: expected "large", found "small"'):
            ask(second.url)
    assert (tmp_path / "completions.jsonl").read_bytes() == before and NAME == "small"
