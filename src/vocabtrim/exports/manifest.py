"""The file that says what an export is of: kept ids, tokenizer, tool, engines, and the hash of every file.

One manifest stands for all engines that were written together, so that one list of ids can be proven to be in each.
It is read as anyone's file: what it names is inside its own folder, or it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import InputError, VocabTrimError
from ..provenance import birth_certificate, sha256_file
from ..vocabulary.containers import MAX_ENTRIES
from ..vocabulary.draft_map import Problem
from ..vocabulary.kept import KeptVocabulary
from .engines import ENGINES, engine_named
from .source import Source

MANIFEST = "vocabtrim-export.json"
BESIDE = "exports"  # the folder of `trim --export`, inside the trimmed drafter's own
SCHEMA = 1
_LARGEST = 1 << 24  # bytes; a real one has some thousand
_LONGEST = 1024  # characters of a path
_AGAIN = "export again with `vocabtrim export`"


@dataclass(frozen=True)
class Exported:
    """One engine's part. folder: relative to the manifest. files: relative to the folder -> SHA-256."""

    engine: str
    folder: str
    tested: Mapping[str, str]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """What `file` says. kept_hash: `KeptVocabulary.hash`; tokenizer_hash: `TokenizerFacts.hash`, None where unknown."""

    file: Path
    kind: str
    kept_size: int
    target_vocab: int
    kept_hash: str
    tokenizer_hash: str | None
    engines: tuple[Exported, ...]

    def folder_of(self, part: Exported) -> Path:
        return self.file.parent / part.folder


def write_manifest(root: Path, source: Source, folders: Mapping[str, Path]) -> None:
    """Write `root`/MANIFEST. folders: engine -> its folder, at or below `root`."""
    parts = {
        name: {
            "folder": folder.relative_to(root).as_posix(),
            "tested": dict(engine_named(name).tested),
            "files": {
                path.relative_to(folder).as_posix(): sha256_file(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name != MANIFEST
            },
        }
        for name, folder in folders.items()
    }
    told = {
        "schema": SCHEMA,
        "kind": source.kind,
        "kept_size": source.kept.size,
        "target_vocab": source.kept.target_vocab,
        "kept_hash": source.kept.hash,
        "tokenizer_hash": source.kept.tokenizer_hash,
        "engines": parts,
        "made": birth_certificate({"verb": "export"}, {"kept": source.kept.hash}),
    }
    (root / MANIFEST).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def manifest_of(path: Path) -> Manifest | None:
    """The manifest that speaks for a folder, or for a file in it; None where there is none.

    It stands in the folder above, where it names this one among several; in the folder; or in BESIDE, for a trimmed
    drafter's. Raises InputError for one that cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    parent = folder.absolute().parent if folder == Path() else folder.parent
    if (parent / MANIFEST).exists():
        above = read_manifest(parent / MANIFEST)
        if any(above.folder_of(part).resolve() == folder.resolve() for part in above.engines):
            return above
    found = next((root / MANIFEST for root in (folder, folder / BESIDE) if (root / MANIFEST).exists()), None)
    return None if found is None else read_manifest(found)


def read_manifest(file: Path) -> Manifest:
    """What a manifest says. Raises InputError for one that cannot be read or that names files outside its folder."""
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            raise _bad(file, f"{file.stat().st_size:,} bytes" if file.is_file() else "no regular file")
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _bad(file, error) from error
    if not isinstance(told, dict) or told.get("schema") != SCHEMA:
        raise InputError(
            f"{file} is of no schema version that is known here",
            expected=SCHEMA,
            found=told.get("schema") if isinstance(told, dict) else type(told).__name__,
            remedy="read it with the version of vocabtrim that wrote it, or " + _AGAIN,
        )
    sizes = [told.get("kept_size"), told.get("target_vocab")]
    if any(type(size) is not int or not 0 < size <= MAX_ENTRIES for size in sizes):
        raise _bad(file, f"kept_size and target_vocab {str(sizes)[:60]}")
    for key in ("kind", "kept_hash"):
        if not isinstance(told.get(key), str):
            raise _bad(file, f"no {key}")
    if not isinstance(told.get("tokenizer_hash"), str | None):
        raise _bad(file, "a tokenizer_hash that is none")
    engines = told.get("engines")
    if not isinstance(engines, dict) or not engines:
        raise _bad(file, "no engine")
    parts = tuple(_part(file, name, part) for name, part in engines.items())
    return Manifest(
        file,
        told["kind"],
        told["kept_size"],
        told["target_vocab"],
        told["kept_hash"],
        told.get("tokenizer_hash"),
        parts,
    )


def _part(file: Path, name: str, part: Any) -> Exported:
    if name not in ENGINES:
        raise InputError(
            f"{file} names an engine that is not known here",
            expected=", ".join(ENGINES),
            found=ascii(name)[:60],
            remedy="read it with the version of vocabtrim that wrote it",
        )
    if not isinstance(part, dict) or not isinstance(part.get("folder"), str):
        raise _bad(file, f"no folder of {name}")
    files, tested = part.get("files"), part.get("tested")
    for table in (files, tested):
        if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
            raise _bad(file, f"no files or no versions of {name}")
    assert isinstance(files, dict) and isinstance(tested, dict)
    for inside in (part["folder"], *files):
        outside = PurePosixPath(inside).is_absolute() or ".." in PurePosixPath(inside).parts
        if outside or not inside.isprintable() or len(inside) > _LONGEST:
            raise InputError(
                f"{file} names a file outside its folder, or none",
                found=ascii(inside)[:60],
                remedy="do not trust this export",
            )
    return Exported(name, part["folder"], tested, files)


def _bad(file: Path, found: object) -> InputError:
    return InputError(f"{file} is no manifest of an export", found=found, remedy=_AGAIN)


def problems_of(manifest: Manifest) -> Iterator[Problem]:
    """What is wrong with an export: files that changed or are gone, and engines that hold other ids than the manifest.

    Ids are read out of each folder as its engine does.
    """
    for part in manifest.engines:
        folder = manifest.folder_of(part)
        if told := _changed(folder, part):
            yield Problem("export.changed", f"{told} (for {part.engine})", _AGAIN)
            continue
        found = _hash_of_ids(manifest, part)
        if found != manifest.kept_hash:
            message = f"{folder} holds other kept ids than {manifest.file} says: {found[:60]}"
            yield Problem("export.ids", message, _AGAIN)


def _changed(folder: Path, part: Exported) -> str | None:
    """What of a folder is not as it was exported: a file that is another, gone, or new; None where all is."""
    for name, digest in part.files.items():
        found = _digest(folder / name)
        if found != digest:
            return f"{folder / name} is {'not what was exported' if found else 'gone'}"
    files = {path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()}
    added = min(files - {MANIFEST, *part.files}, default=None)
    return None if added is None else f"{folder / added} is no file of the export, and engines may read it"


def _hash_of_ids(manifest: Manifest, part: Exported) -> str:
    """The hash of what the engine would read, or why it reads nothing."""
    try:
        ids = engine_named(part.engine).read_ids(manifest.folder_of(part))
        if ids.size != manifest.kept_size:
            return f"{ids.size:,} ids, not {manifest.kept_size:,}"
        return KeptVocabulary(np.sort(ids), manifest.target_vocab).hash
    except VocabTrimError as error:
        return str(error.what)


def _digest(file: Path) -> str | None:
    return sha256_file(file) if file.is_file() else None
