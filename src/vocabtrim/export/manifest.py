"""The file that says what an export is of: kept ids, tokenizer, tool, engines, and the hash of every file.

One manifest stands for all engines that were written together, so that one list of ids can be proven to be in each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..provenance import birth_certificate, sha256_file
from ..vocabulary.draft_map import Problem
from ..vocabulary.kept import KeptVocabulary
from .engines import ENGINES, engine_named
from .source import Source

MANIFEST = "vocabtrim-export.json"
SCHEMA = 1
_AGAIN = "export again with `vocabtrim export`"


@dataclass(frozen=True)
class Exported:
    """One engine's part. folder: relative to the manifest. files: relative to the folder -> SHA-256."""

    engine: str
    folder: str
    tested: Mapping[str, str]
    files: Mapping[str, str]


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


def manifest_of(path: Path) -> Path | None:
    """The manifest that speaks for a folder: in it, or in the one above, where that names it."""
    for root in (path, path.parent):
        if (root / MANIFEST).is_file():
            named = {(root / part.folder).resolve() for part in read_manifest(root / MANIFEST)[1]}
            if root == path or path.resolve() in named:
                return root / MANIFEST
    return None


def read_manifest(file: Path) -> tuple[dict[str, Any], list[Exported]]:
    """What a manifest says, and its engines. Raises InputError for one that cannot be read."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA:
            raise InputError(
                f"{file} is of another schema version",
                expected=SCHEMA,
                found=told["schema"],
                remedy="read it with the version of vocabtrim that wrote it",
            )
        parts = [Exported(name, **part) for name, part in told["engines"].items()]
        for part in parts:
            inside = all(".." not in Path(name).parts and not Path(name).is_absolute() for name in part.files)
            if part.engine not in ENGINES or not inside or ".." in Path(part.folder).parts:
                raise ValueError(f"engine {part.engine}")
        return {name: told[name] for name in ("kind", "kept_size", "target_vocab", "kept_hash", "tokenizer_hash")}, parts
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} is no manifest of an export", found=error, remedy=_AGAIN) from error


def problems_of(file: Path) -> Iterator[Problem]:
    """What is wrong with an export: files that changed or are gone, and engines that hold other ids than the manifest.

    Ids are read out of each folder as its engine does.
    """
    told, parts = read_manifest(file)
    for part in parts:
        folder = file.parent / part.folder
        changed = [name for name, digest in part.files.items() if _digest(folder / name) != digest]
        if changed:
            message = f"{folder / changed[0]} is not the file that was exported"
            yield Problem("export.changed", message, _AGAIN)
            continue
        ids = engine_named(part.engine).read_ids(folder)
        if KeptVocabulary(np.sort(ids), told["target_vocab"]).hash != told["kept_hash"]:
            message = f"{folder} holds other kept ids than {file} says"
            yield Problem("export.ids", message, _AGAIN)


def _digest(file: Path) -> str | None:
    return sha256_file(file) if file.is_file() else None
