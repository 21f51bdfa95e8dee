"""The fast way gives the ids of `tokenizers`, or is not taken."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny_tokenizer import SPECIAL, TEXT, edit, train
from vocabtrim.calibrate.byte_bpe import SEPARATOR, ByteBpe, NotByteBpeError
from vocabtrim.calibrate.encoder import _NASTY, FAST, PLAIN, Encoder
from vocabtrim.calibrate.tokenizer import OpenTokenizer, open_tokenizer

LLAMA_LIKE = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def plain_counts(opened: OpenTokenizer, texts: list[str]) -> list[int]:
    encodings = opened.tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = np.concatenate([np.array(encoding.ids, np.int64) for encoding in encodings])
    return np.bincount(ids, minlength=opened.facts.vocab_size).tolist()


def corpora(data: Path) -> Iterator[str]:
    """Every corpus beside the checkout, in documents: records as they are, text by paragraph."""
    for file in sorted(data.glob("text/*.txt")):
        yield from file.read_text(encoding="utf-8").split("\n\n")
    for file in sorted([*data.glob("*/*.jsonl"), *data.glob("tools/*.json"), *data.glob("recorded/*.json")]):
        yield from strings(file.read_text(encoding="utf-8"), lines=file.suffix == ".jsonl")


def strings(content: str, *, lines: bool) -> Iterator[str]:
    for value in map(json.loads, content.splitlines()) if lines else [json.loads(content)]:
        stack = [value]
        while stack:
            top = stack.pop()
            if isinstance(top, str):
                yield top
            elif isinstance(top, (dict, list)):
                stack.extend(top.values() if isinstance(top, dict) else top)


@pytest.fixture(scope="session", params=["llama3_2", "qwen2_5"])
def real(request: pytest.FixtureRequest, opened: Callable[[str], OpenTokenizer]) -> OpenTokenizer:
    return opened(request.param)


def test_equal_counts_on_all_corpora(real: OpenTokenizer, data: Path) -> None:
    texts = sorted(set(corpora(data)))
    assert sum(map(len, texts)) > 10_000_000
    encoder = Encoder(real)
    assert encoder.count(texts).tolist() == plain_counts(real, texts)
    assert encoder.way == FAST


@pytest.mark.parametrize("pattern", [None, LLAMA_LIKE])
@pytest.mark.parametrize("normalizer", [None, "NFC"])
def test_equal_counts_on_tiny_tokenizers(tmp_path: Path, pattern: str | None, normalizer: str | None) -> None:
    opened = open_tokenizer(train(tmp_path / "t", pattern=pattern, normalizer=normalizer))
    encoder = Encoder(opened)
    texts = [*TEXT, *_NASTY, "e\u0301<|end|>\u0338 <|end|", f"x{SEPARATOR}y", "<|user|><|user|>", "\U00016d67" * 3]
    assert encoder.count(texts).tolist() == plain_counts(opened, texts)
    assert encoder.way == FAST


def test_no_text(tiny: Path) -> None:
    assert Encoder(open_tokenizer(tiny)).count([]).tolist() == [0] * open_tokenizer(tiny).facts.vocab_size
    assert Encoder(open_tokenizer(tiny)).count([""]).sum() == 0


def test_added_tokens_are_recognised_within_text(tiny: Path) -> None:
    opened = open_tokenizer(tiny)
    counts = Encoder(opened).count(["a<|end|>b", "c", "<|end|><|user|>"])
    special = {name: int(counts[opened.tokenizer.token_to_id(name)]) for name in SPECIAL}
    assert special == {
        "<|start|>": 0,
        "<|end|>": 2,
        "<|user|>": 1,
        "<|assistant|>": 0,
        "<|system|>": 0,
        "<|unused|>": 0,
    }


def set_model(**options: Any) -> Any:
    return lambda said: said["model"].update(options)


def set_added(**options: Any) -> Any:
    return lambda said: said["added_tokens"][0].update(options)


def set_split(**options: Any) -> Any:
    split = {"type": "Split", "pattern": {"Regex": LLAMA_LIKE}, "behavior": "Isolated", "invert": False, **options}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return lambda said: said.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]})


def set_byte_level(**options: Any) -> Any:
    return lambda said: said["pre_tokenizer"].update(options)


def swap_two_merged_ids(said: dict) -> None:
    vocab = said["model"]["vocab"]
    token_of = {token_id: token for token, token_id in vocab.items()}
    vocab[token_of[400]], vocab[token_of[401]] = 401, 400


def rename_a_byte(said: dict) -> None:
    vocab = said["model"]["vocab"]
    vocab["語"] = vocab.pop("\u0100")


def drop_a_byte(said: dict) -> None:
    del said["model"]["vocab"]["\u0100"]


def add_an_unmade_token(said: dict) -> None:
    said["model"]["vocab"]["qzx"] = 700


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_model(dropout=0.1), "dropout"),
        (set_model(byte_fallback=True), "byte_fallback"),
        (set_model(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (set_added(lstrip=True), "takes its surroundings"),
        (set_added(rstrip=True), "takes its surroundings"),
        (set_added(single_word=True), "takes its surroundings"),
        (set_added(content="<|end|>x"), "'<|end|>' begins '<|end|>x'"),
        (set_byte_level(add_prefix_space=True), "a space before the text"),
        (set_byte_level(use_regex=False), "not one split and the byte level"),
        (set_split(behavior="Removed"), "whose matches stand alone"),
        (set_split(invert=True), "whose matches stand alone"),
        (set_split(pattern={"String": " "}), "whose matches stand alone"),
        (lambda said: said.update(pre_tokenizer=None), "not byte-level"),
        (lambda said: said.update(normalizer={"type": "Lowercase"}), "normalizer is Lowercase"),
        (swap_two_merged_ids, "do not rise along the merges"),
        (rename_a_byte, "not made of bytes"),
        (drop_a_byte, "255 of the 256 bytes"),
        (add_an_unmade_token, "no merge makes its token 'qzx'"),
    ],
)
def test_what_tiktoken_cannot_do_is_refused(tiny: Path, tmp_path: Path, change: Any, reason: str) -> None:
    opened = open_tokenizer(edit(tiny, tmp_path / "changed", change))
    with pytest.raises(NotByteBpeError, match=reason.replace("|", r"\|")):
        ByteBpe(opened)
    encoder = Encoder(opened)
    assert encoder.way == PLAIN and reason in encoder.why
    if reason != "dropout":  # which draws lots
        assert encoder.count(TEXT).tolist() == plain_counts(opened, TEXT)


def test_a_normalized_added_token_is_refused_only_with_a_normalizer(tiny: Path, tmp_path: Path) -> None:
    """GPT-2's own <|endoftext|> says "normalized", which means nothing where nothing is normalised."""
    change = set_added(normalized=True)
    assert Encoder(open_tokenizer(edit(tiny, tmp_path / "a", change))).way == FAST
    composed = train(tmp_path / "nfc", normalizer="NFC")
    assert Encoder(open_tokenizer(edit(composed, tmp_path / "b", change))).way == PLAIN


def test_characters_newer_than_python_are_left_to_the_normalizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The normalizer's Unicode may know characters that Python's does not: then Python may call normal what is not."""
    fast = ByteBpe(open_tokenizer(train(tmp_path / "t", normalizer="NFC")))
    assert {unicodedata.category(character) for character in "\u0378\U0001fffd"} == {"Cn"}
    monkeypatch.setattr("unicodedata.is_normalized", lambda form, text: True)
    assert fast.prepare("e\u0301") == "e\u0301"  # believed
    assert fast.prepare("e\u0301 \u0378") == "\u00e9 \u0378"
    assert fast.prepare("e\u0301 \U0001fffd") == "\u00e9 \U0001fffd"


def test_other_models_go_through_tokenizers(data: Path) -> None:
    opened = open_tokenizer(data / "tokenizers/mistral-v0.1")
    encoder = Encoder(opened)
    assert encoder.way == PLAIN and "not byte-level" in encoder.why
    assert encoder.count(TEXT).tolist() == plain_counts(opened, TEXT)


def test_a_pattern_that_leaves_text_out_is_noticed_at_the_start(tiny: Path, tmp_path: Path) -> None:
    """`tokenizers` keeps what a pattern does not match as a piece of its own; tiktoken drops it without a word."""
    opened = open_tokenizer(edit(tiny, tmp_path / "t", set_split(pattern={"Regex": r"\p{L}+|\s+"})))
    encoder = Encoder(opened)
    assert encoder.way == PLAIN and "other ids on" in encoder.why


def test_a_pattern_that_leaves_text_out_is_noticed_on_the_way(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, where the battery and the sample do not happen to hold such text."""
    monkeypatch.setattr(Encoder, "check", lambda self, sample: None)
    opened = open_tokenizer(edit(tiny, tmp_path / "t", set_split(pattern={"Regex": r"\p{L}+|\s+"})))
    encoder = Encoder(opened)
    assert encoder.count(["only words"]).tolist() == plain_counts(opened, ["only words"])
    assert encoder.way == FAST
    assert encoder.count(["words", "and 4 numbers"]).tolist() == plain_counts(opened, ["words", "and 4 numbers"])
    assert encoder.way == PLAIN and "lost bytes" in encoder.why


def test_a_difference_on_the_sample_is_noticed(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges are missing from the list: tiktoken makes their tokens all the same, `tokenizers` only whole pieces."""

    def lose_a_merge(said: dict) -> None:
        said["model"]["ignore_merges"] = True
        del said["model"]["merges"][::2]

    monkeypatch.setattr("vocabtrim.calibrate.encoder._NASTY", ())
    monkeypatch.setattr("vocabtrim.calibrate.encoder._shuffled_vocabulary", lambda fast: ())
    opened = open_tokenizer(edit(tiny, tmp_path / "t", lose_a_merge))
    encoder = Encoder(opened)
    assert encoder.way == FAST
    encoder.check(["theshellsfoxbrown", "unquicklazydogleftright"])
    assert encoder.way == PLAIN and "other ids on" in encoder.why
    assert encoder.count(TEXT).tolist() == plain_counts(opened, TEXT)


@pytest.mark.slow
def test_every_token_alone(real: OpenTokenizer) -> None:
    """A whole piece that is a token: tiktoken looks it up, `tokenizers` may have to reach it by merges."""
    fast = ByteBpe(real)
    texts = [token.decode(errors="ignore") for token in fast.tokens]
    texts = [ready for text in texts if (ready := fast.prepare(text)) is not None]
    joined = fast.encode(["", *texts])
    pieces = np.split(joined, np.flatnonzero(joined == fast.separator_id))[1:]
    plain = real.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    assert all(piece[1:].tolist() == e.ids for piece, e in zip(pieces, plain, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "context",
    [
        "{}",
        "a{}b",
        "1{}2",
        " {} ",
        "\n{}\n",
        "!{}!",
        "'{}",
        "  {}x",
        "{0}{0}",
        "é{}é",
        "中{}文",
        "e{}",
        "\u1100{}",
        "{}\u0327\u0301",
    ],
)
def test_every_character(real: OpenTokenizer, context: str) -> None:
    """Two regular expression engines and two Unicode tables: letters, numbers, spaces and case must be the same."""
    encoder = Encoder(real)
    for first in range(0, 0x110000, 4096):
        around = [context.format(chr(point)) for point in range(first, first + 4096) if not 0xD800 <= point < 0xE000]
        if context != "{}":  # twenty to a text: three times as quick
            around = ["\n".join(around[start : start + 20]) for start in range(0, len(around), 20)]
        same = not around or encoder.count(around).tolist() == plain_counts(real, around)
        assert same and encoder.way == FAST, f"between U+{first:04X} and U+{first + 4095:04X}: {encoder.why}"
