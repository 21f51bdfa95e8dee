"""Where plain text is cut, and that no tokenizer notices."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from vocabtrim.calibrate.text import LONGEST, SHORTEST, text_documents
from vocabtrim.calibrate.tokenizer import OpenTokenizer, load_tokenizer

Opened = Callable[[str], OpenTokenizer]


def cut(text: str | bytes) -> list[str]:
    invalid: list[int] = []
    content = text.encode() if isinstance(text, str) else text
    parts = list(text_documents(io.BufferedReader(io.BytesIO(content)), invalid.append))
    assert not invalid
    return parts


def prose(n_bytes: int, separators: list[str], seed: int = 0) -> str:
    generator = random.Random(seed)
    words = ["alpha", "beta", "12", "x_y", "don't", "(see", "below).", "日本語", "naïve", "—", "Ω≈ç"]
    pieces: list[str] = []
    size = 0
    while size < n_bytes:
        pieces.append(" ".join(generator.choices(words, k=generator.randint(1, 30))) + generator.choice(separators))
        size += len(pieces[-1].encode())
    return "".join(pieces)


def test_parts_joined_are_the_text() -> None:
    text = prose(300_000, ["\n", "\n\n", "\r\n", "\n   ", " \n ", "\n\t\n\n"])
    parts = cut(text)
    assert "".join(parts) == text
    assert all(SHORTEST <= len(part.encode()) <= LONGEST for part in parts[:-1])
    assert max(len(part) for part in parts) < 12_000


def test_short_text_is_one_document() -> None:
    assert cut("one\n\ntwo\n") == ["one\n\ntwo\n"]
    assert cut("") == []


def test_cuts_do_not_depend_on_the_blocks_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of some 40 kB: wherever a block ends, the end of the line must be in sight before a cut is made."""
    text = prose(6_000_000, [" "] * 400 + ["\n\n"])
    in_blocks = cut(text)
    monkeypatch.setattr("vocabtrim.calibrate.text.BLOCK", 1 << 30)
    assert cut(text) == in_blocks and len(in_blocks) > 100


def test_a_document_never_begins_with_an_empty_line() -> None:
    """Where nothing but empty lines separate, the cut comes after the last of them."""
    parts = cut(prose(200_000, ["\n\n", "\n\n\n", "\n  \n"]))
    assert len(parts) > 10 and all(part.partition("\n")[0].strip() for part in parts)


def test_a_cut_comes_after_a_newline_and_before_something_on_the_line() -> None:
    for part in cut(prose(200_000, ["\n", "\n\n", "\n   \n", "\n\u3000\n", "\n \u00a0"]))[1:]:
        assert part.partition("\n")[0].strip()


def test_an_exact_place_is_preferred_to_an_earlier_line_end() -> None:
    """GPT-2's pattern sees a cut after a blank line, but none between two words: the latter is worth 4 kB more."""
    text = "word " * 820 + "\n\nNext " + "word " * 300 + "end\nhere " + "word " * 2000
    assert cut(text)[0].endswith("end\n")


def test_an_endless_line_is_cut_at_a_space() -> None:
    parts = cut("word " * 60_000)
    assert [len(part) for part in parts[:-1]] == [65534, 65535, 65535, 65535]
    assert all(part.startswith(" word") for part in parts[1:])


def test_an_endless_word_is_cut_between_characters() -> None:
    parts = cut("a" + "語" * 100_000)
    assert "".join(parts) == "a" + "語" * 100_000
    assert all(LONGEST - 4 <= len(part.encode()) <= LONGEST for part in parts[:-1])


def test_byte_order_mark_is_no_text() -> None:
    assert cut(b"\xef\xbb\xbfone\n") == ["one\n"]


def test_invalid_lines_are_left_out_and_named() -> None:
    lines = [b"line %d \xe4\xb8\xad\n" % number for number in range(1, 3001)]
    for bad in (7, 8, 2500):
        lines[bad - 1] = b"latin-1 caf\xe9\n"
    invalid: list[int] = []
    text = "".join(text_documents(io.BufferedReader(io.BytesIO(b"".join(lines))), invalid.append))
    assert invalid == [7, 8, 2500]
    assert text == "".join(f"line {n} 中\n" for n in range(1, 3001) if n not in invalid)


def assert_unnoticed(tokenizer: Tokenizer, text: str) -> None:
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    parts = tokenizer.encode_batch(cut(text), add_special_tokens=False)
    assert len(parts) > 10
    assert list(chain.from_iterable(part.ids for part in parts)) == whole


@pytest.mark.parametrize("name", ["llama3_2", "qwen2_5"])
@pytest.mark.parametrize("file", ["wikitext2_valid.txt", "tinyshakespeare.txt", "wikitext2_test.txt"])
def test_real_tokenizers_do_not_notice_the_cuts(opened: Opened, data: Path, name: str, file: str) -> None:
    assert_unnoticed(opened(name).tokenizer, (data / "text" / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["llama3_2", "qwen2_5"])
def test_nor_in_any_mixture_of_whitespace(opened: Opened, name: str) -> None:
    spaces = [
        "\n",
        "\n\n",
        " \n",
        "\r\n",
        "\n    ",
        "\n\t",
        "\n \n",
        "\n\u00a0",
        "\n\u3000\u3000",
        "\u2028\n",
        "\n\r\n",
        " ",
    ]
    assert_unnoticed(opened(name).tokenizer, prose(400_000, spaces))


def test_gpt2s_pattern_does_not_notice_where_lines_follow_each_other(tiny: Path) -> None:
    assert_unnoticed(load_tokenizer(tiny), prose(400_000, ["\n", "\n", "\n ", "\n\n", "\n    ", " \n"]))
