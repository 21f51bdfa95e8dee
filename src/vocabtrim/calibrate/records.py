"""Records out of JSON lines, JSON arrays and Parquet, one at a time in constant memory.

Knows containers; knows nothing of what the fields of a record mean. A record that cannot be read is reported with
its place and left out; reading goes on with the next.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import InputError
from .stores import StoredFile
from .streams import BLOCK

Record = Any  # what the container holds: mostly a dict, but a JSON line may be a bare string too
Skip = Callable[[str, str], None]  # (reason, place)

MALFORMED = "malformed JSON"
INVALID_UTF8 = "invalid UTF-8"
TOO_LONG = "record over 64 MB"

_LONGEST_RECORD = 64 << 20
_WHITESPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN = re.compile(r"[ \t\n\r,]*")


def json_lines(stream: BufferedReader, skip: Skip) -> Iterator[tuple[str, Record]]:
    """Yield (place, record) of each line that holds one; empty lines are passed over."""
    number = 0
    while line := stream.readline(_LONGEST_RECORD):
        number += 1
        place = f"line {number}"
        if len(line) == _LONGEST_RECORD and not line.endswith(b"\n"):
            _to_next_line(stream)
            skip(TOO_LONG, place)
            continue
        line = line.removeprefix(codecs.BOM_UTF8).strip()
        if not line:
            continue
        try:
            record = json.loads(line.decode())
        except UnicodeDecodeError:
            skip(INVALID_UTF8, place)
        except (ValueError, RecursionError):
            skip(MALFORMED, place)
        else:
            yield place, record


def _to_next_line(stream: BufferedReader) -> None:
    while (part := stream.readline(BLOCK)) and not part.endswith(b"\n"):
        pass


def json_values(stream: BufferedReader, skip: Skip) -> Iterator[tuple[str, Record]]:
    """Yield (place, record) of the elements of a JSON array, or of JSON values one after another.

    A broken JSON lines file can be taken up again at its next line; in an array nobody knows where the next element
    begins, so what follows a malformed one is left out, and reported as one record.
    """
    text = _TextWindow(stream)
    number = 0
    try:
        text.skip(_WHITESPACE)
        array = text.starts_with("[")
        if array:
            text.position += 1
        while True:
            text.skip(_BETWEEN if array else _WHITESPACE)
            if text.at_end:
                if array:
                    skip(MALFORMED, "end of the array")
                return
            if array and text.starts_with("]"):
                return
            number += 1
            yield f"record {number}", text.value()
    except UnicodeDecodeError:
        skip(INVALID_UTF8, f"record {number + 1} and what follows")
    except OverflowError:
        skip(TOO_LONG, f"record {number} and what follows")
    except (ValueError, RecursionError):
        skip(MALFORMED, f"record {number} and what follows")


class _TextWindow:
    """The stretch of a UTF-8 stream that is being parsed; grows until the value at `position` is whole."""

    def __init__(self, stream: BufferedReader) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text, self.position, self._exhausted = "", 0, False

    def _grow(self, n_bytes: int) -> None:
        block = self._stream.read(n_bytes)
        self._exhausted = len(block) < n_bytes
        self._text = self._text[self.position :] + self._decode(block, self._exhausted)
        self.position = 0

    def skip(self, pattern: re.Pattern[str]) -> None:
        while True:
            match = pattern.match(self._text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self._text) or self._exhausted:
                return
            self._grow(BLOCK)

    @property
    def at_end(self) -> bool:
        return self.position >= len(self._text)

    def starts_with(self, text: str) -> bool:
        return self._text.startswith(text, self.position)

    def value(self) -> Record:
        """The JSON value at `position`. Raises ValueError, OverflowError over the limit."""
        while True:
            try:
                value, end = self._scan(self._text, self.position)
                if end < len(self._text) or self._exhausted:  # a number might go on in the next block
                    self.position = end
                    return value
            except ValueError:
                if self._exhausted:
                    raise
            unparsed = len(self._text) - self.position
            if unparsed > _LONGEST_RECORD:
                raise OverflowError
            self._grow(max(BLOCK, unparsed))  # doubling: a value is scanned a few times, not once per block


def parquet_rows(
    file: Path | StoredFile, columns: Sequence[str] | None, part: tuple[int, int] | None = None
) -> Iterator[tuple[str, Record]]:
    """Yield (place, row) of a Parquet file, a few hundred rows in memory at a time.

    columns: the columns to read, those that are there; None reads all that hold text, lists or structures.
    part: only the row groups from the first of these numbers up to the second; rows are numbered from there.
    Raises InputError when pyarrow is missing or the file is no Parquet.
    """
    with open_parquet(file) as table:
        schema = table.schema_arrow
        wanted = [name for name in columns or schema.names if name in schema.names]
        if columns is None:
            wanted = [name for name in wanted if _may_hold_text(schema.field(name).type)]
        number = 0
        for group in range(*part or (table.num_row_groups,)):  # one by one: in one go, pyarrow keeps some of each
            batches = table.iter_batches(256, [group], wanted or schema.names[:1], use_threads=False)
            for row in chain.from_iterable(batch.to_pylist() for batch in batches):
                number += 1
                yield f"row {number}", row


def _may_hold_text(arrow_type: Any) -> bool:
    from pyarrow import types

    return not types.is_primitive(arrow_type)


@contextmanager
def open_parquet(file: Path | StoredFile) -> Iterator[Any]:
    """pyarrow's ParquetFile. Raises InputError when pyarrow is missing or the file is no Parquet."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f"{file} is Parquet, which needs the pyarrow package",
            remedy="install it with: pip install 'vocabtrim[data]'",
        ) from error
    try:
        stored = file if isinstance(file, Path) else file.open()
        with parquet.ParquetFile(stored, buffer_size=BLOCK) as table:
            yield table
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as Parquet", found=error, remedy="download it again") from error
