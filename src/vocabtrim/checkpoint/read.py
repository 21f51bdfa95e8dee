"""A checkpoint folder, opened lazily: its config and where every tensor lies. No tensor is loaded.

Takes single and sharded safetensors and torch files under all their published names, or one weight file alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, InputError, UnsupportedError
from .safetensors_file import read_header
from .stored import StoredTensor
from .torch_file import read_torch

# In the order of preference; an index names shards. Medusa's names: FasterDecoding/Medusa, model/medusa_model.py.
WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "medusa_lm_head.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "medusa_lm_head.pt",
)
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack"}

# Where multimodal and wrapped configs keep the language model's own entries.
NESTED = ("text_config", "llm_config", "language_config", "transformer_layer_config")

# The entries that anything here calculates with, and more than any model has of anything.
_NUMBERS = (
    *("vocab_size", "draft_vocab_size", "hidden_size", "num_hidden_layers", "medusa_num_heads"),
    *("n_routed_experts", "num_experts", "num_local_experts", "num_experts_per_tok"),
)
_LARGEST = 1 << 24


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A drafter's or a target's folder. `files` are its weight files, in name order."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    files: tuple[Path, ...]

    def setting(self, key: str, default: Any = None) -> Any:
        """A config entry, looked up at the top and then in the nested language-model configs."""
        for level in _levels(self.config):
            if level.get(key) is not None:
                return level[key]
        return default

    def tensor(self, name: str) -> StoredTensor:
        """The tensor of that name; raises CheckpointError where it is missing."""
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.folder} has no tensor {name}",
                found=", ".join(sorted(self.tensors)[:6]) + (", ..." if len(self.tensors) > 6 else ""),
                remedy="the checkpoint is incomplete or of another kind: fetch it again",
            )
        return self.tensors[name]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder (or a single weight file beside its config.json).

    Raises InputError where there is no such folder or no weights in it, CheckpointError for a file that is not sound.
    """
    if not path.exists():
        raise InputError(f"no checkpoint at {path}", remedy="pass a local folder with config.json and weights")
    folder = path if path.is_dir() else path.parent
    files = _weight_files(path)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for tensor in read_tensors(file):
            if tensor.name in tensors:
                raise CheckpointError(
                    f"tensor {tensor.name} stands in two files",
                    found=f"{tensors[tensor.name].path.name} and {file.name}",
                    remedy="remove the file that does not belong to the checkpoint",
                )
            tensors[tensor.name] = tensor
    _prove_index_kept(path, folder, tensors)
    config = read_json(folder / "config.json")
    _prove_numbers(config, folder / "config.json")
    return Checkpoint(folder, config, tensors, tuple(files))


def read_tensors(file: Path) -> list[StoredTensor]:
    """The tensors of one weight file of either container."""
    return read_header(file)[0] if file.suffix == ".safetensors" else read_torch(file)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError where it is missing or no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} has no {path.name}", remedy="pass the whole folder as it was published"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON", found=error, remedy="fetch the file again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a JSON object", found=type(found).__name__, remedy="fetch the file again")
    return found


def _levels(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The config itself, then the language model's own entries inside it."""
    return [config, *(config[name] for name in NESTED if isinstance(config.get(name), dict))]


def _prove_numbers(config: Mapping[str, Any], path: Path) -> None:
    """What is calculated with is a number of a size that a model can have."""
    for level in _levels(config):
        for key in _NUMBERS:
            value = level.get(key)
            if value is not None and (type(value) is not int or not 0 <= value <= _LARGEST):
                raise CheckpointError(
                    f"{key} of {path} is no size",
                    expected=f"a whole number from 0 to {_LARGEST:,}",
                    found=repr(value)[:40],
                    remedy="fetch the file again",
                )


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        _refuse_gguf([path])
        return [path]
    for name in WEIGHT_FILES:
        if (path / name).exists():
            return _shards(path / name) if name.endswith(".index.json") else [path / name]
    others = sorted(path.glob("*.safetensors"))
    others = [file for file in others if file.name != "kept.safetensors"]
    if len(others) == 1:
        return others
    _refuse_gguf(path.glob("*.gguf"))
    raise InputError(
        f"{path} holds no weights",
        expected="one of " + ", ".join(WEIGHT_FILES),
        found=", ".join(sorted(file.name for file in path.iterdir())[:8]) or "an empty folder",
        remedy="pass the folder that holds config.json and the weights",
    )


def _refuse_gguf(files: Iterable[Path]) -> None:
    """llama.cpp's form has other names, other orders of rows and often other types than any folder that is written."""
    if found := next((file for file in files if file.suffix == ".gguf"), None):
        raise UnsupportedError(
            f"the weights of {found} are in llama.cpp's own form",
            expected="safetensors or torch files",
            found="GGUF",
            remedy="pass the folder that it was converted from; `vocabtrim convert` and `check` read its map",
        )


def _shards(index: Path) -> list[Path]:
    names = _weight_map(index).values()
    shards = sorted({index.parent / name for name in names})
    for shard in shards:
        if shard.parent != index.parent or shard.name in {"", ".", ".."}:
            raise CheckpointError(
                f"{index} names a file outside its folder",
                found=str(shard),
                remedy="do not trust this checkpoint",
            )
        if not shard.exists():
            raise CheckpointError(
                f"{index} names a shard that is not there", found=shard.name, remedy="fetch the missing file"
            )
    return shards


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map of tensor to file names", remedy="fetch the file again")
    return weight_map


def _prove_index_kept(path: Path, folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Every tensor that the index promises is in the file it names."""
    index = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if path.is_file() or index is None or not index.name.endswith(".index.json"):
        return
    for name, file in sorted(_weight_map(index).items()):
        if name not in tensors or tensors[name].path.name != file:
            raise CheckpointError(
                f"{index} does not fit its shards",
                expected=f"tensor {name} in {file}",
                found=f"it in {tensors[name].path.name}" if name in tensors else "it in none",
                remedy="the checkpoint is incomplete: fetch it again",
            )
