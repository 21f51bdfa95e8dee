"""count: calibration text in, token counts out.

Reads documents in one thread, decides for each whether it is calibration or held-out, and tokenises batches of them
in others; tiktoken and `tokenizers` both work outside Python's lock. Knows how the parts go together; how text is
read, what the target writes of it and how it is tokenised stands in the files beside this one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..provenance import birth_certificate
from .chat import ChatTemplate
from .corpus import Ledger, documents
from .counts import RAW, Counts, SourceCounts, TokenCounts
from .encoder import Encoder
from .forms import Document, Forms
from .sources import Source, find_sources
from .tokenizer import open_tokenizer

# Characters tokenised in one call: long enough that a thread rarely comes back for Python's lock (about 60 ms of
# work), short enough that what waits for its turn stays small.
_BATCH = 1 << 20
_SAMPLE = 100_000  # characters of each source that are tokenised both ways before the fast one is trusted

OnProgress = Callable[["Progress"], None]


@dataclass(frozen=True)
class Progress:
    """How far a count is: bytes read as stored, of how many known ones, tokens counted, seconds since the start."""

    bytes_read: int
    bytes_known: int
    tokens: int
    seconds: float


def count(
    sources: Sequence[str | Path],
    *,
    tokenizer: str | Path,
    text_field: str | None = None,
    prompt_field: str | None = None,
    completion_field: str | None = None,
    chat: bool = False,
    origin: str = RAW,
    heldout: float = 0.1,
    workers: int | None = None,
    strict: bool = False,
    on_progress: OnProgress | None = None,
) -> TokenCounts:
    """Count the tokens that the target writes, or would write, in calibration text.

    sources: files (text, JSON lines, JSON, Parquet; compressed or not), folders, globs, "-" for standard input; each
        may begin with its origin, as in "target-generated:answers.jsonl".
    tokenizer: the target's: folder, tokenizer.json or hub id.
    text_field, prompt_field, completion_field: the fields of records to look at; without them chats, prompt and
        completion, and text are recognised record by record.
    chat: take chats only; plain text is refused, other records are skipped.
    origin: who wrote the sources that do not say: "raw", "target-generated" or "drafter-generated".
    heldout: the share of documents, between 0 and 1, counted apart to measure coverage on; which ones is decided by a
        hash of their content, so that the same text is always on the same side.
    workers: threads that tokenise; default: one per core.
    strict: stop at the first thing that cannot be read instead of skipping it.
    on_progress: hears of the progress about ten times a second.

    Raises InputError for bad arguments, unreadable sources, and when no token was counted.
    """
    _check_fields(text_field, prompt_field, completion_field, chat)
    _check_numbers(heldout, workers)
    found = find_sources(sources, origin)
    opened = open_tokenizer(tokenizer)
    forms = Forms(ChatTemplate(opened), text_field, prompt_field, completion_field, chat, opened.facts)
    meter = _Meter(sum(source.known_bytes for source in found), on_progress)
    encoder = Encoder(opened)

    tallies = []
    workers = workers or _cores()
    with ThreadPoolExecutor(workers) as pool:
        for source in found:
            ledger = Ledger(strict)
            batches = _batches(_checked(documents(source, forms, ledger, meter.read), encoder), heldout)
            tally = _Tally(np.zeros(opened.facts.vocab_size, np.int64), np.zeros(opened.facts.vocab_size, np.int64))
            _count_batches(batches, encoder, pool, tally, meter, ahead=2 * workers)
            tallies.append(_source_counts(source, tally, ledger, encoder))

    counts = TokenCounts(
        tokenizer=opened.facts,
        sources=tuple(tallies),
        documents=sum(source.details["documents"] for source in tallies),
        skipped=dict(sum((Counter(source.details["skipped"]) for source in tallies), Counter())),
        provenance=birth_certificate(
            {
                "sources": [source.argument for source in found],
                "tokenizer": str(tokenizer),
                "text_field": text_field,
                "prompt_field": prompt_field,
                "completion_field": completion_field,
                "chat": chat,
                "heldout": heldout,
                "strict": strict,
            },
            {"tokenizer": opened.facts.hash}
            | {file["path"]: file["sha256"] for source in tallies for file in source.details["files"]},
        ),
    )
    _prove_counted(counts)
    return counts


def is_held_out(key: str, share: float) -> bool:
    """Whether a document with this key is held out, where `share` of all documents are."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < round(share * 2**64)


def _check_fields(text_field: str | None, prompt_field: str | None, completion_field: str | None, chat: bool) -> None:
    if prompt_field and not completion_field:
        raise InputError("a prompt field without a completion field", remedy="name it with --completion-field")
    asked = {"--text-field": text_field, "--completion-field": completion_field, "--chat": chat}
    if len(named := [option for option, value in asked.items() if value]) > 1:
        raise InputError("more than one form of record is asked for", found=" and ".join(named), remedy="give one")


def _check_numbers(heldout: float, workers: int | None) -> None:
    if not 0 <= heldout < 1:
        raise InputError(
            "held-out share is out of range", expected="0 to below 1", found=heldout, remedy="--heldout 0.1"
        )
    if workers is not None and workers < 1:
        raise InputError("number of workers is out of range", expected="1 or more", found=workers, remedy="--workers 1")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Meter:
    """Adds up what was read and counted, and tells it now and then."""

    bytes_known: int
    on_progress: OnProgress | None
    bytes_read: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    told: float = 0.0

    def read(self, n_bytes: int) -> None:
        self.bytes_read += n_bytes
        now = time.monotonic()
        if self.on_progress is not None and now - self.told > 0.1:
            self.told = now
            self.on_progress(Progress(self.bytes_read, self.bytes_known, self.tokens, now - self.started))


@dataclass
class _Batch:
    """Documents to tokenise in one go: calibration and held-out texts, and the stop tokens behind them."""

    texts: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    stops: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    documents: list[int] = field(default_factory=lambda: [0, 0])
    characters: int = 0


@dataclass
class _Tally:
    """The counts of one source as they grow; index 0 is calibration, 1 is held-out."""

    counts: Counts
    heldout: Counts
    documents: list[int] = field(default_factory=lambda: [0, 0])


def _checked(found: Iterator[Document], encoder: Encoder) -> Iterable[Document]:
    """The same documents, after the encoder was checked on the first of them."""
    sample, size = [], 0
    for document in found:
        sample.append(document)
        size += sum(map(len, document.texts))
        if size >= _SAMPLE:
            break
    encoder.check([text for document in sample for text in document.texts])
    return chain(sample, found)


def _batches(found: Iterable[Document], heldout: float) -> Iterator[_Batch]:
    batch = _Batch()
    for document in found:
        side = int(is_held_out(document.key, heldout))
        batch.texts[side].extend(document.texts)
        batch.stops[side].extend(document.stops)
        batch.documents[side] += 1
        batch.characters += sum(map(len, document.texts)) + len(document.stops)
        if batch.characters >= _BATCH:
            yield batch
            batch = _Batch()
    yield batch


def _count_batches(
    batches: Iterator[_Batch], encoder: Encoder, pool: ThreadPoolExecutor, tally: _Tally, meter: _Meter, *, ahead: int
) -> None:
    """Keep `ahead` batches waiting for the pool, never more: memory stays constant however long the corpus is."""
    pending: deque[Future[tuple[_Batch, Counts, Counts]]] = deque()

    def absorb() -> None:
        batch, counts, heldout = pending.popleft().result()
        tally.counts += counts
        tally.heldout += heldout
        tally.documents = [before + more for before, more in zip(tally.documents, batch.documents, strict=True)]
        meter.tokens += int(counts.sum() + heldout.sum())

    for batch in batches:
        pending.append(pool.submit(_count_batch, batch, encoder))
        if len(pending) > ahead:
            absorb()
    while pending:
        absorb()


def _count_batch(batch: _Batch, encoder: Encoder) -> tuple[_Batch, Counts, Counts]:
    calibration, heldout = (encoder.count(texts) for texts in batch.texts)
    for counts, stops in zip((calibration, heldout), batch.stops, strict=True):
        np.add.at(counts, np.asarray(stops, np.int64), 1)
    return batch, calibration, heldout


def _source_counts(source: Source, tally: _Tally, ledger: Ledger, encoder: Encoder) -> SourceCounts:
    details: dict[str, Any] = {
        "argument": source.argument,
        "files": ledger.files,
        "documents": sum(tally.documents),
        "heldout_documents": tally.documents[1],
        "forms": dict(ledger.forms),
        "skipped": dict(ledger.skipped),
        "encoder": encoder.way,
        "encoder_why": encoder.why,
    }
    return SourceCounts(source.name, source.origin, tally.counts, tally.heldout, details)


def _prove_counted(counts: TokenCounts) -> None:
    skipped = ", ".join(f"{number} times {reason}" for reason, number in counts.skipped.items())
    if counts.tokens == 0:
        raise InputError(
            "no token was counted",
            expected="text that the target writes",
            found=f"nothing but skipped: {skipped}" if skipped else "empty sources",
            remedy="check the sources and the fields asked for",
        )
    if not counts.counts.any():
        raise InputError(
            "every document fell into the held-out part",
            found=f"{counts.documents} documents",
            remedy="count more text, or all of it for calibration with --heldout 0",
        )
