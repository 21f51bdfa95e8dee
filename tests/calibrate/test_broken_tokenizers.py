"""A tokenizer.json that is JSON and yet none is one clear error, through the library's object or without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny_tokenizer import edit
from vocabtrim.calibrate.tokenizer import open_tokenizer, tokenizer_facts
from vocabtrim.errors import InputError


def set_merges(merges: Any) -> Callable[[dict[str, Any]], None]:
    return lambda said: said["model"].update(merges=merges)


def set_id(token_id: Any) -> Callable[[dict[str, Any]], None]:
    return lambda said: said["model"]["vocab"].update(a=token_id)


@pytest.mark.parametrize("read", [tokenizer_facts, open_tokenizer])
@pytest.mark.parametrize(
    "change",
    [
        lambda said: said["model"].pop("merges"),
        set_merges([1, 2]),
        set_merges([[1, 2]]),
        set_merges(7),
        set_id("7"),
        set_id(None),
        set_id(-1),
        set_id(1 << 40),
        lambda said: said["added_tokens"][0].update(id="x"),
        lambda said: said["added_tokens"][0].update(id=1 << 40),
        lambda said: said.update(model=None),
    ],
)
def test_one_line_names_the_file(read: Callable[[Path], Any], change: Any, tiny: Path, tmp_path: Path) -> None:
    folder = edit(tiny, tmp_path / "t", change)
    with pytest.raises(InputError, match=r"tokenizer\.json is no tokenizer.*download it again"):
        read(folder)
