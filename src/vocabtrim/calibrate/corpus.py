"""Calibration text as a stream of documents, whatever it lies in.

Knows which container a file is and what to do with what cannot be read; knows nothing of tokens. Constant memory:
one block, one record or one document is held at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

from ..errors import InputError
from .collected import passed_over
from .container import container_of, is_parquet
from .forms import NO_CHAT, Document, Forms, UnusableError
from .records import INVALID_UTF8, parquet_rows
from .sections import Section, whole
from .sources import Source
from .streams import OnBytes, open_stream
from .text import text_documents

BINARY = "binary file"
LONE_SURROGATE = "text with half a surrogate pair"

# So many records without the wanted field, and no other among them: the field is wrong, not the records.
_PATIENCE = 1000

_NAMED = 20  # reasons with a file's name: a folder may hold thousands


@dataclass
class Ledger:
    """What reading a source left out and which files it read, filled while it is read.

    strict: raise InputError, with file and line, instead of leaving anything out.
    several: the source is of several files, so that records without the wanted field are told with their file's name.
    left_out: (reason, file's name or "") -> how often, in the order of the first.
    lacking: the first record without the wanted field; barren: what was left out by the last of those that came
        before any document.
    """

    strict: bool = False
    several: bool = False
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, Any]] = field(default_factory=list)
    lacking: UnusableError | None = None
    barren: int = 0

    def skip(self, file: str, reason: str, place: str) -> None:
        """Count one thing left out by its reason."""
        self._leave_out(file, reason, place, "")

    def skip_unusable(self, file: str, error: UnusableError, place: str) -> None:
        """Count a record that holds nothing to count; those without the wanted field are often all of one file's."""
        lacks_field = error.fields is not None
        self._leave_out(file, error.reason, place, Path(file).name if lacks_field and self.several else "")
        if lacks_field and not self.forms:
            self.lacking = self.lacking or error
            self.barren = self.left_out.total()

    def _leave_out(self, file: str, reason: str, place: str, name: str) -> None:
        if self.strict:
            raise InputError(f"{file}, {place}: {reason}", remedy="correct it, or leave --strict out to skip it")
        self.left_out[reason, name] += 1

    @property
    def skipped(self) -> dict[str, int]:
        """Reason -> how often; a reason with a file's name for the first few files."""
        told: Counter[str] = Counter()
        for (reason, name), number in self.left_out.items():
            named = f"{reason} ({name})"
            told[named if name and (named in told or len(told) < _NAMED) else reason] += number
        return dict(told)

    @property
    def is_hopeless(self) -> bool:
        """Whether so many records were unusable before the first document that the rest will be too."""
        return self.barren >= _PATIENCE

    def add(self, later: Ledger) -> None:
        """Take in the ledger of what follows, as if both had been read in one go."""
        if later.lacking is not None and not self.forms:
            self.lacking = self.lacking or later.lacking
            self.barren = self.left_out.total() + later.barren
        self.left_out.update(later.left_out)
        self.forms.update(later.forms)
        self.files += later.files


def documents(source: Source, forms: Forms, ledger: Ledger, on_bytes: OnBytes) -> Iterator[Document]:
    """Yield the documents of a source; `ledger` is filled on the way, `on_bytes` hears how many bytes were read.

    Raises InputError for damaged files, for --strict, and when no record has the wanted fields.
    """
    for file in source.files:
        for document in section_documents(whole(file, source), forms, ledger, on_bytes):
            if document is not None:
                yield document
            elif ledger.is_hopeless:
                refuse_useless(source, forms, ledger)
    refuse_useless(source, forms, ledger)


def refuse_useless(source: Source, forms: Forms, ledger: Ledger) -> None:
    """Raise InputError where records lacked the wanted field and the source gave no document before them."""
    if ledger.lacking is not None and (ledger.is_hopeless or not ledger.forms):
        raise InputError(
            f"no record of {source.argument} can be used ({ledger.lacking.reason})",
            expected=forms.wanted,
            found=f"fields {', '.join(map(str, ledger.lacking.fields or ['none']))}",
            remedy="name the field with --text-field, or --prompt-field and --completion-field",
        )


def section_documents(section: Section, forms: Forms, ledger: Ledger, on_bytes: OnBytes) -> Iterator[Document | None]:
    """Yield the documents of a file, or of a part of one, and None for each record that was left out.

    Raises InputError for a damaged file and for --strict.
    """
    for document in _section_documents(section, forms, ledger, on_bytes):
        if document is not None:
            ledger.forms[document.form] += 1
        yield document


def _section_documents(section: Section, forms: Forms, ledger: Ledger, on_bytes: OnBytes) -> Iterator[Document | None]:
    file, name = section.file, section.name
    skip = partial(ledger.skip, name)
    story: dict[str, Any] = {"path": name} if section.story is None else section.story
    if section.is_start:
        ledger.files.append(story)
    if section.part is not None:
        story = {}  # told by whoever cut the file
    if section.container is parquet_rows or (file is not None and section.part is None and is_parquet(file)):
        assert file is not None
        if section.part is None:
            with open_stream(file, lambda _: None, story):
                pass  # for its size and hash
        yield from _of_records(parquet_rows(file, forms.columns, section.part), forms, name, ledger)
        on_bytes(section.bytes)
        return
    with open_stream(file, on_bytes, story, section.in_sight) as stream:
        container = section.container or container_of(file, stream)
        if container is None:
            skip(BINARY, "from its beginning")
        elif container is text_documents:
            if not forms.chat_only:
                yield from _of_text(stream, skip, section)
            elif section.from_folder:
                if section.is_start:
                    skip(NO_CHAT, "from its beginning")
            else:
                raise InputError(f"{name} is plain text, which holds no chat", remedy="leave --chat out")
        else:
            yield from _of_records(container(stream, skip), forms, name, ledger)


def _of_text(stream: BufferedReader, skip: Callable[[str, str], None], section: Section) -> Iterator[Document]:
    def invalid(line: int) -> None:
        skip(INVALID_UTF8, f"line {line}")

    length = None if section.part is None else section.bytes
    for text in text_documents(stream, invalid, from_start=section.is_start, length=length):
        yield Document("text", (text,), (), text)


def _of_records(
    records: Iterator[tuple[str, Any]], forms: Forms, name: str, ledger: Ledger
) -> Iterator[Document | None]:
    for place, record in records:
        if passed_over(record):
            continue
        try:
            document = forms.document(record)
            document.key.encode()
        except UnusableError as error:
            ledger.skip_unusable(name, error, place)
            yield None
        except UnicodeEncodeError:
            ledger.skip(name, LONE_SURROGATE, place)
        else:
            for reason in document.skipped:
                ledger.skip(name, reason, place)
            yield document
