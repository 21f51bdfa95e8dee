"""Opening strangers' files: what is asked for comes out, and nothing runs, swells or escapes as a traceback."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import hostile
from vocabtrim.errors import InputError
from vocabtrim.vocabulary import containers
from vocabtrim.vocabulary.containers import BARE, read_contents

Maker = Callable[[Path], Path]


def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"d2t": np.array([1, 2]), "lm_head.weight": np.ones((2, 3), np.float32)}, path, metadata={"a": "b"})
    contents = read_contents(path, ("d2t", "t2d"))
    assert set(contents.vectors) == {"d2t"} and contents.vectors["d2t"].tolist() == [1, 2]
    assert contents.beside_weights and contents.metadata == {"a": "b"}


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_prefixed_names_are_found_and_plain_ones_go_first(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    tensors = {"draft.d2t": np.array([9]), "d2t": np.array([1]), "model.t2d": np.array([True])}
    if suffix == "bin":
        torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    else:
        save_file(tensors, path)
    vectors = read_contents(path, ("d2t", "t2d")).vectors
    assert vectors["d2t"].tolist() == [1] and vectors["t2d"].tolist() == [True]


@pytest.mark.parametrize("content", [[3, 1], torch.tensor([3, 1]), torch.tensor([3, 1], dtype=torch.int32)])
def test_bare_torch_files(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pt")
    contents = read_contents(tmp_path / "m.pt", ())
    assert contents.vectors[BARE].tolist() == [3, 1] and contents.is_list == isinstance(content, list)


def test_numpy_and_json(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.array([3, 1]))
    assert read_contents(tmp_path / "m.npy", ()).vectors[BARE].tolist() == [3, 1]
    (tmp_path / "m.json").write_text("[3, 1]")
    contents = read_contents(tmp_path / "m.json", ())
    assert contents.vectors[BARE].tolist() == [3, 1] and contents.is_list


@pytest.mark.parametrize("make", hostile.REFUSED_SAFETENSORS)
def test_bad_safetensors_are_refused(make: Maker, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_contents(make(tmp_path / "model.safetensors"), ("d2t",))


@pytest.mark.parametrize("make", [*hostile.REFUSED_TORCH, hostile.compressed_bin, hostile.legacy_torch])
def test_bad_torch_files_are_refused_and_run_nothing(make: Maker, tmp_path: Path) -> None:
    path = make(tmp_path / "map.pt")
    with pytest.raises(InputError):
        read_contents(path, ("d2t",))
    assert [file.name for file in tmp_path.iterdir()] == ["map.pt"]


def test_a_compressed_file_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    """torch itself unpacks a compressed pickle, however large; nothing of the file may reach it."""
    with pytest.raises(InputError, match="expected stored entries, as torch writes them, found compressed ones"):
        read_contents(hostile.compressed_bin(tmp_path / "map.pt"), ("d2t",))


def test_a_pickle_that_would_run_code_is_named_as_one(tmp_path: Path) -> None:
    path = hostile.running_pickle(tmp_path / "map.pt")
    with pytest.raises(InputError, match=r"could run code.*found io.open|could run code.*found \S*open") as caught:
        read_contents(path, ("d2t",))
    assert "\n" not in str(caught.value)


def test_a_tensor_that_claims_a_trillion_entries_is_refused_unread(tmp_path: Path) -> None:
    """Stride 0 over one stored element: a file of a kilobyte that would fill 8 TB."""
    torch.save(torch.zeros(1, dtype=torch.int64).expand(10**12), tmp_path / "m.pt")
    assert (tmp_path / "m.pt").stat().st_size < 4096
    with pytest.raises(InputError, match="found int64 \\[1000000000000\\]"):
        read_contents(tmp_path / "m.pt", ())


@pytest.mark.parametrize(
    "content",
    [
        torch.ones(3),
        torch.ones(2, 2, dtype=torch.int64),
        torch.ones(3, dtype=torch.int64).to_sparse(),
        torch.empty(3, dtype=torch.int64, device="meta"),
        [1, 2.5],
        [1, True],
        [1, 2**63],
        [1, [2]],
        {"d2t": "text"},
        "text",
        7,
    ],
)
def test_torch_files_that_hold_no_vector_of_integers_are_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(InputError, match="is no map: expected one vector"):
        read_contents(tmp_path / "m.pt", ("d2t",))


@pytest.mark.parametrize(
    "text", ["", "{", '{"d2t": [1]}', '["1"]', "[1.0]", "[null]", "[" * 100_000, "[9999999999999999999]"]
)
def test_json_that_is_no_list_of_ids_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match=r"m.json"):
        read_contents(tmp_path / "m.json", ())


def test_numpy_pickles_truncated_and_wide_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "wide.npy", np.ones((2, 2), np.int64))
    np.save(tmp_path / "float.npy", np.ones(2))
    np.save(tmp_path / "short.npy", np.arange(100))
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:300])
    (tmp_path / "pickle.npy").write_bytes(b"\x80\x04N.")
    for name in ("object", "wide", "float", "short", "pickle"):
        with pytest.raises(InputError, match=rf"{name}\.npy"):
            read_contents(tmp_path / f"{name}.npy", ())


def test_lists_longer_than_any_vocabulary_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_ENTRIES", 10)
    monkeypatch.setattr(containers, "MAX_JSON_BYTES", 100)
    (tmp_path / "long.json").write_text(json.dumps([1] * 11))
    (tmp_path / "huge.json").write_text(json.dumps([1] * 99))
    save_file({"d2t": np.zeros(11, np.int64)}, tmp_path / "long.safetensors")
    with pytest.raises(InputError, match="11 entries"):
        read_contents(tmp_path / "long.json", ())
    with pytest.raises(InputError, match="at most 100 bytes"):
        read_contents(tmp_path / "huge.json", ())
    with pytest.raises(InputError, match=r"\[11\]"):
        read_contents(tmp_path / "long.safetensors", ("d2t",))


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"ONNX")
    with pytest.raises(InputError, match=r"\.safetensors \.st \.pt .*found \.onnx"):
        read_contents(tmp_path / "m.onnx", ())
    with pytest.raises(InputError, match="does not exist"):
        read_contents(tmp_path / "m.pt", ())


def test_the_zip_checks_see_what_torch_writes(tmp_path: Path) -> None:
    """A check that refused good files would make the refusals above worthless."""
    torch.save({"d2t": torch.arange(5)}, tmp_path / "m.pt")
    assert zipfile.is_zipfile(tmp_path / "m.pt")
    assert read_contents(tmp_path / "m.pt", ("d2t",)).vectors["d2t"].tolist() == [0, 1, 2, 3, 4]
