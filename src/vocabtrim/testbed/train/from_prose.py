"""Encyclopedia, web pages and plays: as they stand, as questions about them, and as texts to go on with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from .documents import Document, chat, draw, plain

_HEADING = re.compile(r"^ ?((?:= )+)(.+?)((?: =)+) ?$")
_SENTENCE = re.compile(r"(?<=[.!?])[\"”)]?\s+(?=[A-Z\"“(])")
_ABOUT = (
    "Tell me about {}.",
    "What do you know about {}?",
    "Write a paragraph about {}.",
    "What is there to say on {}?",
)
_WORD = re.compile(r"[A-Za-z]{6,}|\d{4}")


def encyclopedia(file: Path) -> Iterator[tuple[str, str, str]]:
    """(article, section, paragraph) of a WikiText file, its spacing undone; sentences with unknown words left out."""
    article = section = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        heading = _HEADING.match(line)
        if heading:
            level, title = heading[1].count("="), natural(heading[2])
            article, section = (title, "") if level == 1 else (article, title)
        elif line.strip():
            kept = [part for part in sentences(natural(line)) if "<unk>" not in part]
            if kept and article:
                yield article, section, " ".join(kept)


def natural(text: str) -> str:
    """WikiText's spaced-out punctuation as people write it."""
    text = re.sub(r" @([-,.])@ ", r"\1", f" {text.strip()} ")
    text = re.sub(r' " ([^"]*) " ', r' "\1" ', text)
    text = re.sub(r" ([,.;:!?)\]%]|'s|n't|')(?= )", r"\1", text)
    text = re.sub(r"([(\[$£]) ", r"\1", text)
    return " ".join(text.split())


def sentences(text: str) -> list[str]:
    """A text's sentences, by a plain rule that is wrong at abbreviations."""
    return [part for part in _SENTENCE.split(text) if part.strip()]


def pages(file: Path) -> list[str]:
    """Web pages of a JSON-lines file."""
    return [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]


def articles(file: Path) -> Iterator[Document]:
    """A WikiText file as plain text ("prose") and as conversations ("knowledge", "reading", "continue")."""
    for article, section, paragraph in encyclopedia(file):
        yield plain("prose", article, f"{article}: {section}\n{paragraph}" if section else paragraph)
        if "<unk>" in article + section:
            continue
        subject = f"{article} ({section})" if section else article
        template = _ABOUT[draw(subject, "wording", len(_ABOUT))]
        parts = sentences(paragraph)
        yield chat("knowledge", article, template.format(subject), _whole_sentences(parts, 600))
        yield from _tasks(article, parts)


def web(file: Path) -> Iterator[Document]:
    """Web pages as plain text ("prose") and as conversations ("reading", "continue")."""
    for page in pages(file):
        key = page[:80]
        yield from (plain("prose", key, block) for block in _blocks(page))
        yield from _tasks(key, sentences(page.replace("\n", " ")))


def _tasks(key: str, parts: list[str]) -> Iterator[Document]:
    """Find the sentence that a word stands in; go on with a text. Six sentences at a time."""
    for start in range(0, len(parts) - 3, 4):
        window = [part for part in parts[start : start + 6] if len(part) < 400]
        if len(window) < 4:
            continue
        passage = " ".join(window)
        yield from _findings(key, window, passage)
        question = "Continue this text.\n\n" + " ".join(window[:2])
        yield chat("continue", key, question, " ".join(window[2:4]))


def _findings(key: str, window: list[str], passage: str) -> Iterator[Document]:
    for number in (draw(passage, "sentence", len(window)), draw(passage, "other sentence", len(window))):
        words = [word for word in _WORD.findall(window[number]) if passage.count(word) == 1]
        if words:
            word = words[draw(passage, "word", len(words))]
            question = f'{passage}\n\nWhat does the text say about "{word}"?'
            yield chat("reading", key, question, window[number])


def plays(file: Path) -> Iterator[Document]:
    """Speeches in pieces of about one row."""
    text = file.read_text(encoding="utf-8")
    yield from (plain("plays", f"{number}", block) for number, block in enumerate(_blocks(text)))


def _blocks(text: str, size: int = 1500) -> Iterator[str]:
    """Whole paragraphs together, up to `size` characters."""
    piece = ""
    for block in text.split("\n\n" if "\n\n" in text else "\n"):
        if piece and len(piece) + len(block) > size:
            yield piece
            piece = ""
        piece = f"{piece}\n\n{block}".strip()
    if piece:
        yield piece


def _whole_sentences(parts: list[str], size: int) -> str:
    text = parts[0]
    for part in parts[1:]:
        if len(text) + len(part) > size:
            break
        text += " " + part
    return text
