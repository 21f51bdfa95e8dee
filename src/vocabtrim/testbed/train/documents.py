"""What the built-in models learn from: conversations and plain texts, each with a category and a place in the split.

Knows documents and which of them are held out; knows nothing of tokens or of where the texts come from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
Turn = tuple[Role, str]

# Conversations of these categories have held-out prompts, on which the models are judged.
CHAT_CATEGORIES = ("math", "code", "functions", "python", "knowledge", "reading", "continue")
PLAIN_CATEGORIES = ("prose", "plays", "source")

_HELD_OUT = 20  # one in twenty


@dataclass(frozen=True)
class Document:
    """One conversation, or one plain text as a single turn of the assistant.

    key: what the split hashes; documents that share a key, made of one function or one article say, share a side.
    source: the collection that its words are from, for provenance.
    """

    category: str
    key: str
    turns: tuple[Turn, ...]
    source: str = ""

    @property
    def plain(self) -> bool:
        """Whether this is a text without conversation around it."""
        return self.category in PLAIN_CATEGORIES


def chat(category: str, key: str, question: str, answer: str, system: str | None = None) -> Document:
    """A conversation of one question and one answer."""
    opening: tuple[Turn, ...] = (("system", system),) if system else ()
    return Document(category, key, (*opening, ("user", question), ("assistant", answer)))


def plain(category: str, key: str, text: str) -> Document:
    """A plain text."""
    return Document(category, key, (("assistant", text),))


def held_out(key: str) -> bool:
    """Whether documents of this key are kept from training: by hash, so that no order and no count matters."""
    return draw(key, "split", _HELD_OUT) == 0


def draw(key: str, purpose: str, choices: int) -> int:
    """A number in [0, choices) that depends on key and purpose alone: which wording a document gets, and the like."""
    digest = hashlib.sha256(f"{purpose}\n{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % choices
