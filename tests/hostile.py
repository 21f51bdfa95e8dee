"""Bad files, one small maker each: what an untrusted or broken checkpoint can look like.

Every maker takes the path to write, a file or a folder as its name says, and returns it. Files that a library must
refuse are listed in REFUSED_SAFETENSORS and REFUSED_TORCH; the others are readable and wrong in another way.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY

HEAD = "lm_head.weight"


def _good(rows: int = 8, columns: int = 4) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, 4 * rows * columns]}


def _write(path: Path, header: Any, body: bytes = bytes(128), *, length: int | None = None) -> Path:
    """A safetensors file from a header (JSON, or bytes as they are), with a true or a false header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def empty_file(path: Path) -> Path:
    """No byte at all: a download that never began."""
    path.write_bytes(b"")
    return path


def truncated_safetensors(path: Path) -> Path:
    """The header is whole, half of the values are missing: a download that broke off."""
    return _write(path, {HEAD: _good()}, bytes(64))


def truncated_header(path: Path) -> Path:
    """The file ends inside its header."""
    return _write(path, json.dumps({HEAD: _good()}).encode()[:20], b"", length=80)


def header_beyond_file(path: Path) -> Path:
    """The header claims to be longer than the file, by far: 2^63 - 1 bytes."""
    return _write(path, {HEAD: _good()}, length=2**63 - 1)


def two_gigabyte_header(path: Path) -> Path:
    """A header of 2 GB that is really there, as a hole: reading it costs 2 GB of memory. Takes no disk."""
    with path.open("wb") as file:
        file.write((2 << 30).to_bytes(8, "little"))
        file.truncate(8 + (2 << 30))
    return path


def header_not_json(path: Path) -> Path:
    """The header is text, but not JSON."""
    return _write(path, b"{this is no header" + b" " * 14)


def header_not_utf8(path: Path) -> Path:
    """The header is no text at all."""
    return _write(path, b"\xff\xfe\xfd\xfc" * 8)


def header_not_an_object(path: Path) -> Path:
    """JSON, but a list."""
    return _write(path, [HEAD, _good()])


def header_nested(path: Path) -> Path:
    """JSON nested 100,000 deep, to exhaust a parser's stack."""
    return _write(path, b"[" * 100_000 + b"]" * 100_000)


def tensor_not_an_object(path: Path) -> Path:
    """The entry of a tensor is a number."""
    return _write(path, {HEAD: 7})


def offsets_missing(path: Path) -> Path:
    """The entry of a tensor does not say where its values are."""
    return _write(path, {HEAD: {"dtype": "F32", "shape": [8, 4]}})


def overlapping_offsets(path: Path) -> Path:
    """Two tensors share the same bytes."""
    return _write(path, {HEAD: _good(), "norm.weight": _good() | {"shape": [16], "data_offsets": [64, 128]}})


def offsets_with_gap(path: Path) -> Path:
    """Sixteen bytes between two tensors belong to neither."""
    norm = {"dtype": "F32", "shape": [4], "data_offsets": [144, 160]}
    return _write(path, {HEAD: _good(), "norm.weight": norm}, bytes(160))


def offsets_out_of_range(path: Path) -> Path:
    """A tensor lies behind the end of the file."""
    return _write(path, {HEAD: _good() | {"data_offsets": [10**12, 10**12 + 128]}})


def offsets_negative(path: Path) -> Path:
    """A tensor lies before the start of the values, in the header."""
    return _write(path, {HEAD: _good() | {"data_offsets": [-128, 0]}})


def offsets_reversed(path: Path) -> Path:
    """A tensor ends before it begins."""
    return _write(path, {HEAD: _good() | {"data_offsets": [128, 0]}})


def unknown_dtype(path: Path) -> Path:
    """A dtype nobody has heard of."""
    return _write(path, {HEAD: _good() | {"dtype": "F31"}})


def shape_not_bytes(path: Path) -> Path:
    """The shape asks for more bytes than the offsets span."""
    return _write(path, {HEAD: _good() | {"shape": [16, 4]}})


def shape_overflowing(path: Path) -> Path:
    """A shape whose number of elements wraps around 64 bits to the right one."""
    return _write(path, {HEAD: _good() | {"shape": [2**62 + 8, 4]}})


def shape_negative(path: Path) -> Path:
    """A shape of negative lengths whose product is right."""
    return _write(path, {HEAD: _good() | {"shape": [-8, -4]}})


REFUSED_SAFETENSORS: tuple[Callable[[Path], Path], ...] = (
    empty_file,
    truncated_safetensors,
    truncated_header,
    header_beyond_file,
    two_gigabyte_header,
    header_not_json,
    header_not_utf8,
    header_not_an_object,
    header_nested,
    tensor_not_an_object,
    offsets_missing,
    overlapping_offsets,
    offsets_with_gap,
    offsets_out_of_range,
    offsets_negative,
    offsets_reversed,
    unknown_dtype,
    shape_not_bytes,
    shape_overflowing,
    shape_negative,
)


def nan_rows(path: Path, rows: tuple[int, ...] = (3,)) -> Path:
    """A valid safetensors file, float32 (8, 4) head, whose given rows are NaN."""
    head = np.ones((8, 4), np.float32)
    head[list(rows)] = np.nan
    save_file({HEAD: head}, path)
    return path


class _Runs:
    """Unpickled, it opens the marker file for writing, and so creates it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def running_pickle(path: Path, marker: Path | None = None, *, zipped: bool = True) -> Path:
    """A torch file that would run code: loaded carelessly it creates `marker`, by default `path` with `.ran` added."""
    marker = marker or path.with_name(path.name + ".ran")
    state = {HEAD: torch.ones(8, 4), "config": _Runs(marker)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return path


def running_legacy_pickle(path: Path) -> Path:
    """The same in torch's old form, a bare pickle."""
    return running_pickle(path, zipped=False)


def truncated_bin(path: Path) -> Path:
    """A torch file cut in the middle: its zip directory, at the end, is gone."""
    torch.save({HEAD: torch.ones(64, 64)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def bin_without_values(path: Path) -> Path:
    """A torch file whose zip lacks the values of its one tensor."""
    torch.save({HEAD: torch.ones(64, 64)}, path)
    return _rezip(path, zipfile.ZIP_STORED, leave_out="/data/0")


def bin_of_text(path: Path) -> Path:
    """What a hub answers instead of the file: a page of text."""
    path.write_text("<html><body>404: not found</body></html>\n" * 20)
    return path


def _rezip(path: Path, compression: int, *, leave_out: str = "") -> Path:
    """Write a torch file's zip anew, its members compressed another way or left out."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            if not (leave_out and name.endswith(leave_out)):
                file.writestr(name, content)
    return path


REFUSED_TORCH: tuple[Callable[[Path], Path], ...] = (
    empty_file,
    running_pickle,
    running_legacy_pickle,
    truncated_bin,
    bin_without_values,
    bin_of_text,
)


def legacy_torch(path: Path) -> Path:
    """A good state dict, float32 (8, 4) head, in torch's old form that is no zip."""
    torch.save({HEAD: torch.arange(32.0).reshape(8, 4)}, path, _use_new_zipfile_serialization=False)
    return path


def compressed_bin(path: Path) -> Path:
    """A torch file whose zip is compressed: 64 MB of zeros in less than 100 kB. Nothing lies where it seems to."""
    torch.save({HEAD: torch.zeros(4096, 4096)}, path)
    return _rezip(path, zipfile.ZIP_DEFLATED)


def bin_not_a_state_dict(path: Path) -> Path:
    """A good torch file that holds a list of tensors, without names."""
    torch.save([torch.ones(8, 4)], path)
    return path


def eagle_with_missing_tensors(folder: Path) -> Path:
    """An EAGLE drafter in a .bin that lacks its query projection and its fc."""
    shapes.write_eagle(folder, TINY, seed=0, container="bin")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del state["layers.0.self_attn.q_proj.weight"], state["fc.weight"]
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def _sharded(folder: Path) -> tuple[Path, dict[str, Any]]:
    shapes.write_independent(folder, TINY, seed=0, shards=2)
    index = folder / "model.safetensors.index.json"
    return index, json.loads(index.read_text())


def missing_shard(folder: Path) -> Path:
    """The index names a shard that is not there."""
    _sharded(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    return folder


def missing_from_shard(folder: Path) -> Path:
    """The index promises a tensor in a shard that does not hold it."""
    index, content = _sharded(folder)
    content["weight_map"][HEAD] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    return folder


def shard_outside(folder: Path) -> Path:
    """The index names a file outside the folder, two levels up; the file exists and holds the head."""
    index, content = _sharded(folder)
    (folder / content["weight_map"][HEAD]).rename(folder.parent.parent / "outside.safetensors")
    shard = content["weight_map"][HEAD]
    content["weight_map"] = {
        name: "../../outside.safetensors" if file == shard else file for name, file in content["weight_map"].items()
    }
    index.write_text(json.dumps(content))
    return folder


def index_not_json(folder: Path) -> Path:
    """The index is no JSON."""
    _sharded(folder)[0].write_text("{")
    return folder


def without_config(folder: Path) -> Path:
    """Weights without config.json."""
    shapes.write_eagle(folder, TINY, seed=0)
    (folder / "config.json").unlink()
    return folder


def config_not_json(folder: Path) -> Path:
    """A config.json that breaks off."""
    shapes.write_eagle(folder, TINY, seed=0)
    (folder / "config.json").write_text('{"architectures": ["LlamaFor')
    return folder


def config_not_an_object(folder: Path) -> Path:
    """A config.json that is JSON, but a list."""
    shapes.write_eagle(folder, TINY, seed=0)
    (folder / "config.json").write_text("[]")
    return folder


def config_without_weights(folder: Path) -> Path:
    """A config.json and nothing else: weights that were never fetched."""
    shapes.write_eagle(folder, TINY, seed=0)
    (folder / "model.safetensors").unlink()
    return folder


def narrow_head(folder: Path) -> Path:
    """An independent drafter whose config says 512 ids and whose head has 500 rows."""
    shapes.write_independent(folder, replace(TINY, head_rows=500), seed=0)
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": TINY.vocab}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


BAD_FOLDERS: tuple[Callable[[Path], Path], ...] = (
    eagle_with_missing_tensors,
    missing_shard,
    missing_from_shard,
    shard_outside,
    index_not_json,
    without_config,
    config_not_json,
    config_not_an_object,
    config_without_weights,
    narrow_head,
)
