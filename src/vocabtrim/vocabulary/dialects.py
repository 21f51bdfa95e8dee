"""The file dialects that draft vocabularies travel in: reading and writing each. The only file that knows them.

A map says which target id each row of a trimmed head scores. Five ways of writing that down are in use, i a row:

- token-map: `.pt`, list or tensor of ids, any order. SGLang 0.5, `--speculative-token-map`; FR-Spec.
- d2t: tensor `d2t` (or a bare one) of offsets, `d2t[i] = ids[i] - i`, any order. Drafters for SGLang, vLLM and
  TensorRT-LLM; NVIDIA Model-Optimizer's `d2t.pt`.
- d2t-t2d: the same and `t2d`, bool (target_vocab,), True for every id in the map; ids ascending, because the head's
  rows are `lm_head[t2d]`. SafeAILab/EAGLE, SpecForge, speculators.
- absolute: tensor `d2t` of the ids themselves, any order. llama.cpp's GGUF.
- ids: vocabtrim's own kept.safetensors (ascending), or a plain JSON list of ids (any order, read only).

Every map passes `draft_map.prove` once, at the door; behind it nothing is checked again. Knows nothing of heads.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from ..errors import InputError, MismatchError
from ..provenance import Kind, birth_certificate, refuse_replacing, sha256_file, write_file
from .containers import BARE, MAX_ENTRIES, Contents, read_contents
from .draft_map import DraftMap, MapPieces, Problem, prove
from .kept import Ids, KeptVocabulary

Dialect = Literal["token-map", "d2t", "d2t-t2d", "ids", "absolute"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

_OFFSETS = ("d2t", "d2t-t2d")
_ASCENDING = ("d2t-t2d", "ids")  # dialects that are written in ascending order only

GGUF_TOKENIZER = "vocabtrim.tokenizer_hash"  # an entry of the GGUF files that `export` writes

# Where a folder's map is looked for, in this order: a checkpoint's own map belongs to its head's rows.
_CHECKPOINTS = ("model.safetensors", "pytorch_model.bin")
_MAP_FILES = ("kept.safetensors", "d2t.safetensors", "d2t.npy", "d2t.pt")


# Reading


def read_map(path: Path, dialect: Dialect | None = None, target_vocab: int | None = None) -> DraftMap:
    """Read a map of any dialect from a file, a drafter's checkpoint, or a folder that holds one.

    dialect: what the file is, where it does not tell; otherwise it is told from the container, or by proof.
    target_vocab: ids of the target, for the proof; where the file knows another number, this one counts.
    Raises InputError for a file that cannot be read or a map that is not sound.
    """
    pieces = read_pieces(path)
    if dialect is not None:
        pieces = _as_told(pieces, dialect)
    return prove(replace(pieces, target_vocab=target_vocab or pieces.target_vocab))


def read_pieces(path: Path) -> MapPieces:
    """What the file at `path` holds, unproven. Raises InputError where there is no map or no such file."""
    if not path.is_dir():
        return _pieces_of_file(path)
    for name in _CHECKPOINTS:
        index = path / f"{name}.index.json"
        files = _shards_with_map(index) if index.is_file() else [path / name]
        found: dict[str, Any] = {}
        for file in files:
            if file.is_file():
                found.update(read_contents(file, ("d2t", "t2d")).vectors)
        if found:
            return _pieces(path / name, found.get("d2t"), _with_or_without_t2d(found), found.get("t2d"))
    ggufs = sorted(path.glob("*.gguf"))
    for file in [path / name for name in _MAP_FILES] + (ggufs if len(ggufs) == 1 else []):
        if file.is_file():
            return _pieces_of_file(file)
    raise InputError(
        f"folder {path} holds no map",
        expected="d2t in " + " or ".join(_CHECKPOINTS) + ", or one of " + ", ".join(_MAP_FILES) + ", or one .gguf",
        remedy="name the file that holds the map",
    )


def _pieces(source: Path, values: Any, dialect: Dialect | None, t2d: Any = None, **known: Any) -> MapPieces:
    offsets = None if dialect is None else dialect in _OFFSETS
    return MapPieces(str(source), values, offsets=offsets, mask=t2d, dialect=dialect, **known)


def _shards_with_map(index: Path) -> list[Path]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        names = {str(weight_map[name]) for name in ("d2t", "t2d") if name in weight_map}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index} is no checkpoint index", found=error, remedy="fetch the file again") from error
    if outside := [name for name in names if Path(name).name != name]:
        raise InputError(
            f"{index} names a file outside its folder", found=outside[0], remedy="do not trust this checkpoint"
        )
    return sorted(index.parent / name for name in names)


def _pieces_of_file(path: Path) -> MapPieces:
    contents = read_contents(path, ("d2t", "t2d", "kept_ids"))
    vectors = contents.vectors
    if "kept_ids" in vectors:
        kept = KeptVocabulary.load(path)
        return _pieces(path, kept.ids, "ids", target_vocab=kept.target_vocab, tokenizer_hash=kept.tokenizer_hash)
    if BARE in vectors:
        return _pieces_of_bare_vector(path, contents)
    if not vectors:
        raise InputError(
            f"{path} holds no map",
            expected="a tensor named d2t, t2d or kept_ids, or one bare vector",
            remedy="name the file that holds the map",
        )
    if path.suffix == ".gguf" and "d2t" in vectors:
        return _pieces(path, vectors["d2t"], "absolute", **_said_in_gguf(contents.metadata))
    story = _story(contents.metadata)
    told: Dialect | None = story.pop("dialect", None)
    if told is None and (contents.beside_weights or "t2d" in vectors):
        told = _with_or_without_t2d(vectors)  # a drafter's own map is made of offsets, whoever wrote it
    return _pieces(path, vectors.get("d2t"), told, vectors.get("t2d"), **story)


def _pieces_of_bare_vector(path: Path, contents: Contents) -> MapPieces:
    vector = contents.vectors[BARE]
    if contents.is_list:
        return _pieces(path, vector, "ids" if path.suffix == ".json" else "token-map")
    if vector.dtype == bool:
        return _pieces(path, None, "d2t-t2d", vector)
    beside = path.with_name("t2d" + path.suffix)  # speculators keeps d2t.npy and t2d.npy
    if path.stem == "d2t" and beside.is_file():
        return _pieces(path, vector, "d2t-t2d", read_contents(beside, ()).vectors.get(BARE))
    return _pieces(path, vector, None)


def _with_or_without_t2d(vectors: Mapping[str, Any]) -> Dialect:
    return "d2t-t2d" if "t2d" in vectors else "d2t"


def _story(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What vocabtrim wrote beside its own maps, as far as it can be true; empty for anyone else's."""
    try:
        story = json.loads(metadata["vocabtrim"])
    except (KeyError, ValueError):
        return {}
    if not isinstance(story, dict) or story.get("dialect") not in DIALECTS:
        return {}
    told = {"dialect": story["dialect"]}
    if isinstance(story.get("tokenizer_hash"), str):
        told["tokenizer_hash"] = story["tokenizer_hash"]
    vocab = story.get("target_vocab")
    if type(vocab) is int and 0 < vocab <= MAX_ENTRIES:
        told["target_vocab"] = vocab
    return told


def _said_in_gguf(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The size of the target's vocabulary, as llama.cpp's converter notes it, and our own note of its tokenizer."""
    said: dict[str, Any] = {}
    vocab, tokenizer = entries.get(f"{entries.get('general.architecture')}.vocab_size"), entries.get(GGUF_TOKENIZER)
    if type(vocab) is int and 0 < vocab <= MAX_ENTRIES:
        said["target_vocab"] = vocab
    if isinstance(tokenizer, str):
        said["tokenizer_hash"] = tokenizer
    return said


def _as_told(pieces: MapPieces, dialect: Dialect) -> MapPieces:
    """The pieces read as the user says. Only d2t-t2d looks at t2d; vLLM and SGLang leave it unread as well."""
    if dialect == "d2t-t2d" and pieces.mask is None:
        raise InputError(
            f"{pieces.source} has no t2d", expected="d2t and t2d", found="d2t alone", remedy="read it with --from d2t"
        )
    if dialect != "d2t-t2d" and pieces.values is None:
        raise InputError(
            f"{pieces.source} has only t2d", expected=dialect, found="t2d", remedy="read it with --from d2t-t2d"
        )
    told = replace(pieces, dialect=dialect, offsets=dialect in _OFFSETS)
    if dialect == "d2t-t2d" or pieces.mask is None:
        return told
    return replace(told, mask=None, target_vocab=pieces.target_vocab or pieces.mask.size)


# Writing


def convert(
    path: Path,
    to: Dialect,
    out: Path,
    *,
    dialect: Dialect | None = None,
    target_vocab: int | None = None,
    target: Path | str | None = None,
    sort: bool = False,
) -> DraftMap:
    """Write the map at `path` to `out` in the dialect `to`, and return it as read.

    dialect: what `path` is, where it does not tell. target_vocab, or target (a model's folder or hub id): how many
    ids the target has, where the dialect that is read does not carry it and the one that is written needs it.
    sort: whether an unsorted map may be put in ascending order, which gives every row of a head cut by it another id.
    A mask is as long as the target's head has rows, padded ones included: as `target` says, else the folder that the
    map lies in. A kept vocabulary alone knows the tokenizer's ids only; then a warning says so.
    Raises InputError for a map that is not sound or cannot be said in `to`, MismatchError for another tokenizer's.
    """
    refuse_replacing(out, _kind(to, out), _files_of(path, target))
    sizes = _Target(target_vocab, target_vocab) if target is None else _target(target, target_vocab)
    draft_map = read_map(path, dialect, sizes.rows)
    hashes = {sizes.tokenizer_hash, draft_map.tokenizer_hash} - {None}
    if len(hashes) > 1:
        raise MismatchError(
            f"{draft_map.source} was made with another tokenizer than {target} has",
            expected=f"tokenizer hash {sizes.tokenizer_hash}",
            found=draft_map.tokenizer_hash,
            remedy="pass the target that the map was made for",
        )
    known = replace(draft_map, tokenizer_hash=draft_map.tokenizer_hash or sizes.tokenizer_hash)
    if to == "ids" and sizes.vocab_size is not None:
        known = replace(known, target_vocab=sizes.vocab_size)  # a head's padded rows are no ids
    if to == "d2t-t2d" and sizes.rows is None:
        draft_map = _with_head_width(draft_map, path)
        known = replace(known, target_vocab=draft_map.target_vocab)
    write_map(known, to, out, sort=sort)
    return draft_map


def _with_head_width(draft_map: DraftMap, path: Path) -> DraftMap:
    """The map with the number of the head's rows where its folder tells it, and a warning where nothing does."""
    if draft_map.dialect == "d2t-t2d":
        return draft_map  # its own mask tells
    rows = _configured_rows(path) if path.is_dir() else None
    if rows is not None and rows >= (draft_map.target_vocab or int(draft_map.ids.max()) + 1):
        return replace(draft_map, target_vocab=rows)
    if draft_map.dialect != "ids":
        return draft_map
    warning = Problem(
        "map.width",
        f"t2d has {draft_map.target_vocab} entries, one per id of the tokenizer; a target's head may have more rows",
        "if engines refuse its length, pass --target, or the trimmed folder as PATH: configs tell it",
    )
    return replace(draft_map, warnings=(*draft_map.warnings, warning))


def _kind(to: Dialect, out: Path) -> Kind:
    return "kept" if to == "ids" else "torch" if out.suffix == ".pt" else "map"


def _files_of(path: Path, target: Path | str | None) -> list[Path]:
    """What is read: the map's file or all of its folder, and the target's."""
    named = [path] if target is None else [path, Path(target)]
    return [file for place in named for file in (place.iterdir() if place.is_dir() else [place])]


def write_map(draft_map: DraftMap, to: Dialect, out: Path, *, sort: bool = False) -> None:
    """Write a map in the dialect `to`, in its own order wherever the dialect has one.

    Raises InputError where the dialect cannot say the map: unsorted without `sort`, or the target's size not known.
    """
    if to in _ASCENDING and not draft_map.ascending:
        if not sort:
            raise _unsorted_refused(draft_map, to)
        draft_map = replace(draft_map, ids=np.sort(draft_map.ids))
    if to in _ASCENDING and draft_map.target_vocab is None:
        raise InputError(
            f"{draft_map.source} does not tell how many ids the target has, and {to} must",
            remedy="pass --target-vocab N or --target FOLDER",
        )
    if out.suffix not in _SUFFIXES[to]:
        raise InputError(
            f"output {out} has the wrong suffix for {to}",
            expected=" or ".join(_SUFFIXES[to]),
            found=out.suffix or "none",
            remedy="rename --out",
        )
    certificate = birth_certificate({"verb": "convert", "to": to, "sort": sort}, _hash_of(draft_map.source))
    _WRITERS[to](draft_map, out, certificate)


def _unsorted_refused(draft_map: DraftMap, to: Dialect) -> InputError:
    row = int(np.argmax(np.diff(draft_map.ids) < 0))
    return InputError(
        f"{draft_map.source} is not ascending and {to} must be: entry {row} is id {draft_map.ids[row]}, "
        f"entry {row + 1} id {draft_map.ids[row + 1]}",
        remedy="a head whose rows stand in the map's order would be repointed by sorting, so convert to d2t, absolute "
        "or token-map, which keep it; pass --sort where no head was cut by this map yet",
    )


def _write_ids(draft_map: DraftMap, out: Path, certificate: Mapping[str, Any]) -> None:
    assert draft_map.target_vocab is not None
    ids = draft_map.ids.copy()
    KeptVocabulary(ids, draft_map.target_vocab, draft_map.tokenizer_hash, provenance=certificate).save(out)


def _write_token_map(draft_map: DraftMap, out: Path, certificate: Mapping[str, Any]) -> None:
    _save_torch(draft_map.ids.tolist(), out)


def maps_of(ids: Ids, width: int) -> dict[str, npt.NDArray[Any]]:
    """Ascending ids as EAGLE-3's loaders read them: id = row + d2t[row]; t2d, bool (width,), marks them."""
    mask = np.zeros(width, bool)
    mask[ids] = True
    return {"d2t": ids - np.arange(ids.size), "t2d": mask}


def _write_d2t(draft_map: DraftMap, out: Path, certificate: Mapping[str, Any]) -> None:
    offsets = draft_map.ids - np.arange(draft_map.ids.size)
    if out.suffix == ".pt":
        import torch

        _save_torch(torch.from_numpy(offsets), out)
    else:
        _save_tensors({"d2t": offsets}, "d2t", draft_map, out, certificate)


def _write_d2t_t2d(draft_map: DraftMap, out: Path, certificate: Mapping[str, Any]) -> None:
    _save_tensors(maps_of(draft_map.ids, draft_map.target_vocab or 0), "d2t-t2d", draft_map, out, certificate)


def _write_absolute(draft_map: DraftMap, out: Path, certificate: Mapping[str, Any]) -> None:
    _save_tensors({"d2t": draft_map.ids}, "absolute", draft_map, out, certificate)


_WRITERS: dict[Dialect, Callable[[DraftMap, Path, Mapping[str, Any]], None]] = {
    "token-map": _write_token_map,
    "d2t": _write_d2t,
    "d2t-t2d": _write_d2t_t2d,
    "ids": _write_ids,
    "absolute": _write_absolute,
}
_SUFFIXES: dict[Dialect, Sequence[str]] = {
    "token-map": (".pt",),  # SGLang reads nothing else
    "d2t": (".safetensors", ".pt"),
    "d2t-t2d": (".safetensors",),
    "ids": (".safetensors",),
    "absolute": (".safetensors",),
}


def _save_torch(content: Any, out: Path) -> None:
    import torch

    saved = io.BytesIO()
    torch.save(content, saved)
    write_file(out, saved.getvalue(), "torch")


def _save_tensors(
    tensors: dict[str, Any], dialect: Dialect, draft_map: DraftMap, out: Path, certificate: Mapping[str, Any]
) -> None:
    story = {
        "dialect": dialect,
        "target_vocab": draft_map.target_vocab,
        "tokenizer_hash": draft_map.tokenizer_hash,
        "provenance": dict(certificate),
    }
    write_file(out, save(tensors, metadata={"vocabtrim": json.dumps(story)}), "map")


def _hash_of(source: str) -> dict[str, str]:
    return {source: sha256_file(Path(source))} if Path(source).is_file() else {}


class _Target(NamedTuple):
    """How many rows the target's head has and how many ids its tokenizer has; None where nobody said."""

    rows: int | None
    vocab_size: int | None
    tokenizer_hash: str | None = None


def _target(target: Path | str, target_vocab: int | None) -> _Target:
    """Sizes and tokenizer of a model's folder or hub id; `target_vocab`, where given, overrides its config."""
    from ..calibrate.tokenizer import find_tokenizer, tokenizer_facts

    facts = tokenizer_facts(target)
    if target_vocab is not None:
        return _Target(target_vocab, facts.vocab_size, facts.hash)
    rows = _configured_rows(find_tokenizer(target).parent) or 0
    return _Target(max(rows, facts.vocab_size), facts.vocab_size, facts.hash)


def _configured_rows(folder: Path) -> int | None:
    """How many rows a head has by the folder's config.json; None where it says no number that can be true."""
    try:
        entries = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{folder / 'config.json'} is no JSON", found=error, remedy="fetch or write the file again"
        ) from error
    for part in (entries, entries.get("text_config") if isinstance(entries, dict) else None):
        rows = part.get("vocab_size") if isinstance(part, dict) else None
        if type(rows) is int and 0 < rows <= MAX_ENTRIES:
            return rows
    return None
