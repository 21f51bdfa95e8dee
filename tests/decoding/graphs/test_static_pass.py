"""A target's pass as a program gives what the plain pass gives: chains and trees, commits, growing contexts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from replayed import Recorder
from vocabtrim.decoding.causal_lm import Branches, CausalLM
from vocabtrim.decoding.graphs.lm_pass import StaticPass, static_pass, why_not
from vocabtrim.decoding.target import Target
from vocabtrim.decoding.tree import Tree

VOCAB = 40
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 3": ("llama", {"rope_parameters": LLAMA_3}),
    "Llama, a key head for each query head": ("llama", {"num_key_value_heads": 4}),
    "Mistral, no window": ("mistral", {"sliding_window": None}),
    "Mistral, a window of 99": ("mistral", {"sliding_window": 99}),
    "Qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen2, windows of 99 in upper layers": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 99, "max_window_layers": 1},
    ),
    "Qwen3": ("qwen3", {}),
}
STATES = (1, 2, -1)
TREE = ((-1, 0, 0, 1, 1, 2, 5), [0, 1, 4])


def model(family: str, more: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **more})
    made = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.4 if parameter.dim() > 1 else 1.0)  # far from uniform logits
    return made


def both(family: str) -> tuple[Target, Target, Recorder]:
    """The plain target, the one by programs, and who recorded them."""
    plain, static = (Target(model(*FAMILIES[family]), lean=False) for _ in range(2))
    record = Recorder()
    assert static_pass(static.lm, record) is static.lm.graphs is not None
    return plain, static, record


def tokens(count: int, seed: int) -> list[int]:
    return torch.randint(VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def verified(targets: tuple[Target, Target], tree: Tree, path: list[int]) -> None:
    """One round of each: the same logits and hidden states, and the same nodes committed."""
    plain, static = (target.verify(tree, STATES) for target in targets)
    torch.testing.assert_close(static.logits, plain.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(static.hidden, plain.hidden, rtol=1e-4, atol=1e-4)
    for target in targets:
        target.commit(tree, path)
    assert targets[0].lm.cache.length == targets[1].lm.cache.length


@pytest.mark.parametrize("family", FAMILIES)
def test_rounds_give_what_the_plain_pass_gives(family: str) -> None:
    """Chains and trees of several sizes by turns, each committed along a path, in a text that outgrows a window of 99
    and, where there is none, a context of 256 too; each kind often enough to be recorded and replayed."""
    plain, static, record = both(family)
    prompt = tokens(30, seed=1)
    for target in (plain, static):
        begun = target.begin(prompt, 600, STATES)
    assert begun is not None and begun.shape == (29, 3 * 32)
    rounds = 60 if "window" not in family or "no window" in family else 30
    for number in range(rounds):
        parents, path = TREE
        tree = Tree(torch.tensor(tokens(len(parents), seed=10 + number)), parents)
        root, *drafted = tokens(1 + number % 5, seed=100 + number)
        chain = Tree.chain(root, drafted)
        verified((plain, static), tree, [node for node in path if node])
        verified((plain, static), chain, list(range(1, chain.size // 2 + 1)))
    assert (plain.lm.way, static.lm.way) == ("transformers' modules: the plain path was asked for", "recorded passes")
    assert plain.lm.cache.length > (256 if rounds == 60 else 99)
    assert record.recorded >= 3 and record.replays > 10


def test_a_new_prompt_and_more_room() -> None:
    """The cache moves when a longer sequence asks for more, and stays where it is for a shorter one: what was recorded
    for the old place is forgotten, and what an earlier text left behind is seen by nobody."""
    plain, static, record = both("Llama 3")
    for turn, (length, room) in enumerate([(20, 200), (20, 200), (300, 900), (5, 60)]):
        prompt = tokens(length, seed=turn)
        for target in (plain, static):
            target.begin(prompt, room, STATES)
        for number in range(3):
            verified((plain, static), Tree.chain(3, tokens(3, seed=number)), [1, 2])
    assert static.lm.graphs.cache.moved == 2
    assert record.recorded > 2


def test_padding_disturbs_nothing() -> None:
    """Five tokens go into a program of eight rows. The three others write where no one looks, even where their
    arithmetic fails: an embedding of NaN stands under the id that padding happens to carry."""
    _, static, _ = both("Llama 3")
    static.begin(tokens(10, seed=0), 100)
    wanted = static.verify(Tree.chain(3, [4, 5, 6, 7])).logits.clone()
    static.commit(Tree.chain(3, [4, 5, 6, 7]), [])
    graphs = static.lm.graphs
    told, _ = next(pair for key, pair in graphs._programs._made.items() if key.rows == 8)
    assert told.slots.tolist()[5:] == [graphs.cache.padding_slot] * 3
    with torch.inference_mode():
        static.lm.model.get_input_embeddings().weight[39] = torch.nan
        told._host_tokens[5:] = 39
    static.lm.cache.rewind(9)
    assert torch.equal(static.verify(Tree.chain(3, [4, 5, 6, 7])).logits, wanted)
    assert all(layer.keys[..., : graphs.cache.capacity, :].isfinite().all() for layer in graphs.cache.layers)


def test_levels_that_branch_behind_older_branches() -> None:
    """What an independent drafter reads level by level, older nodes in the block that the mask tells apart."""
    plain, static, _ = both("Qwen3")
    for target in (plain, static):
        target.begin(tokens(12, seed=5), 100)
    first = Branches(torch.zeros(3, dtype=torch.long), torch.eye(3, dtype=torch.bool))
    visible = torch.cat([first.visible[[0, 2, 2]], torch.eye(3, dtype=torch.bool)], dim=1)
    second = Branches(torch.tensor([0, 0, 0, 1, 1, 1]), visible)
    for _ in range(3):
        for branches in (first, second):
            ids = torch.tensor([7, 8, 9])
            a, b = (target.lm.run(ids, branches=branches, rows=3).logits for target in (plain, static))
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
        for target in (plain, static):
            target.lm.cache.rewind(11)


def test_more_rows_than_any_program_has_are_read_the_plain_way() -> None:
    plain, static, record = both("Llama 3")
    prompt = tokens(200, seed=3)
    seen = [target.begin(prompt, 300, STATES) for target in (plain, static)]
    assert torch.equal(*seen) and record.recorded == 0
    verified((plain, static), Tree.chain(1, tokens(79, seed=2)), [1])
    verified((plain, static), Tree.chain(1, tokens(3, seed=2)), [1])


@pytest.mark.parametrize(
    ("family", "more", "reason"),
    [
        ("gemma", {}, "gemma is none of llama"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic rotation"),
    ],
)
def test_models_that_cannot_are_left_to_the_plain_path(family: str, more: dict[str, Any], reason: str) -> None:
    lm = CausalLM(model(family, more), lean=False)
    assert reason in (why_not(lm) or "")
    assert static_pass(lm) is None and lm.graphs is None
    assert not isinstance(lm.cache, type(StaticPass(CausalLM(model("llama", {}), lean=False), None).cache))
