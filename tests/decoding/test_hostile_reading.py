"""What a hostile reading of the loop found, each kept from coming back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3nTextConfig, LlamaConfig

import small_models as small
import vocabtrim as vt
from outcomes import outcomes
from vocabtrim.decoding import rounds as loop
from vocabtrim.decoding.acceptance import reject_chain
from vocabtrim.decoding.chance import TorchChance
from vocabtrim.decoding.drafters.plans import Chain, DynamicTree, grow
from vocabtrim.decoding.drafters.protocol import Draft
from vocabtrim.decoding.head import Head
from vocabtrim.decoding.kv_cache import KeyValueCache
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.decoding.stopping import Stop
from vocabtrim.decoding.target import Target
from vocabtrim.decoding.tree import Tree
from vocabtrim.errors import CheckpointError, InputError
from vocabtrim.measure.timing import StageClock

PROMPT = [3, 5, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_target(tmp_path_factory.mktemp("target") / "target", small.shape(8))


@pytest.fixture
def target(folder: Path) -> Target:
    return vt.load_target(folder, dtype="float32")


def tokens(rounds: Any) -> list[int]:
    return [token for done in rounds for token in done.tokens]


def test_a_sampled_chain_from_a_head_of_fewer_rows_than_the_target_has_ids() -> None:
    """Qwen2.5's small models are padded to fewer rows than its large ones. Every outcome of one drafted token."""
    target_probs, draft_probs = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([[0.1, 0.2, 0.7]])

    def first(chance: Any) -> int:
        tree = Tree.chain(9, [chance.draw(draft_probs[0])])
        verdict = reject_chain(tree, lambda _: target_probs, draft_probs, None, chance)
        return int(tree.tokens[1]) if verdict.path else verdict.token

    found = outcomes(first)
    assert [found[token] for token in range(4)] == pytest.approx(target_probs.tolist(), abs=1e-6)


def test_such_a_drafter_end_to_end(target: Target, tmp_path: Path) -> None:
    target.folder = None  # without tokenizers beside them, folders of different widths are refused
    narrow = replace(small.shape(8), vocab=6, head_rows=6)
    drafts = small.write_drafter(tmp_path / "narrow", "independent", narrow)
    drafter = vt.load_drafter(drafts, target, plan=Chain(3, Sampling(temperature=1.0)))
    generator = torch.Generator().manual_seed(0)
    sampling = Sampling(temperature=1.0)
    rounds = vt.decode(target, drafter, PROMPT, max_new_tokens=60, stop_ids=(), sampling=sampling, generator=generator)
    assert len(tokens(rounds)) == 60


def test_a_second_iterator_on_the_same_target_ends_the_first(target: Target) -> None:
    first = vt.decode(target, None, PROMPT, max_new_tokens=8, stop_ids=())
    next(first)
    second = vt.decode(target, None, [1, 2], max_new_tokens=8, stop_ids=())
    next(second)
    with pytest.raises(InputError, match="begun for another prompt in between"):
        next(first)
    assert len(tokens(second)) == 7


def test_a_drafter_of_another_sequence_is_found_out(target: Target, folder: Path) -> None:
    """Its root would be read as if it had been emitted."""
    drafter = vt.load_drafter(folder, target)
    plain = tokens(vt.decode(target, None, PROMPT, max_new_tokens=8, stop_ids=()))
    open_one = vt.decode(target, drafter, PROMPT, max_new_tokens=8, stop_ids=())
    emitted = list(next(open_one).tokens)
    drafter.begin([next(token for token in range(8) if token != emitted[-1])], 8, None)
    with pytest.raises(InputError, match="proposal breaks the protocol"):
        next(open_one)
    assert tokens(vt.decode(target, drafter, PROMPT, max_new_tokens=8, stop_ids=())) == plain


class TooMuch:
    """Proposes a larger tree than it said."""

    states: tuple[int, ...] = ()
    nodes = 2
    context = None

    def begin(self, prompt: list[int], length: int, hidden: object) -> None:
        self.root = prompt[-1]

    def propose(self, depth: int, chance: object) -> Draft:
        return Draft(Tree.chain(self.root, [1, 2]))

    def commit(self, draft: object, path: object, emitted: list[int], hidden: object) -> None:
        self.root = emitted[-1]


def test_a_drafter_that_proposes_more_than_it_said_is_refused(target: Target) -> None:
    with pytest.raises(InputError, match=r"of at most 2 nodes, found root 1, 2 deep, 3 nodes"):
        next(vt.decode(target, TooMuch(), PROMPT, max_new_tokens=8))


def test_layers_that_share_keys_and_values(tmp_path: Path) -> None:
    """Gemma 3n's last layers read the caches of earlier ones and keep none: a committed branch moves what is there."""
    config = Gemma3nTextConfig(
        vocab_size=8,
        vocab_size_per_layer_input=8,
        hidden_size=32,
        hidden_size_per_layer_input=8,
        intermediate_size=64,
        num_hidden_layers=4,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=8,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 4,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    target = Target(AutoModelForCausalLM.from_config(config).float())
    drafts = small.write_drafter(tmp_path / "drafter", "independent", small.shape(8))
    drafter = vt.load_drafter(drafts, target, plan=DynamicTree(nodes=20, depth=3, branching=5))
    plain = tokens(vt.decode(target, None, PROMPT, max_new_tokens=30, stop_ids=()))
    rounds = list(vt.decode(target, drafter, PROMPT, max_new_tokens=30, stop_ids=()))
    assert tokens(rounds) == plain
    assert sum(done.accepted for done in rounds) > 0


@pytest.mark.parametrize("sampling", [Sampling(1e-50), Sampling(1.0, top_p=1e-50), Sampling(1e-300, 2, 1e-300)])
def test_numbers_that_float32_takes_for_zero(sampling: Sampling) -> None:
    assert sampling.probs(torch.tensor([1.0, 3.0, 2.0])).tolist() == [0, 1, 0]


def test_a_failed_allocation_leaves_the_target_usable(target: Target) -> None:
    plain = tokens(vt.decode(target, None, PROMPT, max_new_tokens=4))
    target.lm.cache.reserve(10**13)
    with pytest.raises(RuntimeError, match="allocate"):
        target.lm.run(torch.tensor(PROMPT))
    assert tokens(vt.decode(target, None, PROMPT, max_new_tokens=4)) == plain


def test_memory_that_is_large_enough_is_kept() -> None:
    cache = KeyValueCache(1)
    cache.reserve(10)
    cache.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2), 0)
    memory = cache.layers[0].keys
    cache.reserve(9)
    assert cache.layers[0].keys is memory
    assert (cache.length, cache.capacity) == (0, 10)


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), -float("inf")])
def test_draft_logits_that_are_no_numbers(bad: float) -> None:
    """One NaN or +inf among numbers, or nothing but -inf; -inf beside a number rules an id out and is fine."""
    head = Head(torch.zeros(3, 1))
    row = [bad] * 3 if bad < 0 else [1.0, bad, 2.0]
    with pytest.raises(CheckpointError, match="drafter's logits hold NaN or infinity"):
        head.best(torch.tensor([[0.0, 1.0, 2.0], row]), 2)
    assert head.best(torch.tensor([[0.0, -float("inf"), 2.0]]), 2).ids.tolist() == [[2, 0]]


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=1.0)])
def test_a_chain_blames_the_drafter(sampling: Sampling | None) -> None:
    class Body:
        head = Head(torch.zeros(3, 1))

        def catch_up(self) -> torch.Tensor:
            return torch.tensor([[1.0, float("inf"), 2.0]])

        def extend(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
            raise AssertionError

    with pytest.raises(CheckpointError, match="drafter's logits"):
        grow(Chain(2, sampling).growth(Body().head, 7, Body().catch_up(), 2, TorchChance()), Body())


def test_ids_without_text_in_front_of_a_stop_string() -> None:
    texts = {1: "a", 2: "b", 3: ""}
    stop = Stop(99, strings=["ab"], text=lambda ids: "".join(texts[token] for token in ids))
    assert stop.cut([1, 3, 3, 3, 3, 3, 3], [3, 2, 1]) == (2, loop.Reason.STOP_STRING)


def test_a_stop_string_behind_bytes_that_form_a_character_together() -> None:
    """A decoder of single bytes shows a run of them as unknown until it is whole; rounds must make no difference."""
    emitted = [*"🦖".encode(), *b"\n\n", *"🎃".encode(), *b" x"]

    def text(ids: Sequence[int]) -> str:
        try:
            return bytes(ids).decode()
        except UnicodeDecodeError:
            return "�" * len(ids)

    stop = Stop(99, strings=["\n\n"], text=text)
    for size in range(1, len(emitted) + 1):
        before: list[int] = []
        ended = None
        while ended is None:
            new = emitted[len(before) : len(before) + size]
            end, ended = stop.cut(before, new)
            before += new[:end]
        assert before == emitted[:6]


def test_stop_strings_that_are_one_string_are_refused(target: Target) -> None:
    with pytest.raises(InputError, match="put it in a list"):
        vt.decode(target, None, PROMPT, max_new_tokens=4, stop_strings="park", text=str)


def test_a_model_without_a_name_is_not_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    config = LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    target = Target(AutoModelForCausalLM.from_config(config))
    assert target.folder is None
    drafts = small.write_drafter(tmp_path / "drafter", "independent", small.shape(8))
    vt.load_drafter(drafts, target)


def test_a_generator_of_another_device_is_refused(target: Target) -> None:
    target.lm.device = torch.device("cuda")  # what it would say there
    with pytest.raises(InputError, match=r"expected cuda, found cpu"):
        vt.decode(target, None, PROMPT, max_new_tokens=4, generator=torch.Generator())


def test_a_forward_pass_that_fails_leaves_no_time_open() -> None:
    class Fails(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    class Catches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Fails()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with pytest.raises(ValueError, match="no"):
                self.inner(x)
            return x

    module = Catches()
    with StageClock({"outer": [module], "inner": [module.inner]}) as clock:
        module(torch.zeros(1))
    assert not clock._open
    assert set(clock.seconds) == {"outer", "inner"}


@pytest.mark.parametrize(
    "plan", [lambda: Chain(10**9), lambda: DynamicTree(nodes=10**20), lambda: DynamicTree(9, 2, 10**9)]
)
def test_plans_that_no_memory_holds_are_refused(plan: Any) -> None:
    with pytest.raises(InputError, match="expected 1 to 4096"):
        plan()


@pytest.mark.parametrize(
    "said",
    [
        {"num_attention_heads": 3},
        {"num_key_value_heads": 0},
        {"hidden_act": "nope"},
        {"rope_theta": "x"},
        {"rms_norm_eps": "a"},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
    ],
    ids=str,
)
def test_a_config_that_no_layer_can_be_made_of(target: Target, tmp_path: Path, said: dict[str, Any]) -> None:
    drafts = small.write_drafter(tmp_path / "drafter", "EAGLE", small.shape(8))
    config = json.loads((drafts / "config.json").read_text())
    (drafts / "config.json").write_text(json.dumps(config | said))
    with pytest.raises(CheckpointError) as error:
        vt.load_drafter(drafts, target)
    assert "\n" not in str(error.value)
