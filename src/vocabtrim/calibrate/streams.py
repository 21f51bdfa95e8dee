"""Opening calibration files as streams of bytes: standard input, compressed or not, hashed on the way.

Knows bytes only; knows nothing of text or records. What is read is hashed and measured while it streams, so that
provenance costs no second pass.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from ..errors import InputError
from .stores import StoredFile

BLOCK = 1 << 20

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"

OnBytes = Callable[[int], None]


class Tap(io.RawIOBase):
    """A raw stream that passes bytes on and keeps count: how many (as stored, still compressed), and their SHA-256.

    limit: ends after so many bytes.
    """

    def __init__(self, raw: IO[bytes], on_bytes: OnBytes, limit: int | None = None) -> None:
        self._raw, self._on_bytes, self._limit = raw, on_bytes, limit
        self._digest = hashlib.sha256()
        self.size, self.failed = 0, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = len(buffer) if self._limit is None else min(len(buffer), self._limit - self.size)
        self.failed = True  # unless the next line comes back
        block = self._raw.read(wanted)
        self.failed = False
        buffer[: len(block)] = block
        self._digest.update(block)
        self.size += len(block)
        self._on_bytes(len(block))
        return len(block)

    def finish(self) -> dict[str, Any]:
        """Read what nobody asked for, so that size and hash are the whole file's, and tell them."""
        scratch = bytearray(BLOCK)
        while self.readinto(scratch):
            pass
        return {"bytes": self.size, "sha256": self._digest.hexdigest()}


@contextmanager
def open_stream(
    file: Path | StoredFile | None, on_bytes: OnBytes, story: dict[str, Any], part: tuple[int, int] | None = None
) -> Iterator[io.BufferedReader]:
    """Yield the decompressed bytes of `file` (None: standard input); compression is known by its first bytes.

    part: only the bytes from the first of these places up to the second, of a file that is not compressed.

    `story` receives "bytes" and "sha256" of what is stored when the block ends well; `on_bytes` hears of every block.
    Raises InputError when the compressed data is damaged or cut off, or zstandard is missing.
    """
    name = "standard input" if file is None else str(file)
    raw = sys.stdin.buffer if file is None else file.open("rb", buffering=0)
    try:
        if part is not None:
            raw.seek(part[0])
        tap = Tap(cast("IO[bytes]", raw), on_bytes, None if part is None else part[1] - part[0])
        stored = io.BufferedReader(cast(Any, tap), BLOCK)
        yield stored if part is not None else io.BufferedReader(cast(Any, _decompressed(stored, name)), BLOCK)
        story.update(tap.finish())
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise _damaged(name, error) from error
    except OSError as error:
        if error.errno is not None:  # the disk's fault; bz2 raises an OSError without a number
            raise
        if isinstance(file, StoredFile) and tap.failed:
            raise InputError(f"{name} cannot be read", found=error, remedy="try again; check the keys") from error
        raise _damaged(name, error) from error
    finally:
        if file is not None:
            raw.close()


def _damaged(name: str, error: Exception) -> InputError:
    return InputError(f"{name} is damaged or cut off", found=error, remedy="compress or download it again")


def is_compressed(file: Path | StoredFile) -> bool:
    """Whether a file begins as one of the compressed formats that are read."""
    with file.open("rb") as opened:
        return opened.read(6).startswith((_GZIP, _BZIP2, _XZ, _ZSTD))


def _decompressed(stored: io.BufferedReader, name: str) -> Any:
    magic = stored.peek(6)[:6]
    if magic.startswith(_GZIP):
        return gzip.GzipFile(fileobj=stored)
    if magic.startswith(_BZIP2):
        return bz2.BZ2File(stored)
    if magic.startswith(_XZ):
        return lzma.LZMAFile(stored)
    if magic.startswith(_ZSTD):
        return _ZstdStream(stored, name)
    return stored


class _ZstdStream(io.RawIOBase):
    """Decompresses .zst frame by frame. zstandard's own reader takes a file that was cut off for a complete one."""

    def __init__(self, stored: io.BufferedReader, name: str) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise InputError(
                f"{name} is compressed with zstd, which needs the zstandard package",
                remedy="install it with: pip install 'vocabtrim[data]'",
            ) from error
        self._error = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._stored, self._frame, self._ready = stored, self._new(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            block = self._frame.unused_data if self._frame.eof else b""
            block = block or self._stored.read(1 << 14)  # small: one block may unfold to thousands of times its size
            if not block:
                if not self._frame.eof:
                    raise EOFError("the last zstd frame has no end")
                return 0
            if self._frame.eof:
                self._frame = self._new()
            try:
                self._ready = self._frame.decompress(block)
            except self._error as error:
                raise EOFError(str(error)) from error
        part = self._ready[: len(buffer)]
        self._ready = self._ready[len(part) :]
        buffer[: len(part)] = part
        return len(part)
