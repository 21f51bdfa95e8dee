"""GGUF headers: read as llama.cpp's own package writes them, and refused where a length cannot be true."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import vocabtrim as vt
from conftest import assert_bad_input
from vocabtrim.checkpoint.check import check
from vocabtrim.errors import InputError
from vocabtrim.vocabulary.containers import read_contents
from vocabtrim.vocabulary.dialects import read_pieces
from vocabtrim.vocabulary.gguf_file import read_gguf

IDS = np.array([7, 3, 500, 20], np.int64)


def write(path: Path, ids: np.ndarray = IDS, *, vocab: int | None = 512, tensor: str = "d2t") -> Path:
    """What llama.cpp's converter writes of an EAGLE-3 drafter, as far as a map is concerned, tokens among it."""
    writer = gguf.GGUFWriter(path, "eagle3")
    writer.add_block_count(1)
    if vocab is not None:
        writer.add_vocab_size(vocab)
    writer.add_name("näme")
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_bool("eagle3.norm_before_fc", True)
    writer.add_array("eagle3.target_layers", [2, 4, 5])
    writer.add_token_list([f"token {token}" for token in range(512)])
    writer.add_tensor("output.weight", np.ones((ids.size, 8), np.float16))
    writer.add_tensor(tensor, ids)
    writer.add_tensor("output_norm.weight", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_header_is_what_the_library_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    found, library = read_gguf(path), gguf.GGUFReader(path)
    scalars = {name: field for name, field in library.fields.items() if not name.startswith("GGUF.")}
    arrays = {name for name, field in scalars.items() if field.types[0] == gguf.GGUFValueType.ARRAY}
    assert arrays == {"eagle3.target_layers", "tokenizer.ggml.tokens"}
    assert found.entries == {name: field.contents() for name, field in scalars.items() if name not in arrays}
    assert found.entries["general.name"] == "näme" and found.entries["eagle3.norm_before_fc"] is True
    assert {name: (list(tensor.shape), tensor.type, tensor.offset) for name, tensor in found.tensors.items()} == {
        tensor.name: (tensor.shape.tolist()[::-1], int(tensor.tensor_type), tensor.data_offset)
        for tensor in library.tensors
    }
    assert found.tensors["d2t"].integers().tolist() == IDS.tolist()


def test_another_alignment_is_kept_to(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "eagle3")
    writer.add_custom_alignment(4096)
    writer.add_tensor("d2t", IDS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_contents(tmp_path / "m.gguf", ("d2t",)).vectors["d2t"].tolist() == IDS.tolist()


def test_a_map_in_gguf_holds_the_ids_themselves(tmp_path: Path) -> None:
    """Numbers that would do as offsets too are not taken for such: 7, 3 + 1, 500 + 2, 20 + 3 are unique as well."""
    path = write(tmp_path / "m.gguf")
    found = vt.read_map(path)
    assert found.ids.tolist() == IDS.tolist() and found.dialect == "absolute" and found.target_vocab == 512
    assert vt.read_map(tmp_path).ids.tolist() == IDS.tolist()  # the folder that holds just this one
    assert check(path).kind == "map" and check(path).ok
    assert [note.rule for note in check(path).notes] == ["map.unsorted"]


def test_what_the_header_says_of_the_target_is_held_against_the_ids(tmp_path: Path) -> None:
    report = check(write(tmp_path / "m.gguf", vocab=500))
    assert [problem.rule for problem in report.problems] == ["map.range"] and "500" in report.problems[0].message
    assert vt.read_map(write(tmp_path / "n.gguf", vocab=None)).target_vocab is None


def test_convert_from_gguf(vocabtrim: Any, tmp_path: Path) -> None:
    """The other engines' forms of it, through the command line."""
    path = write(tmp_path / "m.gguf", np.sort(IDS))
    run = vocabtrim("convert", path, "--to", "d2t-t2d", "--out", tmp_path / "maps.safetensors", "--json")
    assert run.code == 0 and run.json["from"] == "absolute" and run.json["mask_length"] == 512
    assert vt.read_map(tmp_path / "maps.safetensors").ids.tolist() == np.sort(IDS).tolist()


def test_weights_in_gguf_are_refused_with_the_way_out(vocabtrim: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    for drafter in (path, tmp_path):
        run = vocabtrim("inspect", drafter, "--target", tmp_path)
        assert_bad_input(run, "m.gguf", "llama.cpp's own form", "converted from")


def test_a_gguf_without_a_map_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no map"):
        read_pieces(write(tmp_path / "m.gguf", tensor="other"))


# Hostile files. Each claims what its few bytes cannot hold.

Claim = Callable[[], bytes]


def header(tensors: int = 0, entries: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def text(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


def tensor(dims: list[int], kind: int = 27, offset: int = 0, name: bytes = b"d2t") -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


HOSTILE: dict[str, Claim] = {
    "empty": lambda: b"",
    "another magic": lambda: b"GGML" + bytes(40),
    "the other byte order": lambda: b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "version 1": lambda: header(version=1) + bytes(40),
    "a trillion entries": lambda: header(entries=10**12),
    "a trillion tensors": lambda: header(tensors=10**12),
    "a name of an exabyte": lambda: header(entries=1) + text(b"k", 2**60),
    "an array of 2^61 numbers": lambda: header(entries=1) + text(b"k") + struct.pack("<IIQ", 9, 10, 2**61),
    "an array of 2^61 strings": lambda: header(entries=1) + text(b"k") + struct.pack("<IIQ", 9, 8, 2**61) + bytes(999),
    "an array of arrays": lambda: header(entries=1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(99),
    "an unknown type": lambda: header(entries=1) + text(b"k") + struct.pack("<I", 99) + bytes(99),
    "a name that is no text": lambda: header(entries=1) + text(b"\xff\xfe") + struct.pack("<IB", 0, 1),
    "no alignment": lambda: header(entries=1) + text(b"general.alignment") + struct.pack("<II", 4, 0),
    "a thousand dimensions": lambda: header(tensors=1) + tensor([1] * 1000),
    "a tensor of exabytes": lambda: header(tensors=1) + tensor([2**60]) + bytes(64),
    "a tensor that is cut off": lambda: header(tensors=1) + tensor([100]) + bytes(99),
    "a tensor behind the end": lambda: header(tensors=1) + tensor([1], offset=2**63) + bytes(64),
    "a tensor of floats": lambda: header(tensors=1) + tensor([1], kind=0) + bytes(64),
    "a matrix": lambda: header(tensors=1) + tensor([2, 2]) + bytes(64),
    "a name twice": lambda: header(tensors=2) + tensor([1]) + tensor([1]) + bytes(64),
}


@pytest.mark.parametrize("claim", HOSTILE)
def test_a_hostile_header_is_refused_in_one_line_at_once(claim: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(HOSTILE[claim]())
    began = time.perf_counter()
    with pytest.raises(InputError, match=r"m\.gguf") as caught:
        read_contents(path, ("d2t",))
    assert "\n" not in str(caught.value) and time.perf_counter() - began < 1


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """Cut anywhere before the end of the map itself; the padding behind the last tensor may go."""
    whole = write(tmp_path / "m.gguf").read_bytes()
    end = read_gguf(tmp_path / "m.gguf").tensors["d2t"].offset + IDS.nbytes
    for size in [*range(0, end, 97), end - 1]:
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_contents(tmp_path / "cut.gguf", ("d2t",))
    (tmp_path / "cut.gguf").write_bytes(whole[: end + 64])
    assert read_contents(tmp_path / "cut.gguf", ("d2t",)).vectors["d2t"].tolist() == IDS.tolist()
