"""The folder that tuning writes: a drafter, and what was found out about it.

A drafter that stays as it is is not copied: the folder holds links to its files, so that everything that opens a
drafter opens this one too.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ..checkpoint.tuned import TUNED_FILE, Tuned, write_tuned


def fill(folder: Path, drafter: Path, tuned: Tuned, *, ours: bool) -> None:
    """ours: the drafter was made for this folder and is moved into it."""
    for path in sorted(drafter.iterdir()):
        if path.name == TUNED_FILE or not (ours or path.is_file()):
            continue
        if ours:
            path.rename(folder / path.name)
        else:
            _link(path.resolve(), folder / path.name)
    write_tuned(folder, tuned)


def _link(source: Path, place: Path) -> None:
    try:
        place.symlink_to(source)
    except OSError:  # a system without links, or one that asks for rights
        shutil.copyfile(source, place)
