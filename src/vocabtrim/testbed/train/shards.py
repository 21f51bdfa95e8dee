"""Documents as token ids on disk: one file per side of the split, all documents of a category end to end.

    python -m vocabtrim.testbed.train.shards DATA RUN

Reads RUN/tokenizer, writes RUN/train.safetensors and RUN/heldout.safetensors, and RUN/heldout_prompts.jsonl.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .corpus import documents
from .documents import Document
from .tokenizer import SPECIAL

ROW = 512  # tokens of one training row; longer conversations are left out, longer texts cut


Encoded = list[tuple[list[int], list[bool]]]  # documents: ids, and which of them are answers


@dataclass(frozen=True, eq=False)
class Shard:
    """The documents of one category.

    ids: uint16 (tokens,). answer: bool (tokens,), True where the target would write the token. starts: int64
    (documents + 1,), document i is ids[starts[i] : starts[i + 1]].
    """

    ids: npt.NDArray[np.uint16]
    answer: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return self.starts.size - 1


class Encoder:
    """Documents -> ids, by the family's tokenizer and its chat template."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.end_of_text, self.start, self.end = map(self.special, SPECIAL)

    def special(self, token: str) -> int:
        """A special token's id."""
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise ValueError(f"the tokenizer has no {token}; make it with vocabtrim.testbed.train.tokenizer")
        return number

    def text(self, text: str) -> list[int]:
        """A text's ids."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def document(self, document: Document) -> tuple[list[int], list[bool]]:
        """Ids, and which of them are answers; texts too long for a row are cut, conversations are empty."""
        if document.plain:
            ids = [*self.text(document.turns[0][1])[: ROW - 1], self.end_of_text]
            return ids, [True] * len(ids)
        ids, answer = [], []
        for role, content in document.turns:
            head, body = self.opening(role), [*self.text(content), self.end]
            ids += [*head, *body, *self.text("\n")]
            answer += [False] * len(head) + [role == "assistant"] * len(body) + [False]
        return (ids, answer) if len(ids) <= ROW else ([], [])

    def opening(self, role: str) -> list[int]:
        """What stands before a turn's text."""
        return [self.start, *self.text(f"{role}\n")]

    def prompt(self, document: Document) -> list[int]:
        """Everything before the last answer."""
        ids: list[int] = []
        for role, content in document.turns[:-1]:
            ids += [*self.opening(role), *self.text(content), self.end, *self.text("\n")]
        return [*ids, *self.opening("assistant")]


def write(data: Path, run: Path) -> None:
    """Encode every document; print tokens and documents per category."""
    encoder = Encoder(run / "tokenizer")
    parts: dict[tuple[bool, str], Encoded] = defaultdict(list)
    with (run / "heldout_prompts.jsonl").open("w", encoding="utf-8") as prompts:
        for document, out in documents(data):
            ids, answer = encoder.document(document)
            if len(ids) > 1:
                parts[out, document.category].append((ids, answer))
                if out and not document.plain:
                    prompts.write(json.dumps(as_record(document)) + "\n")
    for out, name in ((False, "train.safetensors"), (True, "heldout.safetensors")):
        print(name)
        write_shard({category: part for (side, category), part in parts.items() if side == out}, run / name)


def as_record(document: Document) -> dict[str, Any]:
    """A conversation for a file of them."""
    return {"category": document.category, "source": document.source, "turns": document.turns}


def write_shard(parts: dict[str, Encoded], file: Path) -> None:
    """Write documents by category; print how many, and their tokens."""
    from safetensors.numpy import save_file

    tensors: dict[str, npt.NDArray[np.generic]] = {}
    for category, encoded in parts.items():
        tensors |= _tensors(category, encoded)
        print(category, len(encoded), "documents", tensors[f"{category}/ids"].size, "tokens")
    save_file(tensors, file)


def _tensors(category: str, encoded: Encoded) -> dict[str, npt.NDArray[np.generic]]:
    return {
        f"{category}/ids": np.concatenate([np.array(ids, np.uint16) for ids, _ in encoded]),
        f"{category}/answer": np.concatenate([np.array(answer, np.bool_) for _, answer in encoded]),
        f"{category}/starts": np.cumsum([0, *(len(ids) for ids, _ in encoded)], dtype=np.int64),
    }


def read(file: Path) -> dict[str, Shard]:
    """Category -> its documents."""
    from safetensors.numpy import load_file

    tensors = load_file(file)
    names = sorted({name.split("/")[0] for name in tensors})
    return {name: Shard(*(tensors[f"{name}/{part}"] for part in ("ids", "answer", "starts"))) for name in names}


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
