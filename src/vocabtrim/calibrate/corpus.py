"""Calibration text as a stream of documents, whatever it lies in.

Knows which container a file is and what to do with what cannot be read; knows nothing of tokens. Constant memory:
one block, one record or one document is held at a time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..provenance import sha256_file
from .collected import passed_over
from .forms import NO_CHAT, Document, Forms, UnusableError
from .records import INVALID_UTF8, json_lines, json_values, parquet_rows
from .sources import Source
from .streams import COMPRESSED_SUFFIXES, OnBytes, open_stream
from .text import text_documents

BINARY = "binary file"
LONE_SURROGATE = "text with half a surrogate pair"

# So many records without the wanted field, and no other among them: the field is wrong, not the records.
_PATIENCE = 1000

_NAMED = 20  # reasons with a file's name: a folder may hold thousands

_TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst")


@dataclass
class Ledger:
    """What reading a source left out and which files it read, filled while it is read.

    strict: raise InputError, with file and line, instead of leaving anything out.
    """

    strict: bool = False
    skipped: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, Any]] = field(default_factory=list)

    def skip(self, file: str, reason: str, place: str, *, by_file: bool = False) -> None:
        """Count one thing left out by its reason; by_file: and by the file's name, for the first few files."""
        if self.strict:
            raise InputError(f"{file}, {place}: {reason}", remedy="correct it, or leave --strict out to skip it")
        named = f"{reason} ({Path(file).name})"
        self.skipped[named if by_file and (named in self.skipped or len(self.skipped) < _NAMED) else reason] += 1


def documents(source: Source, forms: Forms, ledger: Ledger, on_bytes: OnBytes) -> Iterator[Document]:
    """Yield the documents of a source; `ledger` is filled on the way, `on_bytes` hears how many bytes were read.

    Raises InputError for damaged files, for --strict, and when no record has the wanted fields.
    """
    usable = False
    lacking: UnusableError | None = None
    for file in source.files:
        for document, unusable in _file_documents(file, source, forms, ledger, on_bytes):
            if document is not None:
                usable = True
                ledger.forms[document.form] += 1
                yield document
            elif unusable is not None and unusable.fields is not None:
                lacking = lacking or unusable
                if not usable and ledger.skipped.total() >= _PATIENCE:
                    raise _nothing_usable(source, lacking, forms)
    if not usable and lacking is not None:
        raise _nothing_usable(source, lacking, forms)


def _nothing_usable(source: Source, lacking: UnusableError, forms: Forms) -> InputError:
    return InputError(
        f"no record of {source.argument} can be used ({lacking.reason})",
        expected=forms.wanted,
        found=f"fields {', '.join(map(str, lacking.fields or ['none']))}",
        remedy="name the field with --text-field, or --prompt-field and --completion-field",
    )


_Found = tuple["Document | None", "UnusableError | None"]


def _file_documents(
    file: Path | None, source: Source, forms: Forms, ledger: Ledger, on_bytes: OnBytes
) -> Iterator[_Found]:
    name = "standard input" if file is None else str(file)
    skip = partial(ledger.skip, name)
    lacking = partial(skip, by_file=len(source.files) > 1)
    story: dict[str, Any] = {"path": name}
    ledger.files.append(story)
    if file is not None and is_parquet(file):
        story.update(bytes=file.stat().st_size, sha256=sha256_file(file))
        yield from _of_records(parquet_rows(file, forms.columns), forms, skip, lacking)
        on_bytes(story["bytes"])
        return
    with open_stream(file, on_bytes, story) as stream:
        container = container_of(file, stream)
        if container is None:
            skip(BINARY, "from its beginning")
        elif container is text_documents:
            if not forms.chat_only:
                yield from _of_text(stream, skip)
            elif source.from_folder:
                skip(NO_CHAT, "from its beginning")
            else:
                raise InputError(f"{name} is plain text, which holds no chat", remedy="leave --chat out")
        else:
            yield from _of_records(container(stream, skip), forms, skip, lacking)


def _of_text(stream: BufferedReader, skip: Callable[[str, str], None]) -> Iterator[_Found]:
    for text in text_documents(stream, lambda line: skip(INVALID_UTF8, f"line {line}")):
        yield Document("text", (text,), (), text), None


def _of_records(
    records: Iterator[tuple[str, Any]],
    forms: Forms,
    skip: Callable[[str, str], None],
    lacking: Callable[[str, str], None],
) -> Iterator[_Found]:
    """lacking: told, in place of `skip`, of records without the wanted field: those are often all of one file's."""
    for place, record in records:
        if passed_over(record):
            continue
        try:
            document = forms.document(record)
            document.key.encode()
        except UnusableError as error:
            (skip if error.fields is None else lacking)(error.reason, place)
            yield None, error
        except UnicodeEncodeError:
            skip(LONE_SURROGATE, place)
        else:
            for reason in document.skipped:
                skip(reason, place)
            yield document, None


def is_parquet(file: Path) -> bool:
    """Whether a file begins as Parquet does; False for pipes."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(4) == b"PAR1"


def container_of(file: Path | None, stream: BufferedReader) -> Callable[..., Iterator[Any]] | None:
    """How to read a file: told by its name where the name says, else by how it begins. None: binary."""
    beginning = stream.peek(1)
    suffix = _suffix(file)
    if suffix in (".jsonl", ".ndjson"):
        return json_lines
    if suffix == ".json":
        return json_values
    if b"\0" in beginning[:8192]:
        return None
    if suffix in _TEXT_SUFFIXES:
        return text_documents
    start = beginning.lstrip()
    if start.startswith(b"[") and start[1:].lstrip().startswith(b"{"):
        return json_values
    return json_lines if _is_json_object(start) else text_documents


def _suffix(file: Path | None) -> str:
    suffixes = [] if file is None else [suffix.lower() for suffix in file.suffixes]
    while suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _is_json_object(beginning: bytes) -> bool:
    if not beginning.startswith(b"{"):
        return False
    line, newline, _ = beginning.partition(b"\n")
    if not newline:  # the first line is longer than what is in sight
        return beginning[1:].lstrip().startswith(b'"')
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
