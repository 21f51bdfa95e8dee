"""Opening files: compression by content, hashes on the way, damage reported."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vocabtrim.calibrate.streams import open_stream
from vocabtrim.errors import InputError

TEXT = b"".join(b"line %d of the text\n" % number for number in range(200_000))


def zstd(content: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(content))


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
}


def read(path: Path | None) -> tuple[bytes, dict[str, Any], int]:
    story: dict[str, Any] = {}
    blocks: list[int] = []
    with open_stream(path, blocks.append, story) as stream:
        content = stream.read()
    return content, story, sum(blocks)


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_content_size_and_hash(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(COMPRESSORS[kind](TEXT))
    content, story, told = read(path)
    assert content == TEXT
    stored = path.read_bytes()
    assert story == {"bytes": len(stored), "sha256": hashlib.sha256(stored).hexdigest()}
    assert told == len(stored)


@pytest.mark.parametrize("kind", [kind for kind in COMPRESSORS if kind != "plain"])
def test_several_parts_in_one_file(tmp_path: Path, kind: str) -> None:
    """`cat a.gz b.gz > both.gz` is a valid file in every one of these formats."""
    path = tmp_path / "text"
    path.write_bytes(COMPRESSORS[kind](b"one\n") + COMPRESSORS[kind](b"two\n"))
    assert read(path)[0] == b"one\ntwo\n"


@pytest.mark.parametrize("kind", [kind for kind in COMPRESSORS if kind != "plain"])
def test_a_file_that_was_cut_off(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(COMPRESSORS[kind](TEXT)[:-9])
    with pytest.raises(InputError, match="text is damaged or cut off"):
        read(path)


@pytest.mark.parametrize("kind", [kind for kind in COMPRESSORS if kind != "plain"])
def test_a_file_with_flipped_bits(tmp_path: Path, kind: str) -> None:
    stored = bytearray(COMPRESSORS[kind](TEXT))
    for position in range(len(stored) // 2, len(stored) // 2 + 50):
        stored[position] ^= 0xFF
    path = tmp_path / "text"
    path.write_bytes(stored)
    with pytest.raises(InputError, match="text is damaged or cut off"):
        read(path)


def test_a_small_file_that_unfolds_to_much_is_read_in_small_pieces(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(zstd(b"\n" * 50_000_000))
    with open_stream(path, lambda n: None, {}) as stream:
        assert stream.read(10) == b"\n" * 10


def test_what_nobody_read_is_hashed_too(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(TEXT)
    story: dict[str, Any] = {}
    with open_stream(path, lambda n: None, story) as stream:
        stream.read(10)
    assert story["bytes"] == len(TEXT)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(TEXT))))
    assert read(None)[0] == TEXT


def test_zstd_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text.zst"
    path.write_bytes(zstd(TEXT))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match=r"pip install 'vocabtrim\[data\]'"):
        read(path)
