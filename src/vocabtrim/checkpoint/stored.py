"""One tensor on disk: where its bytes lie, and moving or comparing them without the tensor ever being in memory.

Knows byte ranges and rows; knows nothing of file formats, names or models. A checkpoint of any size passes through
buffers of a few megabytes here, which is what keeps a trim's memory flat.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError
from ..vocabulary.kept import Ids

BUFFER = 4 << 20  # bytes; large enough to hide system calls, small enough to stay in the cache

# Bits per element, by the names that the safetensors format gives to dtypes.
DTYPE_BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64},
    **{"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
}
# A float with all of these bits set is infinite or not a number. E4M3 has no infinity, so only all ones are none.
_EXPONENT_BITS = {
    **{"BF16": ("<u2", 0x7F80), "F16": ("<u2", 0x7C00), "F32": ("<u4", 0x7F800000)},
    **{"F8_E4M3": ("u1", 0x7F), "F8_E5M2": ("u1", 0x7C), "F8_E8M0": ("u1", 0xFF)},
}
_NUMPY = {"BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


@dataclass(frozen=True)
class StoredTensor:
    """A contiguous, row-major tensor inside a file.

    dtype: as safetensors names it ("BF16", "I64", ...). offset: of its first byte in the file at `path`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * DTYPE_BITS[self.dtype] // 8

    @property
    def rows(self) -> int:
        """Length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        """Bytes at one index of the first axis."""
        return self.nbytes // self.rows if self.rows else 0

    def read(self) -> bytes:
        """All bytes; for small tensors such as maps and scales."""
        return b"".join(bytes(block) for block in self.blocks())

    def array(self) -> npt.NDArray[np.integer[Any]]:
        """The tensor as numpy, for the integer and boolean dtypes that maps use.

        Raises CheckpointError for any other dtype.
        """
        if self.dtype not in _NUMPY:
            raise CheckpointError(
                f"tensor {self.name} of {self.path} is no map",
                expected="an integer or boolean dtype",
                found=self.dtype,
                remedy="check the checkpoint's source",
            )
        return np.frombuffer(self.read(), _NUMPY[self.dtype]).reshape(self.shape)

    @property
    def rows_at_once(self) -> int:
        """Rows that a block of about BUFFER bytes holds."""
        return max(1, BUFFER // max(1, self.row_bytes))

    def blocks(self, rows: Ids | None = None, rows_at_once: int | None = None) -> Iterator[memoryview]:
        """The tensor's bytes in order, or those of `rows` (n,) of its first axis in the order given.

        Blocks of whole rows, of about BUFFER bytes; each is overwritten by the next. Two tensors with rows of the same
        width are cut at the same places, so their blocks can be compared pair by pair; with others, given the same
        rows_at_once.
        """
        width = self.row_bytes
        count = self.rows if rows is None else rows.size
        if width == 0 or count == 0:
            return
        per_block = rows_at_once or self.rows_at_once
        buffer = memoryview(bytearray(min(per_block, count) * width))
        fd = os.open(self.path, os.O_RDONLY)
        try:
            for start in range(0, count, per_block):
                block = buffer[: min(per_block, count - start) * width]
                if rows is None:
                    self._read_into(fd, block, self.offset + start * width)
                else:
                    for position, row in enumerate(rows[start : start + per_block].tolist()):
                        self._read_into(fd, block[position * width : (position + 1) * width], self.offset + row * width)
                yield block
        finally:
            os.close(fd)

    def _read_into(self, fd: int, block: memoryview, offset: int) -> None:
        got = os.preadv(fd, [block], offset)
        while got < len(block):
            more = os.preadv(fd, [block[got:]], offset + got)
            if not more:
                raise CheckpointError(
                    f"{self.path} ends inside tensor {self.name}", remedy="the file is truncated: fetch it again"
                )
            got += more

    def nonfinite(self) -> int | None:
        """The first element, counted along rows, that is NaN or infinite; None where all are numbers."""
        done = 0
        for block in self.blocks():
            if (position := nonfinite_element(block, self.dtype)) is not None:
                return done + position
            done += len(block) * 8 // DTYPE_BITS[self.dtype]
        return None

    def copy_to(self, out: int) -> None:
        """Append the tensor's bytes to the open file descriptor `out`, inside the kernel where it can."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            done = _copy_in_kernel(fd, out, self.nbytes, self.offset)
        finally:
            os.close(fd)
        if done == 0:
            for block in self.blocks():
                write_all(out, block)


def nonfinite_element(block: memoryview, dtype: str) -> int | None:
    """Position of the first NaN or infinity among the elements of a block; None for dtypes that have none."""
    if dtype not in _EXPONENT_BITS:
        return None
    words, exponent = _EXPONENT_BITS[dtype]
    bad = (np.frombuffer(block, words) & exponent) == exponent
    return int(np.argmax(bad)) if bad.any() else None


def first_difference(one: memoryview, other: memoryview) -> int | None:
    """The first byte at which two blocks of one length differ, or None."""
    width = np.uint64 if len(one) % 8 == 0 else np.uint8  # numpy compares wide integers eight times faster than bytes
    if np.array_equal(np.frombuffer(one, width), np.frombuffer(other, width)):
        return None
    return int(np.argmax(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8)))


def fingerprint(tensors: Iterable[StoredTensor]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and the first and last 64 kB of each tensor, whatever file it lies in.

    Tells checkpoints apart without reading them whole: hashing every byte would double the time of a trim.
    """
    digest = hashlib.sha256()
    edge = 64 << 10
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        with tensor.path.open("rb") as file:
            for start in (0, max(0, tensor.nbytes - edge)):
                file.seek(tensor.offset + start)
                digest.update(file.read(min(edge, tensor.nbytes)))
    return digest.hexdigest()


def _copy_in_kernel(source: int, out: int, nbytes: int, offset: int) -> int:
    """Copy with copy_file_range (Linux); returns the bytes copied: all, or 0 where the system cannot."""
    if not hasattr(os, "copy_file_range"):
        return 0
    done = 0
    while done < nbytes:
        try:
            step = os.copy_file_range(source, out, nbytes - done, offset + done)
        except OSError as error:
            if done == 0 and error.errno in {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}:
                return 0
            raise
        if step == 0:
            raise OSError(errno.EIO, "source file ended early")
        done += step
    return done


def write_all(out: int, block: bytes | memoryview) -> None:
    """Write every byte of `block` to the file descriptor: a single write may stop early when the disk fills up."""
    view = memoryview(block)
    while view:
        view = view[os.write(out, view) :]
