"""The loop around a drafter: contexts, leaving it at any round, exceptions in its middle, and half precision."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import small_models
import vocabtrim as vt
from generation import decoded, emitted, lively, noisy_copy, random_prompts
from vocabtrim.decoding.drafters.protocol import Drafter
from vocabtrim.decoding.target import Target
from vocabtrim.errors import InputError

VOCAB, LENGTH = 48, 24
PROMPT = [1, 40, 7, 7, 23]
KINDS = ["independent", "EAGLE", "EAGLE-3", "Medusa"]
TREE = vt.DynamicTree(nodes=24, depth=3, branching=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    shape = small_models.shape(VOCAB)
    lively(small_models.write_target(root / "plain", shape), root / "target")
    noisy_copy(root / "target", root / "independent", scale=0.1)
    for kind in KINDS[1:]:
        small_models.write_drafter(root / kind, kind, shape)
    return root


@pytest.fixture(scope="module")
def target(folder: Path) -> Target:
    return vt.load_target(folder / "target", dtype="float32")


@pytest.fixture(scope="module")
def expected(target: Target) -> list[int]:
    return emitted(decoded(target, None, PROMPT, LENGTH))


def open_drafter(folder: Path, kind: str, target: Target) -> Drafter:
    return vt.load_drafter(folder / kind, target, plan=None if kind == "Medusa" else TREE)


@pytest.fixture(scope="module", params=KINDS)
def drafter(request: pytest.FixtureRequest, folder: Path, target: Target) -> Drafter:
    return open_drafter(folder, request.param, target)


def forbid_reading(monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("something was read")

    monkeypatch.setattr(target, "begin", read)
    monkeypatch.setattr(target.lm, "run", read)


def test_prompt_and_output_may_fill_the_context_to_its_last_position(target: Target, drafter: Drafter) -> None:
    """Trees reach beyond what is emitted, but not beyond the context."""
    [prompt] = random_prompts(1, VOCAB, [target.lm.context - 20])
    rounds = decoded(target, drafter, prompt, 20)
    assert emitted(rounds) == emitted(decoded(target, None, prompt, 20))
    assert target.lm.cache.length == target.lm.context - 1


@pytest.mark.parametrize("name", ["plain", *KINDS])
def test_one_token_more_is_refused_before_anything_is_read(
    folder: Path, target: Target, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = None if name == "plain" else open_drafter(folder, name, target)
    [prompt] = random_prompts(1, VOCAB, [target.lm.context - 20])
    forbid_reading(monkeypatch, target)
    with pytest.raises(InputError, match=r"do not fit the target's context.*at most 512 tokens.*at most 20 new"):
        vt.decode(target, drafter, prompt, max_new_tokens=21)  # raised by the call, not by the first iteration


def test_a_drafters_smaller_context_counts_too(folder: Path, target: Target, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / "independent")
    model.config.max_position_embeddings = 32
    model.save_pretrained(tmp_path / "short")
    drafter = vt.load_drafter(tmp_path / "short", target, plan=TREE)
    [prompt] = random_prompts(1, VOCAB, [12])
    assert emitted(decoded(target, drafter, prompt, 20)) == emitted(decoded(target, None, prompt, 20))
    with pytest.raises(InputError, match="do not fit the drafter's context"):
        decoded(target, drafter, prompt, 21)


@pytest.mark.parametrize(("prompt", "words"), [([], "empty"), ([1, VOCAB], "does not have"), ([-1], "does not have")])
def test_bad_prompts_are_refused_before_anything_is_read(
    target: Target, prompt: list[int], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_reading(monkeypatch, target)
    with pytest.raises(InputError, match=words):
        vt.decode(target, None, prompt, max_new_tokens=3)


def prove_cache(target: Target, folder: Path, tokens: Sequence[int]) -> None:
    """The target's cache holds those tokens, to within float32's rounding."""
    fresh = vt.load_target(folder / "target", dtype="float32")
    fresh.lm.cache.reserve(len(tokens))
    fresh.lm.run(torch.tensor(tokens))
    assert target.lm.cache.length == len(tokens)
    for held, read in zip(target.lm.cache.layers, fresh.lm.cache.layers, strict=True):
        for name in ("keys", "values"):
            found, wanted = (getattr(layer, name)[:, :, : len(tokens)] for layer in (held, read))
            assert float((found - wanted).abs().max()) < 1e-5


def test_leaving_at_any_round_leaves_everything_in_order(
    folder: Path, target: Target, drafter: Drafter, expected: list[int]
) -> None:
    """The cache holds prompt and output but the last token; another prompt goes as with new objects."""
    [other] = random_prompts(1, VOCAB, [9], seed=4)
    plain = emitted(decoded(target, None, other, 10))
    for count in range(1, len(decoded(target, drafter, PROMPT, LENGTH)) + 1):
        taken = emitted(islice(vt.decode(target, drafter, PROMPT, max_new_tokens=LENGTH, stop_ids=()), count))
        assert taken == expected[: len(taken)]
        prove_cache(target, folder, [*PROMPT, *taken[:-1]])
        assert emitted(decoded(target, drafter, other, 10)) == plain
    assert emitted(decoded(target, drafter, PROMPT, LENGTH)) == expected


def test_a_cut_round_commits_no_more_than_what_was_emitted(folder: Path, target: Target, expected: list[int]) -> None:
    """A stop id on a drafted token, in the middle of what was accepted."""
    drafter = open_drafter(folder, "independent", target)
    for stop_id in sorted(set(expected)):
        output = emitted(decoded(target, drafter, PROMPT, LENGTH, stop_ids=[stop_id]))
        assert output == expected[: expected.index(stop_id) + 1]
        prove_cache(target, folder, [*PROMPT, *output[:-1]])


@pytest.mark.parametrize("where", ["propose", "commit", "verify"])
@pytest.mark.parametrize("after", [0, 2])
def test_an_exception_in_the_middle_spoils_no_later_generation(
    target: Target, drafter: Drafter, expected: list[int], where: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner: Any = target if where == "verify" else drafter
    right, calls = getattr(owner, where), []

    def failing(*arguments: Any, **named: Any) -> Any:
        calls.append(where)
        result = right(*arguments, **named)
        if len(calls) > after:
            raise RuntimeError("out of memory")
        return result

    with monkeypatch.context() as patched:
        patched.setattr(owner, where, failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            decoded(target, drafter, PROMPT, LENGTH)
    assert emitted(decoded(target, drafter, PROMPT, LENGTH)) == expected
    assert emitted(decoded(target, None, PROMPT, LENGTH)) == expected


def test_two_drafters_take_turns_on_one_target(folder: Path, target: Target, expected: list[int]) -> None:
    drafters = [open_drafter(folder, kind, target) for kind in KINDS]
    for drafter in [*drafters, *drafters[::-1]]:
        assert emitted(decoded(target, drafter, PROMPT, LENGTH)) == expected


def gap(target: Target, before: Sequence[int], one: int, other: int) -> tuple[float, float]:
    """How far two tokens' logits lie apart behind `before`, and how far below the best the better of them lies, read
    afresh in one pass."""
    target.lm.cache.reserve(len(before))
    logits = target.lm.run(torch.tensor(before)).logits[0].float()
    return float((logits[one] - logits[other]).abs()), float(logits.max() - max(logits[one], logits[other]))


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_the_first_difference_is_a_near_tie_of_the_targets_own(folder: Path, kind: str) -> None:
    """Passes of different width round differently, so tokens whose logits are as good as equal may change places.

    Both tokens must be the best to within four steps of bfloat16 at the size of these logits (up to 4: a step is
    2**-6). What comes after a difference has another past and is compared no more.
    """
    target = vt.load_target(folder / "target", dtype="bfloat16", lean=False)
    drafter = open_drafter(folder, kind, target)
    same = 0
    for prompt in random_prompts(12, VOCAB, [1, 4, 11], seed=9):
        plain, found = (emitted(decoded(target, who, prompt, 32)) for who in (None, drafter))
        assert len(plain) == len(found) == 32
        first = next((place for place in range(32) if plain[place] != found[place]), None)
        if first is None:
            same += 1
            continue
        apart, below = gap(target, [*prompt, *plain[:first]], plain[first], found[first])
        assert max(apart, below) <= 4 * 2**-6, (prompt, first, apart, below)
    assert same >= 6


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_leave_no_difference_in_bfloat16(folder: Path, kind: str) -> None:
    """They round a token alike in a pass of any width, so nothing changes places."""
    target = vt.load_target(folder / "target", dtype="bfloat16")
    drafter = open_drafter(folder, kind, target)
    for prompt in random_prompts(12, VOCAB, [1, 4, 11], seed=9):
        plain, found = (emitted(decoded(target, who, prompt, 32)) for who in (None, drafter))
        assert plain == found
    assert target.lm.way == "our kernels"
