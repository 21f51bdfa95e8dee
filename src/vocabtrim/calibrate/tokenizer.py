"""The target's tokenizer: loading it, what its ids mean, and which ids a trim must never lose.

Knows `tokenizer.json` and the JSON files that stand beside it. Knows nothing of text, counts or heads. No
transformers here: what is asked can be read from the files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..hub import local_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

STOP = "stop token"
TEMPLATE = "chat template"

# What a hub id may fetch: the files this module and the chat templates read, no weights.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "config.json",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)

# Tokens that end a turn in the families in use, for folders without a generation config: a tokenizer config names one
# eos token, but Llama 3 stops at three.
_STOPS_BY_NAME = (
    "</s>",
    "<eos>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|eot|>",
)

_MAX_IDS = 1 << 24  # the largest vocabularies have some 300,000; an id far beyond is broken or hostile

_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "observation", "ipython")


@dataclass(frozen=True)
class TokenizerFacts:
    """What the rest of vocabtrim must know of a tokenizer.

    hash: hex SHA-256 of the token strings in the order of their ids, added tokens included: the meaning of the ids,
        whatever the file looks like.
    vocab_size: largest id + 1.
    merge_ordered: the leading ids 0..merge_ordered-1 follow merge order, the order in which the tokenizer's training
        found them, most frequent first; 0 where there is no such order. A byte-level BPE tokenizer qualifies when its
        ids begin with the 256 bytes (added tokens may stand among them) and then rise along the merge list. GPT-2's,
        Llama 3's and Qwen's do. Tokenizers converted from sentencepiece do not: their pieces are ordered by score,
        with single characters at the end and merges that were patched in later.
    always_keep: id -> why a trim keeps it whatever the counts say: "stop token" or "chat template".
    """

    hash: str
    vocab_size: int
    merge_ordered: int
    always_keep: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class OpenTokenizer:
    """A tokenizer read once: its facts, the library's object, what the file says, and the folder of its companions."""

    facts: TokenizerFacts
    tokenizer: Tokenizer
    json: Mapping[str, Any]
    folder: Path

    @property
    def added(self) -> dict[int, str]:
        """Added tokens (special ones and others), id -> content."""
        return {token_id: token.content for token_id, token in self.tokenizer.get_added_tokens_decoder().items()}


def load_tokenizer(path: Path | str) -> Tokenizer:
    """The `tokenizers.Tokenizer` of a folder, a `tokenizer.json`, or a hub id.

    A hub id ("owner/name") is asked for only where no such local path exists. Truncation and padding that the file
    may ask for are switched off. Raises InputError when there is no tokenizer or the file is broken.
    """
    return _load(find_tokenizer(path))


def tokenizer_facts(path: Path | str) -> TokenizerFacts:
    """Read the facts of a tokenizer; `path` as for `load_tokenizer`.

    Stop ids come from the `eos_token` of tokenizer_config.json and the `eos_token_id` of generation_config.json and
    config.json, as far as they are there; without a generation config also from the names of well-known stop tokens.
    An id that the tokenizer does not have is left out.
    """
    file = find_tokenizer(path)
    return _facts(file, _said(file))


def open_tokenizer(path: Path | str) -> OpenTokenizer:
    """Load a tokenizer and its facts in one go; `path` as for `load_tokenizer`."""
    file = find_tokenizer(path)
    tokenizer, said = _load(file), _said(file)
    return OpenTokenizer(_facts(file, said), tokenizer, said, file.parent)


def find_tokenizer(path: Path | str) -> Path:
    """The `tokenizer.json` that `path` means: itself, the one in a folder, or the one of a hub id (then fetched)."""
    local = local_folder(path, _FILES)
    if local.is_file():
        return local
    file = local / "tokenizer.json"
    if not file.is_file():
        raise InputError(
            f"no tokenizer at {path}",
            expected="a tokenizer.json, a folder that holds one, or a hub id",
            found="a folder without it" if local.is_dir() else "nothing",
            remedy="check --tokenizer; an older tokenizer.model becomes a tokenizer.json when transformers saves it",
        )
    return file


def tokenizer_files(opened: OpenTokenizer) -> dict[str, bytes]:
    """What was read of a tokenizer and its chat templates, by relative name: written elsewhere, it opens alike."""
    beside = {
        file.relative_to(opened.folder).as_posix(): file.read_bytes()
        for pattern in _FILES
        for file in sorted(opened.folder.glob(pattern))
    }
    return {**beside, "tokenizer.json": json.dumps(opened.json).encode()}


def chat_templates(folder: Path) -> list[str]:
    """The chat templates that lie beside a tokenizer; empty for most base models."""
    return list(_templates(folder, _read_json(folder / "tokenizer_config.json")))


def eos_token(folder: Path) -> str | None:
    """The end-of-sequence token that the tokenizer's config names."""
    found = _read_json(folder / "tokenizer_config.json").get("eos_token")
    return _content(found) if found else None


def _load(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{file} is no tokenizer", found=error, remedy="download it again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _said(file: Path) -> dict[str, Any]:
    """What a tokenizer.json says. Read as JSON: building the library's object takes five times as long."""
    with _broken_is_said(file):
        return dict(json.loads(file.read_bytes()))


@contextmanager
def _broken_is_said(file: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} is no tokenizer", found=repr(error), remedy="download it again") from error


def _vocabulary(said: Mapping[str, Any]) -> tuple[dict[int, str], dict[int, str]]:
    """id -> token for all tokens, and for the added ones alone. A Unigram vocabulary is a list of pieces and scores."""
    vocab = said["model"]["vocab"]
    added = {int(token["id"]): str(token["content"]) for token in said.get("added_tokens") or ()}
    if isinstance(vocab, list):
        token_of = {token_id: piece for token_id, (piece, _) in enumerate(vocab)} | added
    else:
        token_of = {token_id: token for token, token_id in vocab.items()} | added
    for token_id, token in token_of.items():
        if type(token_id) is not int or not 0 <= token_id < _MAX_IDS or not isinstance(token, str):
            raise ValueError(f"token {token!r} has the id {token_id!r}")
    return token_of, added


def _facts(file: Path, said: Mapping[str, Any]) -> TokenizerFacts:
    with _broken_is_said(file):
        token_of, added = _vocabulary(said)
        merge_ordered = _merge_ordered(said, set(added))
    return TokenizerFacts(
        hash=_hash(token_of),
        vocab_size=max(token_of, default=-1) + 1,
        merge_ordered=merge_ordered,
        always_keep=_always_keep(file.parent, token_of, added),
    )


def _hash(token_of: Mapping[int, str]) -> str:
    ids = sorted(token_of)
    return hashlib.sha256(json.dumps([ids, [token_of[token_id] for token_id in ids]]).encode()).hexdigest()


def merge_products(model: Mapping[str, Any]) -> list[str]:
    """The tokens that the merges of a BPE model make, in the order of the first merge that makes each."""
    merges = model["merges"]  # pairs; strings with a space between in older files
    products = (
        map("".join, merges) if merges and isinstance(merges[0], list) else (m.replace(" ", "", 1) for m in merges)
    )
    return list(dict.fromkeys(products))


def _merge_ordered(tokenizer_json: Mapping[str, Any], added: set[int]) -> int:
    model = tokenizer_json["model"]
    if model.get("type") != "BPE" or '"ByteLevel"' not in json.dumps(tokenizer_json.get("pre_tokenizer")):
        return 0
    token_of = {token_id: token for token, token_id in model["vocab"].items()}
    first = 0
    while first in added or len(token_of.get(first, "")) == 1:
        first += 1
    next_id = first
    for product in merge_products(model):
        while next_id in added and token_of.get(next_id) != product:
            next_id += 1
        if token_of.get(next_id) != product:
            break
        next_id += 1
    while next_id > first and next_id - 1 in added:  # special tokens behind the merges follow no order
        next_id -= 1
    return next_id if next_id > first else 0


def _always_keep(folder: Path, token_of: Mapping[int, str], added: Mapping[int, str]) -> dict[int, str]:
    config = _read_json(folder / "tokenizer_config.json")
    named = {**_read_json(folder / "special_tokens_map.json"), **config}
    variables = {key: _content(named[key]) for key in named if key.endswith("_token") and named[key]}

    templates = list(_templates(folder, config))
    words = {word for template in templates for word in re.findall(r"\w+", template)}
    spoken = {text for name, text in variables.items() if name in words}
    keep = {
        token_id: TEMPLATE
        for token_id, token in added.items()
        if token in spoken or any(_mentions(template, token) for template in templates)
    }
    stops = set(_stop_ids(folder))
    stop_names = {variables.get("eos_token")}
    if not (folder / "generation_config.json").is_file():
        stop_names.update(_STOPS_BY_NAME)
    stops.update(token_id for token_id, token in added.items() if token in stop_names)
    stops.update(token_id for token_id, token in token_of.items() if token == variables.get("eos_token"))
    keep.update((token_id, STOP) for token_id in stops if token_id in token_of)
    return dict(sorted(keep.items()))


def _mentions(template: str, token: str) -> bool:
    """Whether the template writes the token literally, or puts it together around a role: '<|' + role + '|>'."""
    if token.strip() and token in template:
        return True
    for role in _ROLES:
        before, found, after = token.partition(role)
        if found and before and after and before in template and after in template and "role" in template:
            return True
    return False


def _templates(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    in_json = (config.get("chat_template"), _read_json(folder / "chat_template.json").get("chat_template"))
    for found in in_json:
        if isinstance(found, str):
            yield found
        elif isinstance(found, list):  # several, each with a name
            yield from (str(named.get("template")) for named in found if isinstance(named, dict))
        elif isinstance(found, dict):
            yield from map(str, found.values())
    for file in (folder / "chat_template.jinja", *sorted(folder.glob("additional_chat_templates/*.jinja"))):
        if file.is_file():
            yield file.read_text(encoding="utf-8", errors="replace")


def stop_ids(folder: Path) -> set[int]:
    """The ids that end an answer by the generation and model configs of a folder, with or without a tokenizer in it."""
    return set(_stop_ids(folder))


def _stop_ids(folder: Path) -> Iterator[int]:
    for name in ("generation_config.json", "config.json"):
        config = _read_json(folder / name)
        for part in (config, config.get("text_config")):  # text_config: where multimodal models keep it
            found = part.get("eos_token_id") if isinstance(part, dict) else None
            yield from (token for token in (found if isinstance(found, list) else [found]) if type(token) is int)


def _content(token: Any) -> str:
    """A special token is written as a string, or as an object with its content."""
    return str(token.get("content") if isinstance(token, dict) else token)


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file beside the tokenizer; empty where there is none."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no JSON", found=error, remedy="download it again") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} holds no JSON object", found=type(found).__name__, remedy="download it again")
    return found
