"""Prompts to ids, and tokens to text while they come: whole characters, nothing of a stop string, who drafted what."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from vocabtrim.decoding.stopping import Stop
from vocabtrim.decoding.text import Piece, TargetText, TextStream
from vocabtrim.errors import InputError
from vocabtrim.testbed import stories260k
from vocabtrim.testbed.builtin import TOKENIZER

# One character over several tokens, several characters in one, joined emoji, runs of spaces.
TEXTS = ["Grüße, 世界! 👩‍👩‍👧 naïve\n\tx  y 🎉 ñ", "plain", " leading", "日本語" * 5, "a\u0301e\u0301\u200d🏳️‍🌈"]


@pytest.fixture(scope="module")
def words() -> TargetText:
    return TargetText(TOKENIZER)


@pytest.fixture(scope="module")
def stories(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TargetText:
    """A sentencepiece vocabulary with byte tokens and a decoder that strips the first space."""
    out = tmp_path_factory.mktemp("stories") / "target"
    return TargetText(stories260k.convert(data / "models" / "stories260K", out))


def streamed(words: TargetText, tokens: list[int], **ends: bool) -> list[Piece]:
    stream = TextStream(words)
    pieces = [piece for token in tokens for piece in stream.feed(token, accepted=False)]
    return pieces + stream.finish(**ends)


def joined(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("whose", ["words", "stories"])
def test_pieces_are_whole_characters_and_make_up_the_text(
    whose: str, text: str, request: pytest.FixtureRequest
) -> None:
    words: TargetText = request.getfixturevalue(whose)
    tokens = words.tokenizer.encode(text, add_special_tokens=False).ids
    pieces = streamed(words, tokens)
    assert joined(pieces) == words.decode(tokens) == text
    assert len(pieces) > 1 or len(tokens) == 1
    assert not any("�" in piece.text for piece in pieces)


def test_any_ids_at_all_make_up_the_decoded_text(words: TargetText) -> None:
    """Bytes that form no character, special tokens, rows that no token has: nothing is lost, nothing said twice."""
    draw = random.Random(0)
    for _ in range(50):
        tokens = [draw.randrange(draw.choice((300, 16_448))) for _ in range(30)]
        assert joined(streamed(words, tokens)) == words.decode(tokens)


def test_a_decoder_that_takes_text_back_ends_nothing(stories: TargetText) -> None:
    """Byte tokens C3 A9 are é; with FF behind them this decoder gives three � instead. What was said stays said."""
    tokens = [stories.tokenizer.token_to_id(token) for token in ("<0xC3>", "<0xA9>", "<0xFF>", "▁the", "▁was")]
    assert stories.decode(tokens).startswith("���")
    assert joined(streamed(stories, tokens)) in ("é� the was", "é�the was")
    assert joined(streamed(stories, tokens[:3])) == "é�"


def test_half_a_character_is_said_at_the_end(words: TargetText) -> None:
    tokens = words.tokenizer.encode("🎉").ids
    assert len(tokens) > 1 and joined(streamed(words, tokens[:1])) == words.decode(tokens[:1]) == "�"


def test_a_piece_is_accepted_where_all_its_tokens_are(words: TargetText) -> None:
    """Special tokens have no text and so no say in it."""
    party = words.tokenizer.encode("🎉").ids
    end = words.tokenizer.token_to_id("<|im_end|>")
    a = words.tokenizer.token_to_id("a")
    for flags, expected in (([True] * len(party), True), ([False] + [True] * (len(party) - 1), False)):
        stream = TextStream(words)
        pieces = [p for token, flag in zip(party, flags, strict=True) for p in stream.feed(token, accepted=flag)]
        assert pieces == [Piece("🎉", expected)]
        assert stream.feed(end, accepted=False) == []
        assert stream.feed(a, accepted=True) == [Piece("a", True)]


def fed(stream: TextStream, words: TargetText, text: str) -> str:
    return joined([p for token in words.tokenizer.encode(text).ids for p in stream.feed(token, accepted=False)])


def test_what_may_begin_a_stop_string_waits(words: TargetText) -> None:
    stream = TextStream(words, ["###", "# end"])
    assert fed(stream, words, "a ") == "a "
    assert fed(stream, words, "##") == ""
    assert fed(stream, words, "x") == "##x"  # no stop string after all
    assert fed(stream, words, "y#") == "y"
    assert joined(stream.finish()) == "#"


def answer(words: TargetText, text: str, stop_strings: list[str]) -> str:
    """What is shown of an answer, given token by token to `Stop`, which ends it, and to the stream."""
    stop = Stop(1000, strings=stop_strings, text=words.written_out)
    stream, said = TextStream(words, stop_strings), ""
    tokens = words.tokenizer.encode(text, add_special_tokens=False).ids
    for position, token in enumerate(tokens):
        said += joined(stream.feed(token, accepted=False))
        if stop.cut(tokens[:position], [token])[1] is not None:
            return said + joined(stream.finish(stopped=True))
    return said + joined(stream.finish())


def test_a_stop_string_and_all_behind_it_is_not_said(words: TargetText) -> None:
    """The token that completes it may hold more; the earliest of several strings counts."""
    assert answer(words, "go on STOP it now", ["STOP", "TOP it"]) == "go on "
    assert answer(words, "a word and its end", [" wor"]) == "a"
    stream = TextStream(words, ["abc", "b"])
    assert fed(stream, words, "xab") == "x" and joined(stream.finish(stopped=True)) == "a"


@pytest.mark.parametrize("rest", [" c", "", "b", " hello world"])
def test_a_stop_string_that_did_not_stop_is_said(words: TargetText, rest: str) -> None:
    """A hidden token stood in its middle, so the ids do not hold it; another string may end the answer later."""
    assert answer(words, f"a<|im_end|>b{rest}", ["ab"]) == f"ab{rest}"
    assert answer(words, f"a<|im_end|>b{rest} XY and on", ["ab", " XY"]) == f"ab{rest}"
    assert answer(words, f"a<|im_end|>b{rest} ab and on", ["ab", "XY"]) == f"ab{rest} "


def test_a_stop_string_that_did_not_stop_is_not_held_back_to_the_end(words: TargetText) -> None:
    stream = TextStream(words, ["ab"])
    fed(stream, words, "a<|im_end|>b")
    assert fed(stream, words, " c") == "ab c"


def test_of_a_stop_string_with_a_special_token_in_it_the_text_is_said(words: TargetText) -> None:
    assert answer(words, "ab a<|im_end|> on", ["a<|im_end|>", "xyz"]) == "ab a"


# Prompts


def test_a_prompt_is_a_users_turn_as_transformers_renders_it(words: TargetText) -> None:
    theirs = AutoTokenizer.from_pretrained(TOKENIZER)
    chat = [{"role": "user", "content": "Grüße <|im_end|>?"}]
    expected = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert words.prompt(chat[0]["content"]) == expected
    assert words.prompt("hello", chat=False) == theirs("hello").input_ids


def test_a_conversation_of_several_turns(words: TargetText, stories: TargetText) -> None:
    theirs = AutoTokenizer.from_pretrained(TOKENIZER)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 2+2?"},
    ]
    asked = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert words.conversation(messages) == theirs(asked, add_special_tokens=False).input_ids
    with pytest.raises(InputError, match="no chat template"):
        stories.conversation(messages)


def test_without_a_template_the_prompt_is_taken_as_it_is(stories: TargetText) -> None:
    assert not stories.template.exists
    tokens = stories.prompt("Once upon")
    assert tokens == stories.prompt("Once upon", chat=False) == stories.tokenizer.encode("Once upon").ids


def test_bad_prompts(words: TargetText, tmp_path: Path) -> None:
    for prompt, fact in (("", "prompt is empty"), ("a\udcff", "no Unicode")):
        with pytest.raises(InputError, match=fact):
            words.prompt(prompt)
    folder = Path(shutil.copytree(TOKENIZER, tmp_path / "tokenizer"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    refusing = "{{ raise_exception('a system turn must come first') }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": refusing}))
    with pytest.raises(InputError, match=r"refuses the prompt.*a system turn must come first.*--no-chat"):
        TargetText(folder).prompt("hello")
    assert TargetText(folder).prompt("hello", chat=False)
