"""The whole of replay, from folders: kept vocabularies beside drafters that were cut to them, targets that are not
loaded, and recordings that do not belong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import small_models
import vocabtrim as vt
from generation import lively, noisy_copy, random_prompts
from recordings import record
from tiny_tokenizer import train, write_jsonl
from vocabtrim.calibrate.tokenizer import tokenizer_facts
from vocabtrim.checkpoint.costs import drafter_cost
from vocabtrim.cost import mbsu
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.errors import InputError, MismatchError, UnsupportedError
from vocabtrim.measure.recording import Recorded, RecordingHeader, RecordingWriter
from vocabtrim.measure.replay import FULL, OWN, TOO_LONG, Replayed, replay
from vocabtrim.vocabulary.kept import KeptVocabulary

VOCAB, LENGTH = 32, 20
KINDS = ["independent", "EAGLE", "EAGLE-3", "Medusa"]
KEPT = {"most": [i for i in range(VOCAB) if i % 4 != 1], "few": [2, 3, 6, 15, 22, 27]}
STATES = (2, 1, -1)  # EAGLE-3's of four layers, and what EAGLE and Medusa read
TREE = {"nodes": 20, "branching": 4, "draft_length": 3}


def write(folder: Path, generations: Sequence[Recorded], header: RecordingHeader) -> Path:
    with RecordingWriter(folder, header) as writer:
        for one in generations:
            writer.append(one)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """target/, drafters of every kind and cut to each of KEPT, the kept vocabularies, and recorded/ with hidden
    states: half of its prompts of category odd."""
    root = tmp_path_factory.mktemp("world")
    shape = small_models.shape(VOCAB)
    lively(small_models.write_target(root / "plain", shape), root / "target")
    noisy_copy(root / "target", root / "independent", scale=0.1)
    for kind in KINDS:
        if kind != "independent":
            small_models.write_drafter(root / kind, kind, shape)
        for name, ids in KEPT.items():
            small_models.trim(root / kind, root / "target", ids, VOCAB, root / f"{kind} {name}")
    for name, ids in KEPT.items():
        KeptVocabulary(np.array(ids), VOCAB).save(root / f"{name}.safetensors")
    target = vt.load_target(root / "target", dtype="float64")
    states = tuple(dict.fromkeys((*vt.load_drafter(root / "EAGLE-3", target).states, -1)))
    warm = Sampling(temperature=0.8)
    generations = [
        replace(
            record(target, prompt, LENGTH, states=states, sampling=warm, name=f"{number}"),
            category="odd" if number % 2 else "even",
        )
        for number, prompt in enumerate(random_prompts(6, VOCAB, [2, 9, 30]))
    ]
    write(root / "recorded", generations, RecordingHeader("target", None, VOCAB, warm, states))
    return root


def run(world: Path, kind: str, **how: Any) -> Replayed:
    plan = {} if kind.startswith("Medusa") else TREE
    common = {"drafter": world / kind, "target": world / "target", "dtype": "float64"}
    return replay([world / "recorded"], **common | plan | how)


def maps(world: Path) -> list[Path]:
    return [world / f"{name}.safetensors" for name in KEPT]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_vocabulary_replays_as_the_drafter_that_is_cut_to_it(world: Path, kind: str) -> None:
    found = run(world, kind, kept=maps(world))
    assert [one.name for one in found.kept] == [FULL, *KEPT]
    assert [one.kept_size for one in found.kept] == [VOCAB, *map(len, KEPT.values())]
    assert len(found.generations) == 6 and found.tokens == 6 * LENGTH and not found.skipped
    seen = [[part.block_efficiency for part in found.by_category(one).values()] for one in found.kept]
    for number, name in enumerate(KEPT, start=1):
        cut = run(world, f"{kind} {name}").kept[0]
        assert cut.name == OWN and cut.kept_size == len(KEPT[name])
        assert cut.rounds == found.kept[number].rounds and cut.text == found.kept[number].text
        assert cut.mbsu == pytest.approx(found.kept[number].mbsu)
    assert found.kept[0].summary.emitted == found.tokens  # type: ignore[union-attr]
    assert len({tuple(one) for one in seen}) > 1, "what is kept makes a difference"


def test_figures_are_ratios_of_sums(world: Path) -> None:
    found = run(world, "EAGLE", kept=maps(world)[:1])
    cost = drafter_cost(world / "EAGLE", world / "target")
    for one in found.kept:
        rounds = [round for part in one.rounds or () for round in part]
        assert one.summary is not None and one.summary.rounds == len(rounds)
        assert one.summary.block_efficiency == found.tokens / len(rounds)
        assert one.depth is not None and max(round.depth for round in rounds) <= one.depth  # a tree takes all its steps
        assert one.mbsu == mbsu(found.tokens / len(rounds), cost.cost_ratio(one.kept_size), one.depth)
        parts = found.by_category(one)
        assert set(parts) == {"even", "odd"} and sum(part.rounds for part in parts.values()) == len(rounds)


@pytest.mark.parametrize("kind", KINDS)
def test_no_layer_of_the_target_is_read(world: Path, tmp_path: Path, kind: str) -> None:
    """A target whose layers hold nothing but NaN serves as well; one whose head does, does not serve EAGLE-1/2."""
    expected = run(world, kind).kept[0].rounds
    for spoiled in ("layers", "lm_head"):
        shutil.copytree(world / "target", tmp_path / spoiled)
        file = tmp_path / spoiled / "model.safetensors"
        tensors = {
            name: torch.full_like(tensor, torch.nan) if spoiled in name else tensor
            for name, tensor in load_file(file).items()
        }
        save_file(tensors, file, {"format": "pt"})
        if spoiled == "lm_head" and kind == "EAGLE":
            with pytest.raises(vt.VocabTrimError, match="NaN"):
                run(world, kind, target=tmp_path / spoiled)
        else:
            assert run(world, kind, target=tmp_path / spoiled).kept[0].rounds == expected


def test_an_independent_drafter_needs_no_target(world: Path) -> None:
    alone, beside = (run(world, "independent", target=target) for target in (None, world / "target"))
    assert alone.kept[0].rounds == beside.kept[0].rounds
    assert alone.kept[0].mbsu is None and beside.kept[0].mbsu is not None


def test_without_a_drafter_the_text_is_read_alone(world: Path) -> None:
    found = replay([world / "recorded"], kept=maps(world))
    drafted = run(world, "independent", kept=maps(world))
    assert [one.text for one in found.kept] == [one.text for one in drafted.kept[1:]]
    assert found.kind is None and all(one.rounds is None and one.summary is None for one in found.kept)
    assert 0 < found.kept[1].text.overall.share < found.kept[0].text.overall.share < 1
    assert set(found.kept[0].text.by_category) == {"even", "odd"}
    assert found.by_category(found.kept[0]) == {}


def test_limits_and_several_recordings(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "recorded", tmp_path / "other" / "recorded")
    both = replay([world / "recorded", tmp_path / "other" / "recorded" / "recording.jsonl"], kept=maps(world), limit=2)
    assert [one.name for one in both.generations] == ["0", "1", "0", "1"]
    assert len(both.kept[0].text.by_source) == 2


def test_maps_of_any_dialect_and_names_that_collide(world: Path, tmp_path: Path) -> None:
    (tmp_path / "most.json").write_text(json.dumps(KEPT["most"][::-1]))
    found = replay([world / "recorded"], kept=[*maps(world)[:1], tmp_path / "most.json", world / "EAGLE few"])
    assert [one.name for one in found.kept] == ["most", str(tmp_path / "most.json"), "EAGLE few"]
    assert found.kept[0].text == found.kept[1].text and found.kept[2].kept_size == len(KEPT["few"])


def test_what_is_longer_than_the_drafters_context_is_left_out(world: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(world / "independent")
    model.config.max_position_embeddings = 9 + LENGTH
    model.save_pretrained(tmp_path / "short")
    found = run(world, "independent", drafter=tmp_path / "short")
    assert found.skipped == {TOO_LONG: 2} and [one.name for one in found.generations] == ["0", "1", "3", "4"]
    assert found.kept[0].text.overall.tokens == 4 * LENGTH
    model.config.max_position_embeddings = 9
    model.save_pretrained(tmp_path / "shorter")
    with pytest.raises(InputError, match=r"no generation is left.*6 left out: longer than the drafter's context"):
        run(world, "independent", drafter=tmp_path / "shorter")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_drafters_that_are_built_on_their_target_need_it(world: Path, kind: str) -> None:
    with pytest.raises(vt.VocabTrimError, match="--target"):
        run(world, kind, target=None)


def test_hidden_states_that_were_not_recorded(world: Path, tmp_path: Path) -> None:
    generations = [Recorded("0", (1, 2), (3, 4), max_new_tokens=9)]
    write(tmp_path / "bare", generations, RecordingHeader("target", None, VOCAB, Sampling()))
    with pytest.raises(InputError, match="does not hold the hidden states that the drafter reads"):
        replay([tmp_path / "bare"], drafter=world / "EAGLE", target=world / "target")
    chats = write_jsonl(tmp_path / "chats.jsonl", [{"messages": []}])
    with pytest.raises(InputError, match="holds no hidden states"):
        run_on(chats, world, tokenizer=train(tmp_path / "tiny"))


def run_on(recorded: Path, world: Path, **how: Any) -> Replayed:
    return replay([recorded], drafter=world / "EAGLE", target=world / "target", **how)


def test_recordings_maps_and_tokenizers_of_other_targets(world: Path, tmp_path: Path) -> None:
    """Told by the tokenizer's hash where both name one, by ids out of range where none does."""
    tiny = train(tmp_path / "tiny")
    facts = tokenizer_facts(tiny)
    said = tokenizer_facts(train(tmp_path / "other", vocab_size=300)).hash
    generations = [Recorded("0", (1, 2), (3, VOCAB), max_new_tokens=9)]
    own = write(tmp_path / "own", generations, RecordingHeader("target", facts.hash, facts.vocab_size, Sampling()))
    other = write(tmp_path / "foreign", generations, RecordingHeader("target", said, facts.vocab_size, Sampling()))
    KeptVocabulary(np.array([1, 3]), facts.vocab_size, facts.hash).save(tmp_path / "kept.safetensors")
    kept = [tmp_path / "kept.safetensors"]
    assert replay([own], kept=kept, tokenizer=tiny).kept[0].text.overall.share == 0.5
    assert replay([own], kept=kept).token_text == {}
    with pytest.raises(MismatchError, match="recorded with another tokenizer than the tokenizer that was given"):
        replay([other], kept=kept, tokenizer=tiny)
    with pytest.raises(MismatchError, match=r"recorded with another tokenizer than .*own"):
        replay([own, other], kept=kept)
    with pytest.raises(MismatchError, match="kept were chosen with another tokenizer"):
        replay([other], kept=kept)
    with pytest.raises(MismatchError, match=rf"holds an id that .* not know: expected 0 to {VOCAB - 1}, found {VOCAB}"):
        replay([own], drafter=world / "independent")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "nothing to replay, expected a drafter, kept vocabularies, or both; pass --drafter"),
        ({"kept": ["most"], "nodes": 9}, "nothing is drafted without a drafter"),
        ({"kept": ["most"], "group_by": "language"}, "no generation has a field language"),
        ({"kept": ["most"], "recorded": "nowhere"}, "no recording at"),
        ({"kept": ["most"], "recorded": "target"}, "no recording at .* found a folder without it"),
        ({"kept": ["most"], "recorded": "target/config.json"}, "holds text, which takes a tokenizer"),
        ({"kept": ["none"]}, "does not exist"),
        ({"drafter": "independent few", "kept": ["most"]}, "no row for 18 of the kept ids"),
    ],
)
def test_bad_requests(world: Path, how: dict[str, Any], words: str) -> None:
    given = dict(how)
    recorded = world / given.pop("recorded", "recorded")
    given["kept"] = [world / f"{name}.safetensors" for name in given.get("kept", ())]
    if "drafter" in given:
        given["drafter"] = world / given["drafter"]
    with pytest.raises((InputError, MismatchError), match=words):
        replay([recorded], **given)


def test_no_recording(world: Path) -> None:
    with pytest.raises(InputError, match="no recording to replay"):
        replay([], kept=maps(world))


def test_a_medusa_drafter_takes_of_a_plan_the_nodes_alone(world: Path) -> None:
    """Its tree is static, and can be cut; what is left drafts less and reaches no further."""
    for numbers in ({"draft_length": 3}, {"branching": 2}):
        with pytest.raises(UnsupportedError, match="tree is static"):
            run(world, "Medusa", **numbers)
    whole, cut = (run(world, "Medusa", **numbers).kept[0].summary for numbers in ({}, {"nodes": 9}))
    assert cut.drafted / cut.rounds <= 8 < whole.drafted / whole.rounds
    assert cut.block_efficiency <= whole.block_efficiency


def test_readable_tokens(tmp_path: Path) -> None:
    """Whole characters as text, parts of them as the tokenizer calls them."""
    tiny = train(tmp_path / "tiny")
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "the fox ê"}]
    file = write_jsonl(tmp_path / "chats.jsonl", [{"messages": chat}])
    KeptVocabulary(np.array([0]), tokenizer_facts(tiny).vocab_size).save(tmp_path / "one.safetensors")
    found = replay([file], kept=[tmp_path / "one.safetensors"], tokenizer=tiny)
    assert {lost.token for lost in found.kept[0].text.lost} == set(found.token_text)
    assert "<|end|>" in found.token_text.values() and all(found.token_text.values())
