"""Where the output ends: by hand, against looking at every prefix, and against `generate(stop_strings=...)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

import vocabtrim as vt
from generation import decoded, emitted, noisy_copy
from vocabtrim.decoding.drafters.protocol import Drafter
from vocabtrim.decoding.rounds import Round
from vocabtrim.decoding.stopping import Reason, Stop
from vocabtrim.decoding.target import Target
from vocabtrim.errors import InputError
from vocabtrim.testbed import stories260k

LETTERS = "abc de"
PROMPT = "Once upon a time, there was a little girl named"
LENGTH = 60


def spell(tokens: Sequence[int]) -> str:
    return "".join(LETTERS[token] for token in tokens)


@pytest.mark.parametrize(
    ("before", "new", "expected"),
    [
        ([], [0, 1], (2, None)),
        ([], [0, 5, 1], (2, Reason.STOP_ID)),
        ([0, 0], [5], (1, Reason.STOP_ID)),
        ([0] * 8, [1, 1], (2, Reason.LENGTH)),
        ([0] * 8, [1, 1, 5], (2, Reason.LENGTH)),
        ([0] * 8, [1, 5, 1], (2, Reason.STOP_ID)),  # both at once: the model's own end is the better reason
        ([0, 1], [2, 0, 5], (1, Reason.STOP_STRING)),  # "bc" over the edge between rounds
        ([0], [1, 2, 2], (2, Reason.STOP_STRING)),
    ],
)
def test_by_hand(before: list[int], new: list[int], expected: tuple[int, Reason | None]) -> None:
    assert Stop(10, ids={5}, strings=["bc"], text=spell).cut(before, new) == expected


def first_end(stop: Stop, tokens: Sequence[int]) -> int | None:
    """Looked for in every prefix, all of it; None where it has no end."""
    for count in range(1, len(tokens) + 1):
        text = spell(tokens[:count])
        if count == stop.length or tokens[count - 1] in stop.ids or any(string in text for string in stop.strings):
            return count
    return None


@given(
    tokens=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    sizes=st.lists(st.integers(1, 5), min_size=30, max_size=30),
    length=st.integers(1, 35),
    ids=st.sets(st.integers(0, 5), max_size=1),
    strings=st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=2),
)
def test_rounds_of_any_size_end_where_single_tokens_would(
    tokens: list[int], sizes: list[int], length: int, ids: set[int], strings: list[str]
) -> None:
    stop = Stop(length, ids, strings, spell)
    output: list[int] = []
    reason = None
    for size in sizes:
        new = tokens[len(output) : len(output) + size]
        if not new:
            break
        end, reason = stop.cut(output, new)
        output += new[:end]
        if reason is not None:
            break
    end_of_all = first_end(stop, tokens)
    assert output == tokens[:end_of_all]
    assert (reason is None) == (end_of_all is None)


@pytest.mark.parametrize("wrong", [{"length": 0}, {"length": 5, "strings": [""]}, {"length": 5, "strings": ["a"]}])
def test_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Stop(**wrong)


@pytest.fixture(scope="module")
def stories(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Target:
    folder = stories260k.convert(data / "models" / "stories260K", tmp_path_factory.mktemp("stories") / "stories260K")
    return vt.load_target(folder, dtype="float32")


@pytest.fixture(scope="module")
def tokenizer(stories: Target) -> Any:
    return AutoTokenizer.from_pretrained(stories.folder)


@pytest.fixture(scope="module")
def prompt(tokenizer: Any) -> list[int]:
    return list(tokenizer(PROMPT).input_ids)


@pytest.fixture(scope="module", params=["chain", "tree"])
def drafter(request: pytest.FixtureRequest, stories: Target, tmp_path_factory: pytest.TempPathFactory) -> Drafter:
    """Nearly the target, so that whole sentences are accepted at once."""
    copy = noisy_copy(stories.folder, tmp_path_factory.mktemp("copy") / "copy", scale=0.03)
    plan = vt.Chain(6) if request.param == "chain" else vt.DynamicTree(nodes=30, depth=6, branching=4)
    return vt.load_drafter(copy, stories, plan=plan)


@pytest.fixture(scope="module")
def uncut(stories: Target, prompt: list[int]) -> list[int]:
    return emitted(decoded(stories, None, prompt, LENGTH))


def prove_cut(rounds: list[Round], expected: list[int], reason: Reason) -> None:
    """The emitted tokens are `expected`; every round but the last is whole, and nothing behind the end is counted."""
    assert emitted(rounds) == expected
    assert [one.ended for one in rounds] == [None] * (len(rounds) - 1) + [reason]
    assert all(one.accepted == one.emitted - 1 for one in rounds[:-1])
    assert rounds[-1].accepted in (rounds[-1].emitted - 1, rounds[-1].emitted)
    assert sum(one.accepted for one in rounds) <= len(expected)


def test_every_stop_id_cuts_where_it_first_appears(
    stories: Target, drafter: Drafter, prompt: list[int], uncut: list[int]
) -> None:
    """Every other id of the output in turn; some of the cuts fall inside a round, on a drafted token."""
    inside = 0
    for stop_id in sorted(set(uncut))[::2]:
        rounds = decoded(stories, drafter, prompt, LENGTH, stop_ids=[stop_id])
        prove_cut(rounds, uncut[: uncut.index(stop_id) + 1], Reason.STOP_ID)
        inside += rounds[-1].accepted == rounds[-1].emitted
    assert inside > 3


def test_every_length_cuts_there(stories: Target, drafter: Drafter, prompt: list[int], uncut: list[int]) -> None:
    for length in range(1, 16):
        prove_cut(decoded(stories, drafter, prompt, length), uncut[:length], Reason.LENGTH)


def test_the_targets_own_stop_ids_end_a_generation(stories: Target, drafter: Drafter, prompt: list[int]) -> None:
    """As in `generate`, which takes them from the same generation config."""
    ids = torch.tensor([prompt])
    expected = stories.lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=400, do_sample=False)
    rounds = list(vt.decode(stories, drafter, prompt, max_new_tokens=400))
    assert emitted(rounds) == expected[0, len(prompt) :].tolist()
    assert rounds[-1].ended is not None


# Whole words, parts of words, over several tokens, at once, one that never comes.
STRINGS = [["She"], ["loved to play"], ["ark"], [". S"], [" "], ["y.", "park"], ["outside in"], ["xyzzy"]]


@pytest.mark.parametrize("strings", STRINGS, ids=str)
def test_stop_strings_end_where_generate_ends(
    stories: Target, drafter: Drafter, tokenizer: Any, prompt: list[int], strings: list[str]
) -> None:
    ids = torch.tensor([prompt])
    row = stories.lm.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=LENGTH,
        do_sample=False,
        eos_token_id=stories.lm.vocab,
        stop_strings=strings,
        tokenizer=tokenizer,
    )
    expected = row[0, len(prompt) :].tolist()
    anchor = prompt[-1:]  # this tokenizer drops the space before the first token that it decodes; `generate` sees it

    def text(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode([*anchor, *tokens])).removeprefix(tokenizer.decode(anchor))

    rounds = decoded(stories, drafter, prompt, LENGTH, stop_strings=strings, text=text)
    prove_cut(rounds, expected, Reason.LENGTH if strings == ["xyzzy"] else Reason.STOP_STRING)
