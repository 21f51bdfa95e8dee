"""Trimmed drafter -> folders that engines load, written whole or not at all, and read back as the engines do.

Puts the parts in order; knows no engine's format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import numpy as np
from packaging.version import InvalidVersion, Version

from ..errors import CheckpointError, InputError
from ..provenance import atomic_directory, refuse_existing
from .engine import Engine, Serving
from .engines import engine_named, engines_named
from .manifest import write_manifest
from .source import Source, open_source


@dataclass(frozen=True)
class Export:
    """What was written for one engine."""

    engine: str
    out: Path
    serving: Serving


def export(
    drafter: str | Path,
    engine: str,
    *,
    out: str | Path,
    target: str | Path | None = None,
    engine_version: str | None = None,
) -> Export:
    """Write a trimmed drafter as one engine takes it.

    drafter: a trimmed drafter's folder. target: its target's, local or hub id. out: a folder that does not exist yet.
    engine_version: what will serve it, for a warning where it is newer than what was tested; by default what is
    installed here. Raises what `open_source` raises, UnsupportedError where the engine cannot serve the drafter
    trimmed, InputError for an unknown engine; nothing is written then.
    """
    named, place = engine_named(engine), Path(out)
    newer = _newer(named, engine_version)
    refuse_existing(place)
    source = open_source(drafter, target)
    with atomic_directory(place) as folder:
        serving = _write(named, source, folder)
        write_manifest(folder, source, {engine: folder})
    return Export(engine, place, _told(serving, place, target, newer))


def export_all(
    drafter: str | Path, engines: Sequence[str], *, out: str | Path, target: str | Path | None = None
) -> list[Export]:
    """Write a folder for each engine into `out`, one manifest over all. Raises as `export`; then none is written."""
    named, place = engines_named(engines), Path(out)
    newer = {name: _newer(engine, None) for name, engine in named.items()}
    refuse_existing(place)
    source = open_source(drafter, target)
    servings: dict[str, Serving] = {}
    with atomic_directory(place) as folder:
        for name, engine in named.items():
            (folder / name).mkdir()
            servings[name] = _write(engine, source, folder / name)
            write_manifest(folder / name, source, {name: folder / name})  # for when it goes to a server by itself
        write_manifest(folder, source, {name: folder / name for name in named})
    return [
        Export(name, place / name, _told(serving, place / name, target, newer[name]))
        for name, serving in servings.items()
    ]


def _write(engine: Engine, source: Source, folder: Path) -> Serving:
    """Write and read back as the engine does."""
    engine.refuse(source.drafter)
    serving = _as_tuned(engine.write(source, folder), source)
    ids = engine.read_ids(folder)
    if not np.array_equal(np.sort(ids), source.kept.ids):
        raise CheckpointError(
            f"what {engine.name} would read is not what was written",
            expected=f"{source.kept.size} ids",
            found=f"{ids.size}, others",
            remedy="report this; nothing was written",
        )
    return serving


def _as_tuned(serving: Serving, source: Source) -> Serving:
    """With what tuning found out, where it did: measured in another loop than the engine's."""
    if source.tuned is None:
        return serving
    told = "what is drafted was tuned with vocabtrim's own loop: measure it again with the engine"
    slow = () if source.tuned.speculate else (f"tuning said: {source.tuned.verdict}. {source.tuned.reason}",)
    return replace(serving, warnings=(*serving.warnings, *slow, told))


def _told(serving: Serving, out: Path, target: str | Path | None, newer: Sequence[str]) -> Serving:
    filled = serving.at(out, "TARGET" if target is None else str(target))
    return replace(filled, warnings=(*filled.warnings, *newer))


def _newer(engine: Engine, given: str | None) -> list[str]:
    """A warning for each package that is newer than the one that was tested. given: the engine's own version."""
    return [
        f"{package} {version} is newer than {tested}, with which this export was tested: check what it drafts"
        for package, tested in engine.tested.items()
        if (version := _version(package, engine.tested, given)) and _parsed(version) > _parsed(tested)
    ]


def _version(package: str, tested: Mapping[str, str], given: str | None) -> str | None:
    """The version that will serve: as given, of the engine's first package; else as installed."""
    if given is not None:
        return given if package == next(iter(tested)) else None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _parsed(version: str) -> Version:
    """Without what a build adds behind a plus sign."""
    try:
        return Version(version.partition("+")[0])
    except InvalidVersion as error:
        raise InputError(
            "no version of an engine", expected="a number as 0.5.23", found=version, remedy="correct --engine-version"
        ) from error
