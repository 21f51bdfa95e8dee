"""Opening the files that maps travel in, written by strangers: safetensors, torch, GGUF, numpy, JSON lists.

Knows containers: which names a file holds, and how to get small integer vectors out of it without running its code,
loading its weights or trusting its sizes. Knows nothing of what the vectors mean.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ..errors import InputError
from .gguf_file import read_gguf

Vector = npt.NDArray[Any]

BARE = ""  # the name of a vector in a file that holds one and names none

# The largest vocabularies have some 300,000 ids. What claims far more is broken or hostile.
MAX_ENTRIES = 1 << 24
MAX_JSON_BYTES = 1 << 28


@dataclass(frozen=True)
class Contents:
    """What was asked for of one file.

    vectors: name -> (entries,) integers or booleans; BARE for a file that is one vector.
    is_list: the one vector is a Python or JSON list, not a tensor.
    beside_weights: other tensors stand in the same file, so that it is a model's checkpoint.
    metadata: of a safetensors file, or the entries of a GGUF file that are no arrays.
    """

    vectors: Mapping[str, Vector]
    is_list: bool = False
    beside_weights: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_contents(path: Path, wanted: Sequence[str]) -> Contents:
    """The vectors named `wanted` of a file (`model.name` counts as `name`), or the one vector it is.

    Raises InputError for a file that is missing, of another kind, broken, hostile or too large.
    """
    if path.suffix not in READERS:
        raise InputError(
            f"{path} is in no container that maps are read from",
            expected=" ".join(READERS),
            found=path.suffix or "no suffix",
            remedy="name the file that holds the map",
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist", remedy="check the path")
    return READERS[path.suffix](path, wanted)


def _read_safetensors(path: Path, wanted: Sequence[str]) -> Contents:
    try:
        path.open("rb").close()  # the library calls a file that may not be read missing
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            vectors = {}
            for name, stored in _among(names, wanted).items():
                shape, dtype = file.get_slice(stored).get_shape(), file.get_slice(stored).get_dtype()
                _prove_small_vector(path, stored, shape, dtype)
                vectors[name] = file.get_tensor(stored)
            return Contents(vectors, beside_weights=len(names) > len(vectors), metadata=file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise _broken(path, "a complete safetensors file", error) from error


def _read_torch(path: Path, wanted: Sequence[str]) -> Contents:
    loaded = load_torch(path)
    if isinstance(loaded, list):
        return Contents({BARE: _from_list(path, loaded)}, is_list=True)
    if not isinstance(loaded, dict):
        return Contents({BARE: _from_tensor(path, BARE, loaded)})
    names = [name for name in loaded if isinstance(name, str)]
    vectors = {}
    for name, stored in _among(names, wanted).items():
        value = loaded[stored]
        vectors[name] = _from_list(path, value) if isinstance(value, list) else _from_tensor(path, stored, value)
    return Contents(vectors, beside_weights=len(names) > len(vectors))


def load_torch(path: Path, *, mmap: bool = True) -> Any:
    """Unpickle with nothing allowed but tensors and plain containers. mmap: leave the tensors' bytes on disk.

    Raises InputError for a file that is cut short, compressed, older than torch 1.6, or holds more than tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise _broken(path, "a zip archive, as torch writes since 1.6", error) from error
    if compressed:  # torch never does; a few bytes could unfold to fill the memory
        raise _broken(path, "stored entries, as torch writes them", "compressed ones")
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # RuntimeError, UnpicklingError, EOFError, KeyError, ...: as broken files go
        # torch's own advice here is to load the file carelessly: only the name of what it refused is passed on
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"{path} holds more than tensors, and reading that could run code" if forbidden else f"{path} is broken",
            expected="tensors, lists and dicts",
            found=forbidden[1] if forbidden else _first_line(error).partition(". ")[0],
            remedy="do not trust it, and ask its author for safetensors; nothing of it was run",
        ) from error


def _from_tensor(path: Path, name: str, value: Any) -> Vector:
    import torch

    if not isinstance(value, torch.Tensor):
        raise _no_vector(path, name, type(value).__name__)
    _prove_small_vector(path, name, value.shape, str(value.dtype).removeprefix("torch."))
    try:
        vector: Vector = value.detach().numpy().copy()
    except (RuntimeError, TypeError) as error:  # tensors without data, sparse ones
        raise _no_vector(path, name, _first_line(error)) from error
    return vector


def _read_gguf(path: Path, wanted: Sequence[str]) -> Contents:
    try:
        header = read_gguf(path)
        vectors = {}
        for name, stored in _among(header.tensors, wanted).items():
            tensor = header.tensors[stored]
            _prove_small_vector(path, stored, tensor.shape, tensor.dtype)
            vectors[name] = tensor.integers()
    except (OSError, ValueError) as error:
        raise _broken(path, "a complete GGUF file", error) from error
    return Contents(vectors, beside_weights=len(header.tensors) > len(vectors), metadata=header.entries)


def _read_numpy(path: Path, wanted: Sequence[str]) -> Contents:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _broken(path, "a complete .npy file of numbers", error) from error
    _prove_small_vector(path, BARE, array.shape, array.dtype.name)
    return Contents({BARE: np.array(array)})


def _read_json(path: Path, wanted: Sequence[str]) -> Contents:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise _broken(path, f"at most {MAX_JSON_BYTES:,} bytes", f"{path.stat().st_size:,}")
    try:
        loaded = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _broken(path, "a JSON list of ids", error) from error
    if not isinstance(loaded, list):
        raise _no_vector(path, BARE, type(loaded).__name__)
    return Contents({BARE: _from_list(path, loaded)}, is_list=True)


READERS: dict[str, Callable[[Path, Sequence[str]], Contents]] = {
    ".safetensors": _read_safetensors,
    ".st": _read_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".bin": _read_torch,
    ".gguf": _read_gguf,
    ".npy": _read_numpy,
    ".json": _read_json,
}


def _among(names: Iterable[str], wanted: Sequence[str]) -> dict[str, str]:
    """wanted name -> the name it is stored under; a plain name goes before a prefixed one."""
    by_length = sorted(names, key=lambda name: (len(name), name), reverse=True)
    return {name.rpartition(".")[2]: name for name in by_length if name.rpartition(".")[2] in wanted}


def _from_list(path: Path, values: list[Any]) -> Vector:
    if len(values) > MAX_ENTRIES:
        raise _no_vector(path, BARE, f"{len(values):,} entries")
    for position, value in enumerate(values):
        if type(value) is not int or not -(2**63) <= value < 2**63:
            raise _no_vector(path, BARE, f"{str(value)[:40]!r} at position {position}")
    return np.array(values, np.int64)


def _prove_small_vector(path: Path, name: str, shape: Sequence[int], dtype: str) -> None:
    """Before anything is loaded: a tensor of one element may claim any size by repeating it."""
    lower = dtype.lower()
    if len(shape) != 1 or shape[0] > MAX_ENTRIES or not (lower == "bool" or re.fullmatch(r"u?i(nt)?\d+", lower)):
        raise _no_vector(path, name, f"{dtype} {list(shape)}")


def _no_vector(path: Path, name: str, found: str) -> InputError:
    return InputError(
        f"{name or 'content'} of {path} is no map",
        expected=f"one vector of at most {MAX_ENTRIES:,} integers",
        found=found,
        remedy="check where the file comes from",
    )


def _broken(path: Path, expected: str, found: object) -> InputError:
    return InputError(f"{path} cannot be read", expected=expected, found=found, remedy="fetch or write it again")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
