"""What is read off a tokenizer: the meaning of its ids, their order, and the ids a trim must keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tiny_tokenizer import edit, train
from vocabtrim.calibrate.tokenizer import OpenTokenizer, load_tokenizer, open_tokenizer, tokenizer_facts
from vocabtrim.errors import InputError

Opened = Callable[[str], OpenTokenizer]


def with_files(tiny: Path, out: Path, **files: object) -> Path:
    """A copy of the tiny tokenizer with other companions: strings as they are, anything else as JSON."""
    out.mkdir()
    (out / "tokenizer.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    for name, content in files.items():
        path = out / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return out


def kept_tokens(folder: Path) -> dict[str, str]:
    return kept_tokens_of(open_tokenizer(folder))


def kept_tokens_of(opened: OpenTokenizer) -> dict[str, str]:
    return {str(opened.tokenizer.id_to_token(i)): why for i, why in opened.facts.always_keep.items()}


def test_hash_is_of_meaning_not_of_formatting(tiny: Path, tmp_path: Path) -> None:
    same = edit(tiny, tmp_path / "same", lambda said: said.update(padding=None))
    (same / "tokenizer.json").write_text(json.dumps(json.loads((same / "tokenizer.json").read_text()), indent=4))
    assert tokenizer_facts(same).hash == tokenizer_facts(tiny).hash == tokenizer_facts(tiny / "tokenizer.json").hash


def test_hash_changes_when_two_ids_change_places(tiny: Path, tmp_path: Path) -> None:
    def swap(said: dict) -> None:
        vocab = said["model"]["vocab"]
        vocab["!"], vocab['"'] = vocab['"'], vocab["!"]

    assert tokenizer_facts(edit(tiny, tmp_path / "other", swap)).hash != tokenizer_facts(tiny).hash


def test_hash_covers_added_tokens(tiny: Path, tmp_path: Path) -> None:
    def rename(said: dict) -> None:
        said["added_tokens"][-1]["content"] = "<|other|>"

    assert tokenizer_facts(edit(tiny, tmp_path / "other", rename)).hash != tokenizer_facts(tiny).hash


def test_merge_order_covers_bytes_and_merges_but_not_added_tokens(tiny: Path) -> None:
    facts = tokenizer_facts(tiny)
    assert facts.vocab_size == load_tokenizer(tiny).get_vocab_size()
    assert facts.merge_ordered == facts.vocab_size - 6


def test_merge_order_ends_where_ids_leave_it(tiny: Path, tmp_path: Path) -> None:
    def swap(said: dict) -> None:
        vocab = said["model"]["vocab"]
        token_of = {token_id: token for token, token_id in vocab.items()}
        vocab[token_of[400]], vocab[token_of[401]] = 401, 400

    assert tokenizer_facts(edit(tiny, tmp_path / "other", swap)).merge_ordered == 400


def test_merge_order_may_begin_behind_special_tokens(tmp_path: Path, tiny: Path) -> None:
    """GPT-NeoX and StarCoder put their special tokens at the lowest ids."""

    def move_up(said: dict) -> None:
        vocab = said["model"]["vocab"]
        said["added_tokens"] = said["added_tokens"][:1]
        said["added_tokens"][0]["id"] = 0
        said["model"]["vocab"] = {"<|start|>": 0} | {token: token_id + 1 for token, token_id in vocab.items()}

    moved = edit(tiny, tmp_path / "moved", move_up)
    assert tokenizer_facts(moved).merge_ordered == tokenizer_facts(moved).vocab_size


def test_no_merge_order_without_merges(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    facts = tokenizer_facts(tmp_path)
    assert (facts.vocab_size, facts.merge_ordered, dict(facts.always_keep)) == (2, 0, {})


@pytest.mark.parametrize(
    ("name", "vocab_size", "merge_ordered"),
    [("llama3_2", 128_256, 128_000), ("qwen2_5", 151_665, 151_643), ("mistral-v0.1", 32_000, 0)],
)
def test_real_tokenizers(opened: Opened, name: str, vocab_size: int, merge_ordered: int) -> None:
    facts = opened(name).facts
    assert (facts.vocab_size, facts.merge_ordered) == (vocab_size, merge_ordered)


def test_llama_keeps_its_three_stops_and_what_its_template_writes(opened: Opened) -> None:
    assert kept_tokens_of(opened("llama3_2")) == {
        "<|begin_of_text|>": "chat template",
        "<|start_header_id|>": "chat template",
        "<|end_header_id|>": "chat template",
        "<|end_of_text|>": "stop token",
        "<|eom_id|>": "stop token",
        "<|eot_id|>": "stop token",
    }


def test_qwen_keeps_tool_tokens(opened: Opened) -> None:
    assert kept_tokens_of(opened("qwen2_5")) == {
        "<|endoftext|>": "stop token",
        "<|im_start|>": "chat template",
        "<|im_end|>": "stop token",
        "<tool_call>": "chat template",
        "</tool_call>": "chat template",
    }


def test_roles_put_together_by_the_template_are_kept(tiny: Path) -> None:
    """The tiny template writes '<|' + role + '|>' and bos_token; no role's token stands in it literally."""
    assert kept_tokens(tiny) == {
        "<|start|>": "chat template",
        "<|end|>": "stop token",
        "<|user|>": "chat template",
        "<|assistant|>": "chat template",
        "<|system|>": "chat template",
    }


def test_stop_ids_of_generation_config_and_config(tiny: Path, tmp_path: Path) -> None:
    size = tokenizer_facts(tiny).vocab_size
    folder = with_files(
        tiny,
        tmp_path / "t",
        generation_config__json={"eos_token_id": [3, 5, size + 7]},
        config__json={"eos_token_id": 9, "text_config": {"eos_token_id": 11}},
    )
    # No name is guessed beside a generation config, and an id that the tokenizer does not have is left out.
    assert dict(tokenizer_facts(folder).always_keep) == dict.fromkeys((3, 5, 9, 11), "stop token")


def test_stop_tokens_by_name_without_a_generation_config(tiny: Path, tmp_path: Path) -> None:
    assert kept_tokens(with_files(tiny, tmp_path / "t")) == {"<|end|>": "stop token"}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config__json": {"chat_template": "{{ x }}<|unused|>"}},
        {"tokenizer_config__json": {"chat_template": [{"name": "default", "template": "<|unused|>"}]}},
        {"chat_template__jinja": "<|unused|>"},
        {"chat_template__json": {"chat_template": "<|unused|>"}},
        {"tokenizer_config__json": {"chat_template": "{{pad_token}}", "pad_token": {"content": "<|unused|>"}}},
    ],
)
def test_chat_templates_are_found_wherever_they_lie(tiny: Path, tmp_path: Path, files: dict) -> None:
    found = kept_tokens(with_files(tiny, tmp_path / "t", generation_config__json={}, **files))
    assert found == {"<|unused|>": "chat template"}


def test_truncation_and_padding_are_switched_off(tiny: Path, tmp_path: Path) -> None:
    def truncate(said: dict) -> None:
        said["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}

    cut = load_tokenizer(edit(tiny, tmp_path / "cut", truncate))
    assert len(cut.encode("one two three four five six seven").ids) > 3


@pytest.mark.parametrize("content", [None, "no json", '{"model": {"type": "?"}}'])
def test_no_or_broken_tokenizer(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="no tokenizer"):
        tokenizer_facts(tmp_path)


def test_missing_path_that_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing"):
        load_tokenizer(tmp_path / "not" / "there")


def test_broken_companion_is_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"generation_config\.json"):
        tokenizer_facts(with_files(tiny, tmp_path / "t", generation_config__json="{"))


def test_normalizer_is_part_of_the_tokenizer_not_of_its_hash(tmp_path: Path) -> None:
    """Same ids, same meaning: counts of both merge."""
    assert (
        tokenizer_facts(train(tmp_path / "nfc", normalizer="NFC")).hash == tokenizer_facts(train(tmp_path / "no")).hash
    )


@pytest.mark.parametrize("name", ["llama3_2", "qwen2_5", "mistral-v0.1"])
def test_facts_read_from_json_are_those_of_the_library(name: str, data: Path) -> None:
    """Facts come from the file alone, which is quick; the library's own object must agree on every id."""
    from vocabtrim.calibrate.tokenizer import _said, _vocabulary

    folder = data / "tokenizers" / name
    tokenizer = load_tokenizer(folder)
    token_of, added = _vocabulary(_said(folder / "tokenizer.json"))
    assert token_of == {token_id: token for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items()}
    assert added == {token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()}


def test_a_unigram_vocabulary_is_a_list(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import Unigram

    tokenizer = Tokenizer(Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], unk_id=0))
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    facts = tokenizer_facts(tmp_path)
    assert facts.vocab_size == 4 and facts.merge_ordered == 0 and facts.always_keep == {3: "stop token"}
