"""Plain text as documents: runs of lines of a few kB, cut where no tokenizer in use would notice.

Knows bytes and whitespace; knows nothing of records, chats or tokens.

Where a cut is made. Byte-level pre-tokenizers end a piece at the last newline of a run of whitespace, so that text
cut after that newline gives the same ids in two parts as in one (Llama 3, Qwen, o200k). GPT-2's pattern gives the
last whitespace character to the following word, so there the cut is exact only where one newline stands between two
words, or one space follows the newline. Such a place is looked for first, between 4 and 8 kB; then any line that is
followed by a line with something on it, up to 64 kB. An endless line is cut at its last space before that, and
at a character where it has none: that may change one token in 64 kB.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from io import BufferedReader

from .streams import BLOCK

SHORTEST = 4 << 10
COMFORTABLE = 8 << 10
LONGEST = 64 << 10
LOOKAHEAD = 2 * LONGEST  # so much in sight behind a document's beginning, and it ends as if the whole text were there

# Whitespace as the patterns' \s means it, in UTF-8: beyond the ASCII range, then all of it.
_WIDE_SPACE = rb"\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80"
_AFTER_A_WORD = rb"(?<![\t-\r ])(?<!\xc2[\x85\xa0])(?<!\xe2[\x80\x81][\x80-\xaf])(?<!\xe1\x9a\x80)(?<!\xe3\x80\x80)"
_BEFORE_A_WORD = rb"(?![\t-\r ]|" + _WIDE_SPACE + rb")(?=[^\n])"
_EXACT = re.compile(_AFTER_A_WORD + rb"\n" + _BEFORE_A_WORD + rb"|\n(?= " + _BEFORE_A_WORD + rb")")
_LINE_END = re.compile(rb"\n(?=(?:[\t\v\f ]|" + _WIDE_SPACE + rb")*" + _BEFORE_A_WORD + rb")")
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")

OnInvalid = Callable[[int], None]


def text_documents(
    stream: BufferedReader, on_invalid: OnInvalid, *, from_start: bool = True, length: int | None = None
) -> Iterator[str]:
    """Yield the documents of a UTF-8 text; joined, they are the text (less its byte order mark and invalid lines).

    on_invalid: called with the number of each line (from 1) that is no UTF-8; the line is left out.
    from_start: the stream is the text's beginning, where a byte order mark is none of its characters.
    length: ends behind so many bytes, where a document ends; the stream goes on for `LOOKAHEAD` bytes where the text
        does, because where a document ends depends on what follows it.
    """
    line = 1
    position = _pass_mark(stream) if from_start else 0
    for part in _document_bytes(stream):
        try:
            document = part.decode()
        except UnicodeDecodeError:
            document = "".join(_valid_lines(part, line, on_invalid))
        line += part.count(b"\n")
        position += len(part)
        if document:
            yield document
        if position == length:
            return


def document_lengths(stream: BufferedReader) -> Iterator[int]:
    """Yield how many bytes of a text each of its documents is, a byte order mark counted to the first."""
    mark = _pass_mark(stream)
    for part in _document_bytes(stream):
        yield len(part) + mark
        mark = 0


def _pass_mark(stream: BufferedReader) -> int:
    """Read past a byte order mark; its length."""
    marked = stream.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8)
    return len(stream.read(len(codecs.BOM_UTF8))) if marked else 0


def _document_bytes(stream: BufferedReader) -> Iterator[bytes]:
    rest = stream.read(BLOCK)
    while block := stream.read(BLOCK):
        rest += block
        start = 0
        while len(rest) - start > LOOKAHEAD:
            end = _cut(rest, start)
            yield rest[start:end]
            start = end
        rest = rest[start:]
    start = 0
    while start < len(rest):
        end = _cut(rest, start)
        yield rest[start:end]
        start = end


def _cut(text: bytes, start: int) -> int:
    """Where the document that begins at `start` ends."""
    earliest, latest = start + SHORTEST, start + LONGEST
    if len(text) <= earliest:
        return len(text)
    place = _EXACT.search(text, earliest, start + COMFORTABLE) or _LINE_END.search(text, earliest, latest)
    if place:
        return place.start() + 1
    if len(text) <= latest:
        return len(text)
    if (space := text.rfind(b" ", earliest, latest)) > 0:
        return space
    while 0x80 <= text[latest] < 0xC0 and latest > start + LONGEST - 4:  # inside a character
        latest -= 1
    return latest


def _valid_lines(part: bytes, first_line: int, on_invalid: OnInvalid) -> Iterator[str]:
    for number, line in enumerate(_LINE.findall(part), first_line):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            on_invalid(number)
