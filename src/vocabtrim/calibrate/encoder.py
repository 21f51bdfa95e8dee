"""Texts to counts, the fast way where it is proven to give the same ids, through `tokenizers` otherwise.

Knows both ways and when to trust the fast one; knows nothing of documents, sources or files.

The fast way is compared with `tokenizers` three times: at the start on a battery of nasty strings and on tokens of its
vocabulary in shuffled order, on a sample of each source's very text, and while it runs by the bytes:
tiktoken drops what its pattern does not match, so the bytes of the tokens must add up to the bytes of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

from .byte_bpe import ByteBpe, NotByteBpeError
from .counts import Counts
from .tokenizer import OpenTokenizer

FAST, PLAIN = "tiktoken", "tokenizers"

_NASTY = (
    "",
    " ",
    "\n",
    "a",
    "it's IT'S we'LL I'd they'Ve 'ſ 'tis ''s 's' don’t",
    "   leading, trailing   \n\n\n  \t mixed \r\n\r\n \n x\r\ry \n",
    "1 12 123 1234 12345678901234567890 ٣٤٥٦ ½²③ Ⅷ 一二三",
    "end.\n\n\nNext?!\n  (indented)\n\t\ttabs\f\v\x00\x07\x1b\x7f",
    "e\u0301 \u00e9 A\u030a \u212b \u2126 \uac00 \u1100\u1161\u11a8 q\u0307\u0323 \ufb01 \u1e9b\u0323 \u0958 >\u0338",
    "\u00a0\u2000\u2003\u2009\u200b\u200d\u2028\u2029\u202f\u205f\u3000\u0085\u180e\ufeff x\u00a0y\u3000z",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ☃️ 𝕳𝖊𝖑𝖑𝖔 𐍈 𠜎 \U0010ffff \ufffd \uffff",
    "العربية עברית हिन्दी ไทย မြန်မာ 中文，日本語。한국어 ქართული Ελληνικά Ŀl·l ǅ ẞ ſ K",
    "{\"a\": [1, 2.5e-3], 'b': None}  # comment\n\tdef f(x):\n        return x**2 <= 3 != 4;;;///***",
    "https://example.com/a?b=c&d=%20#e  user@example.com $1,000.00 50% --flag=~/x_y-z.tar.gz",
    "a" * 3000 + " " * 3000 + "\n" * 300 + "9" * 1000 + "-" * 2000 + "哈" * 500 + "ab" * 1000,
)


class Encoder:
    """Counts texts under one tokenizer.

    way: "tiktoken" or "tokenizers"; why: the reason for the slower way, or what was compared.
    """

    def __init__(self, opened: OpenTokenizer) -> None:
        self._tokenizer = opened.tokenizer
        self._vocab_size = opened.facts.vocab_size
        self.way, self.why = FAST, "equal ids on nasty strings, shuffled tokens and a sample of the text"
        self._fast: ByteBpe | None = None
        try:
            self._fast = ByteBpe(opened)
        except NotByteBpeError as error:
            self._give_up(f"not for tiktoken: {error}")
        self.check([*_NASTY, *_around(opened.added.values()), *_shuffled_vocabulary(self._fast)])

    def _give_up(self, why: str) -> None:
        self._fast, self.way, self.why = None, PLAIN, why

    def check(self, sample: Sequence[str]) -> None:
        """Compare both ways on a sample; any difference and the fast way is given up."""
        if self._fast is None:
            return
        prepared = [(text, ready) for text in sample if (ready := self._fast.prepare(text)) is not None]
        try:
            joined = self._fast.encode(["", *(ready for _, ready in prepared)])
        except ValueError:  # a text that overflows tiktoken's pattern; there `count` takes the other way as well
            prepared = [(text, ready) for text, ready in prepared if _encodes(self._fast, ready)]
            joined = self._fast.encode(["", *(ready for _, ready in prepared)])
        fast = np.split(joined, np.flatnonzero(joined == self._fast.separator_id))[1:]
        plain = self._tokenizer.encode_batch_fast([text for text, _ in prepared], add_special_tokens=False)
        for (text, _), ids, encoding in zip(prepared, fast, plain, strict=True):
            if ids[1:].tolist() != encoding.ids:  # the first is the separator
                self._give_up(f"tiktoken gives other ids on {text[:40]!r}")
                return

    def count(self, texts: Sequence[str]) -> Counts:
        """(target_vocab,) int64: how often each id occurs in the texts, each tokenised by itself, nothing added."""
        fast = self._fast
        if fast is None or not texts:
            return self._count_plain(texts)
        ready, odd = [], []
        for text in texts:
            prepared = fast.prepare(text)
            if prepared is None:
                odd.append(text)
            else:
                ready.append(prepared)
        if not ready:
            return self._count_plain(odd)
        try:
            encoded = fast.encode(ready)
        except ValueError:  # tiktoken's pattern overflows on a run of a million spaces
            return self._count_halves(texts)
        tally = np.bincount(encoded, minlength=self._vocab_size + 1)
        n_bytes = sum(len(text) if text.isascii() else len(text.encode()) for text in ready)
        if tally @ fast.byte_length != n_bytes or tally[fast.separator_id] != len(ready) - 1:
            self._give_up("tiktoken lost bytes of the text")
            return self._count_plain(texts)
        counts: Counts = tally[:-1].astype(np.int64, copy=False)
        return counts + self._count_plain(odd) if odd else counts

    def _count_halves(self, texts: Sequence[str]) -> Counts:
        """As `count`, of one half and the other: in the end only what tiktoken refuses goes through `tokenizers`."""
        if len(texts) == 1:
            return self._count_plain(texts)
        middle = len(texts) // 2
        return self.count(texts[:middle]) + self.count(texts[middle:])

    def _count_plain(self, texts: Sequence[str]) -> Counts:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64)
        counts: Counts = np.bincount(ids, minlength=self._vocab_size).astype(np.int64, copy=False)
        return counts


def _encodes(fast: ByteBpe, ready: str) -> bool:
    try:
        fast.encode([ready])
    except ValueError:
        return False
    return True


def _around(added: Iterable[str]) -> Iterator[str]:
    """Added tokens, alone and against words, spaces and each other."""
    contents = list(added)
    for content, other in zip(contents, reversed(contents), strict=True):
        yield f"{content}a{content} {content}\n{other}{content[:-1]}{content}  {other[1:]}"


def _shuffled_vocabulary(fast: ByteBpe | None) -> Iterator[str]:
    """Tokens in an order that no training text had: a part of the vocabulary, in texts of a thousand."""
    if fast is None:
        return
    tokens = fast.tokens
    order = np.random.default_rng(0).permutation(len(tokens))[:30_000]
    for start in range(0, len(order), 1000):
        yield b"".join(tokens[position] for position in order[start : start + 1000]).decode(errors="ignore")
