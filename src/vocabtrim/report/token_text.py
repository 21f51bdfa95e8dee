"""A token as people can read it: its bytes as text, and everything that cannot be seen written out.

Knows how tokenizers write bytes down; knows nothing of pages. What comes out still has to be escaped for one.
"""

from __future__ import annotations

import json
import re
import unicodedata

from ..calibrate.byte_bpe import byte_of_character
from ..calibrate.tokenizer import OpenTokenizer

_SPACE = "␣"
_WRITTEN = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\", " ": _SPACE}
_NAMED_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def readable(opened: OpenTokenizer, token: int) -> str:
    """`␣the`, `\\n`, `\\xe2\\x80` for a part of a character, an added token's content, "id 7" for what no token has."""
    if token in opened.added:
        return spelled(opened.added[token].encode("utf-8", "surrogatepass"))
    written = opened.tokenizer.id_to_token(token)
    return f"id {token}" if written is None else spelled(_bytes(opened, written))


def spelled(content: bytes) -> str:
    """Bytes as UTF-8; what is none, and what has no shape of its own, as an escape."""
    return "".join(map(_spelled, content.decode("utf-8", "surrogateescape")))


def _bytes(opened: OpenTokenizer, written: str) -> bytes:
    """The bytes that a token of the vocabulary stands for, whichever way its tokenizer writes them."""
    if '"ByteLevel"' in json.dumps([opened.json.get("pre_tokenizer"), opened.json.get("decoder")]):
        characters = written.translate(byte_of_character())
        if all(character <= "\xff" for character in characters):
            return characters.encode("latin-1")
    if named := _NAMED_BYTE.fullmatch(written):
        return bytes([int(named[1], 16)])
    return written.replace("▁", " ").encode("utf-8", "surrogatepass")


def _spelled(character: str) -> str:
    if character in _WRITTEN:
        return _WRITTEN[character]
    point = ord(character)
    if 0xDC80 <= point <= 0xDCFF:  # a byte that is no UTF-8 here
        return f"\\x{point - 0xDC00:02x}"
    category = unicodedata.category(character)
    if category.startswith("M"):
        return f"◌{character}"  # else it would sit on its neighbour
    if category[0] in "CZ":
        return f"\\x{point:02x}" if point < 0x80 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"
    return character
