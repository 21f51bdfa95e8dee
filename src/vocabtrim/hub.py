"""A model named by a local path or, where there is no such path, by a hub id. The only place that may go online."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def local_folder(name: str | Path, patterns: Sequence[str] | None = None) -> Path:
    """The local folder (or file) of that name, or the folder a hub id was fetched to.

    patterns: the files worth fetching; None for all. Raises InputError where there is neither.
    """
    local = Path(name)
    if local.exists() or not _HUB_ID.fullmatch(str(name)):
        return local
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=None if patterns is None else list(patterns)))
    except Exception as error:  # offline, unknown, gated: each a kind of its own
        raise InputError(
            f"{name} is neither a local path nor can it be fetched from the hub",
            found=str(error).strip().partition("\n")[0],
            remedy="check the name, or pass a local folder",
        ) from error
