"""Random models of every kind: a small target, one drafter of each kind, and text to calibrate with, made at once.

The tokenizer is the trained family's, the text is the language reference that Python's own `help()` prints, and the
weights are RANDOM: they show the whole job, its files, its sizes and its checks, MTP among them. They show no
acceptance and no speed-up: no number about either can be read off a model that was never trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..provenance import atomic_directory
from . import shapes
from .family import FAMILY
from .sizes import ModelShape

TOKENIZER = FAMILY / "target"  # the folder that it lies in

# 16,384 ids, the last 16 of them special; the head is padded by 64 rows, as many published heads are.
BUILTIN = ModelShape(
    "builtin",
    hidden=256,
    intermediate=512,
    layers=2,
    heads=4,
    kv_heads=2,
    vocab=16_384,
    head_rows=16_448,
    bos=16_368,
    eos=(16_370, 16_368),  # <|im_end|>, <|endoftext|>
    head_dim=64,
    rope_theta=10_000.0,
    max_positions=4096,
)
SMALL = replace(BUILTIN, name="builtin-small", hidden=128, intermediate=256, layers=1, head_dim=32, tie=True)
_EAGLE3_HEAD = 8192
_CHATS = 400
_SEED = 0  # one for all: what a drafter copies from its target is then bit for bit the target's


def write_builtin(out: Path) -> Path:
    """Make `out` with target/, the drafters independent/, eagle/, eagle3/, medusa/ and mtp/, text.txt and chat.jsonl.

    Takes about a second and 100 MB. The target, the independent drafter and mtp/ (a whole checkpoint with its
    prediction block inside) carry the tokenizer. eagle3/ has a head of 8,192 rows: the lowest ids and the stop ids.
    Raises InputError where this Python carries no language reference, OutputError where `out` exists.
    """
    text, records = "\n\n".join(paragraph for _, paragraph in paragraphs()), [*chats()]
    with atomic_directory(out) as folder:
        shapes.write_target(folder / "target", BUILTIN, seed=_SEED, tokenizer=TOKENIZER)
        shapes.write_independent(folder / "independent", SMALL, seed=_SEED, tokenizer=TOKENIZER)
        shapes.write_eagle(folder / "eagle", BUILTIN, seed=_SEED)
        lowest = np.arange(_EAGLE3_HEAD - len(BUILTIN.eos), dtype=np.int64)
        ids = np.sort(np.concatenate([lowest, np.array(BUILTIN.eos, np.int64)]))
        shapes.write_eagle3(folder / "eagle3", BUILTIN, seed=_SEED, draft_vocab=_EAGLE3_HEAD, kept_ids=ids)
        shapes.write_medusa(folder / "medusa", BUILTIN, seed=_SEED, heads=3, container="safetensors")
        shapes.write_mtp(folder / "mtp", BUILTIN, seed=_SEED, family="deepseek", tokenizer=TOKENIZER)
        (folder / "text.txt").write_text(text + "\n", encoding="utf-8")
        (folder / "chat.jsonl").write_text("".join(map(_record, records)), encoding="utf-8")
    return out


def topics() -> dict[str, str]:
    """Python's language reference by topic, as `help()` prints it; about 0.5 MB, a little different in each version."""
    try:
        from pydoc_data.topics import topics as reference
    except ImportError as error:
        raise InputError(
            "this Python carries no language reference (pydoc_data)",
            remedy="install the full standard library, or run on your own text: vocabtrim trim --calibrate FILE",
        ) from error
    return dict(reference)


def paragraphs() -> Iterator[tuple[str, str]]:
    """(topic, paragraph) in order: prose with its line breaks undone, code as it stands, headings left out."""
    for topic, text in topics().items():
        for block in re.split(r"\n\s*\n", text):
            lines = block.strip("\n").splitlines()
            if len(block.split()) < 8 or any(re.fullmatch(r"\s*([*=\-^~#.])\1{2,}\s*", line) for line in lines):
                continue
            if "::=" in block or any(line.startswith("     ") for line in lines):
                yield topic, "\n".join(lines)
            else:
                yield topic, " ".join(" ".join(lines).split())


def chats() -> Iterator[tuple[str, str]]:
    """(question, answer): what the reference says, asked for by topic and opening words; the same each time."""
    prose = [(topic, text) for topic, text in paragraphs() if "\n" not in text and len(text) > 80]
    for at in range(_CHATS):
        topic, text = prose[at * len(prose) // _CHATS]
        opening = " ".join(text.split()[:4])
        yield f'What does the Python reference say under "{topic}", where it begins "{opening}"?', text


def _record(chat: tuple[str, str]) -> str:
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), chat, strict=True)]
    return json.dumps({"messages": turns}, ensure_ascii=False) + "\n"
