"""A tokenizer of the kept tokens alone, as vLLM matches it with the target's: token by token, by their strings.

The rules (vLLM 0.32.0, v1/spec_decode/vocab_mapping.py): a leading mark for a space becomes a space; the mark is what a
tokenizer puts before the "a" of " a", or either of two known ones where that does not tell; of several tokens that
then read the same, any one is taken. Knows token strings; knows no checkpoint.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..calibrate.tokenizer import load_tokenizer
from ..errors import UnsupportedError
from ..vocabulary.kept import Ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TARGET = "target-tokenizer"  # the target's tokenizer beside ours, so that the ids can be read out of the folder again
_UNKNOWN = "<vocabtrim:unknown>"
_MARKS = ("Ġ", "▁")


def write_own_vocabulary(folder: Path, target_tokenizer: Path, kept_ids: Ids) -> None:
    """Write tokenizer.json, where the token of `kept_ids[row]` has the id `row` and what is unknown the one behind.

    target_tokenizer: the target's tokenizer.json. Raises UnsupportedError where vLLM would match other tokens than
    these.
    """
    target = load_tokenizer(target_tokenizer)
    tokens = [_token(target, token_id, target_tokenizer) for token_id in kept_ids.tolist()]
    (folder / "tokenizer.json").write_text(json.dumps(_words(tokens), ensure_ascii=False), encoding="utf-8")
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": _UNKNOWN}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    (folder / TARGET).mkdir()
    (folder / TARGET / "tokenizer.json").write_bytes(target_tokenizer.read_bytes())
    found = read_own_vocabulary(folder)
    wrong = np.flatnonzero(found != kept_ids)
    if wrong.size:
        row = int(wrong[0])
        raise UnsupportedError(
            f"vLLM matches vocabularies by string and cannot tell {tokens[row]!r} (id {kept_ids[row]}) from another",
            expected="tokens that differ in more than the mark of a leading space",
            found=f"{wrong.size} that do not",
            remedy="use --engine vllm-plugin, which matches nothing",
        )


def _token(target: Tokenizer, token_id: int, file: Path) -> str:
    token: str | None = target.id_to_token(token_id)
    if token is None:
        remedy = "choose the ids with the target's own tokenizer"
        raise UnsupportedError(f"kept id {token_id} is no token of {file}", remedy=remedy)
    return token


def read_own_vocabulary(folder: Path) -> Ids:
    """(kept,), the target's id of each row as vLLM finds it; -1 where it finds none or cannot tell."""
    target, own = load_tokenizer(folder / TARGET / "tokenizer.json"), load_tokenizer(folder / "tokenizer.json")
    id_of = _by_text(target)
    found = np.full(own.get_vocab_size() - 1, -1, np.int64)  # the last is what is unknown
    for text, row in _by_text(own).items():
        token_id = id_of.get(text)
        if row is not None and row < found.size and token_id is not None:
            found[row] = token_id
    return found


def _words(tokens: list[str]) -> dict[str, Any]:
    """A tokenizer that knows whole tokens only: nothing is ever tokenized with it but the probe " a"."""
    vocab = {token: row for row, token in enumerate([*tokens, _UNKNOWN])}
    mark = next((mark for mark in _MARKS if f"{mark}a" in vocab), _MARKS[0])
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": mark},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": _UNKNOWN},
    }


def _by_text(tokenizer: Tokenizer) -> dict[str, int | None]:
    """What vLLM compares -> id; None where several tokens have it."""
    marks = _marks(tokenizer)
    vocab = {_text(token, marks): token_id for token, token_id in tokenizer.get_vocab().items()}
    times = Counter(_text(token, marks) for token in tokenizer.get_vocab())
    return {text: token_id if times[text] == 1 else None for text, token_id in vocab.items()}


def _marks(tokenizer: Tokenizer) -> tuple[str, ...]:
    tokens = tokenizer.encode(" a", add_special_tokens=False).tokens
    first = tokens[0] if tokens else ""
    return (first[:-1],) if len(first) > 1 and first.endswith("a") and first[0] not in " \t" else _MARKS


def _text(token: str, marks: tuple[str, ...]) -> str:
    return next((" " + token[len(mark) :] for mark in marks if token.startswith(mark)), token)
