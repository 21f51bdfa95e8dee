"""The fast way through a byte-level BPE tokenizer: the same ids from tiktoken, or a reason why not.

Knows what a `tokenizer.json` may ask for and which of it tiktoken can do; knows nothing of documents or counts.

tiktoken merges the pair whose product has the lowest rank. That is what the merge list says too, if ids rise along
the list and every token is reached by its merges; then ids serve as ranks. Whatever else a tokenizer asks for is
refused here, and what is not refused is compared with `tokenizers` on real text before it is trusted (encoder.py).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .tokenizer import OpenTokenizer, merge_products

if TYPE_CHECKING:
    import tiktoken

# GPT-2's pattern, which a ByteLevel pre-tokenizer uses when it is told to split by itself.
_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Stands between documents that are encoded in one call; two noncharacters, so that no text has it. One that does
# goes through `tokenizers`.
SEPARATOR = "\ufdd0vocabtrim\ufdd1"

Tokens = npt.NDArray[np.uint32]


class NotByteBpeError(Exception):
    """Why this tokenizer cannot go through tiktoken."""


class ByteBpe:
    """A byte-level BPE tokenizer run by tiktoken. Raises NotByteBpeError, with the reason, when it is anything else."""

    def __init__(self, opened: OpenTokenizer) -> None:
        model, added = opened.json["model"], opened.tokenizer.get_added_tokens_decoder()
        self._pattern = _pattern(opened.json.get("pre_tokenizer"))
        self._normalize = _normalizer(opened)
        _check_model(model)
        _check_added(list(added.values()), self._normalize is not None)
        self._added = {token.content: token_id for token_id, token in added.items()}
        self._ranks = _ranks(model, set(added))
        self.separator_id = opened.facts.vocab_size
        self._beginnings = {content[:2] for content in self._added}
        self.byte_length = np.zeros(opened.facts.vocab_size + 1, np.int64)
        for token, token_id in self._ranks.items():
            self.byte_length[token_id] = len(token)
        for content, token_id in self._added.items():
            self.byte_length[token_id] = len(content.encode())
        self._plain = self._encoding({})

    def _encoding(self, added: Mapping[str, int]) -> tiktoken.Encoding:
        import tiktoken

        try:
            return tiktoken.Encoding(
                "vocabtrim",
                pat_str=self._pattern,
                mergeable_ranks=self._ranks,
                special_tokens={**added, SEPARATOR: self.separator_id},
            )
        except ValueError as error:
            raise NotByteBpeError(f"tiktoken does not take its pattern ({error})") from error

    @cached_property
    def _with_added(self) -> tiktoken.Encoding:
        """Recognising hundreds of added tokens halves the speed: only text that may hold one pays for it."""
        return self._encoding(self._added)

    @property
    def tokens(self) -> list[bytes]:
        """The bytes of each token but the added ones."""
        return list(self._ranks)

    def prepare(self, text: str) -> str | None:
        """The text as it is to be encoded, normalised; None where only `tokenizers` knows what to do with it."""
        if SEPARATOR in text:
            return None
        if self._normalize is None:
            return text
        normal = self._normalize(text)
        if normal is not text and self.holds_added(text):
            return None  # added tokens are found first, and only what stands between them is normalised
        return normal

    def holds_added(self, text: str) -> bool:
        """Whether an added token occurs in the text."""
        return any(beginning in text for beginning in self._beginnings) and any(
            content in text for content in self._added
        )

    def encode(self, texts: Sequence[str]) -> Tokens:
        """Ids of prepared texts, `separator_id` between one text and the next. One call: threads run side by side."""
        joined = SEPARATOR.join(texts)
        if self.holds_added(joined):
            return self._with_added.encode_to_numpy(joined, allowed_special="all")
        return self._plain.encode_to_numpy(joined, allowed_special="all")


def _check_model(model: Mapping[str, Any]) -> None:
    if model.get("type") != "BPE":
        raise NotByteBpeError(f"its model is {model.get('type')}, not BPE")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise NotByteBpeError(f"its BPE model has {option}")


def _pattern(pre_tokenizer: Mapping[str, Any] | None) -> str:
    steps = [pre_tokenizer or {}]
    if steps[0].get("type") == "Sequence":
        steps = steps[0]["pretokenizers"]
    byte_level = steps[-1] if steps else {}
    if byte_level.get("type") != "ByteLevel":
        raise NotByteBpeError("it is not byte-level")
    if byte_level.get("add_prefix_space"):
        raise NotByteBpeError("it puts a space before the text")
    if len(steps) == 1 and byte_level.get("use_regex", True):
        return _GPT2_PATTERN
    if len(steps) != 2 or steps[0].get("type") != "Split" or byte_level.get("use_regex", True):
        raise NotByteBpeError("its pre-tokenizer is not one split and the byte level")
    split = steps[0]
    if split.get("behavior") != "Isolated" or split.get("invert") or "Regex" not in split["pattern"]:
        raise NotByteBpeError("its split is not by a pattern whose matches stand alone")
    return str(split["pattern"]["Regex"])


def _check_added(added: Sequence[Any], normalizes: bool) -> None:
    for token in added:
        if token.lstrip or token.rstrip or token.single_word or (token.normalized and normalizes):
            raise NotByteBpeError(f"its added token {token.content!r} takes its surroundings into account")
    contents = sorted(token.content for token in added)
    for shorter, longer in pairwise(contents):  # in this order a prefix comes right before
        if longer.startswith(shorter):
            raise NotByteBpeError(f"its added token {shorter!r} begins {longer!r}")


def _ranks(model: Mapping[str, Any], added: set[int]) -> dict[bytes, int]:
    """Bytes of each token -> its id."""
    vocab: Mapping[str, int] = model["vocab"]
    products = merge_products(model)
    last = -1
    for product in products:
        if vocab.get(product, -1) <= last:
            raise NotByteBpeError(f"its ids do not rise along the merges (at {product!r})")
        last = vocab[product]
    made = set(products)
    byte_of = byte_of_character()
    ranks: dict[bytes, int] = {}
    for token, token_id in vocab.items():
        if token not in made:
            if token_id in added:
                continue
            if len(token) > 1 and not model.get("ignore_merges"):
                raise NotByteBpeError(f"no merge makes its token {token!r}")
        try:
            ranks[token.translate(byte_of).encode("latin-1")] = token_id
        except (UnicodeEncodeError, LookupError):
            raise NotByteBpeError(f"its token {token!r} is not made of bytes") from None
    if (single := sum(len(token) == 1 for token in ranks)) < 256:
        raise NotByteBpeError(f"it has {single} of the 256 bytes")
    return ranks


class _ByteOfCharacter(dict[int, int]):
    """For str.translate: a character outside the alphabet becomes one that Latin-1 does not have."""

    def __missing__(self, character: int) -> int:
        return 0xFFFF


def byte_of_character() -> dict[int, int]:
    """The alphabet of byte-level BPE, for str.translate: a character of a token -> the byte it stands for.

    Printable Latin-1 stands for itself, the other bytes follow from U+0100 on; a character outside becomes U+FFFF.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = _ByteOfCharacter({byte: byte for byte in printable})
    alphabet.update((0x100 + position, byte) for position, byte in enumerate(others))
    return alphabet


def _normalizer(opened: OpenTokenizer) -> Callable[[str], str] | None:
    """A function that returns the very same string where nothing is to be changed; None where nothing ever is."""
    asked = opened.json.get("normalizer")
    if asked is None:
        return None
    if asked.get("type") != "NFC":
        raise NotByteBpeError(f"its normalizer is {asked.get('type')}")
    normalizer = opened.tokenizer.normalizer
    newer, beyond = _newer_than_python()

    def normalize(text: str) -> str:
        if text.isascii():
            return text
        settled = not newer.search(text) and beyond.isdisjoint(_SECOND_PLANE.findall(text))
        if settled and unicodedata.is_normalized("NFC", text):
            return text
        normal: str = normalizer.normalize_str(text)
        return text if normal == text else normal

    return normalize


_SECOND_PLANE = re.compile("[\U00010000-\U0001ffff]")


def _newer_than_python() -> tuple[re.Pattern[str], frozenset[str]]:
    """Characters that this Python's Unicode does not have, and `tokenizers`' may: only it knows their normal form.

    Those of the first plane as a pattern, those of the second as a set: one pattern of both is a hundred times slower
    to search. Beyond these planes characters have no compositions, and the compatibility ideographs are settled.
    """
    unassigned = [chr(point) for point in range(0x20000) if unicodedata.category(chr(point)) == "Cn"]
    first = "".join(character for character in unassigned if character <= "\uffff")
    return re.compile(f"[{first}]"), frozenset(unassigned[len(first) :])
