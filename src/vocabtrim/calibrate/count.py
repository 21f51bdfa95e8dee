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

import numpy as np

from ..errors import InputError
from ..provenance import birth_certificate
from .blocks import block_of
from .chat import ChatTemplate
from .corpus import Ledger, documents
from .counts import RAW, Counts, SourceCounts, TokenCounts
from .encoder import Encoder
from .forms import Document, Forms
from .sources import find_sources
from .split import LANGUAGE, OTHER, Labeller, labeller
from .tally import Batch, Tallies
from .tokenizer import open_tokenizer

# Characters tokenised in one call: long enough that a thread rarely comes back for Python's lock (about 60 ms of
# work), short enough that what waits for its turn stays small.
_BATCH = 1 << 20
_HELD_OUT_BATCH = 1 << 16  # the same for a block of held-out documents, of which there are many at a time
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
    split_by: str | None = None,
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
    split_by: a field of the records, or "language": every source becomes one source per value.
    workers: threads that tokenise; default: one per core.
    strict: stop at the first thing that cannot be read instead of skipping it.
    on_progress: hears of the progress about ten times a second.

    Raises InputError for bad arguments, unreadable sources, and when no token was counted.
    """
    _check_fields(text_field, prompt_field, completion_field, chat)
    _check_numbers(heldout, workers)
    found = find_sources(sources, origin)
    opened = open_tokenizer(tokenizer)
    label = None if split_by is None else labeller(split_by)
    label_field = None if split_by == LANGUAGE else split_by
    forms = Forms(ChatTemplate(opened), text_field, prompt_field, completion_field, chat, label_field)
    meter = _Meter(sum(source.known_bytes for source in found), on_progress)
    encoder = Encoder(opened)

    counted: list[SourceCounts] = []
    workers = workers or _cores()
    with ThreadPoolExecutor(workers) as pool:
        for source in found:
            ledger = Ledger(strict)
            batches = _batches(_checked(documents(source, forms, ledger, meter.read), encoder), heldout, label)
            tallies = Tallies(opened.facts.vocab_size, split_by)
            _count_batches(batches, encoder, pool, tallies, meter, ahead=2 * workers)
            counted += tallies.sources(source, ledger, encoder, alone=len(found) == 1)
    if label_field is not None and all(source.details.get("label") == OTHER for source in counted):
        raise InputError(
            f"no record has the field {label_field}", expected="a field with the kind of a record", remedy="--split-by"
        )

    counts = TokenCounts(
        tokenizer=opened.facts,
        sources=tuple(counted),
        documents=sum(source.details["documents"] for source in counted),
        skipped=dict(sum((Counter(source.details["skipped"]) for source in counted), Counter())),
        provenance=birth_certificate(
            {
                "sources": [source.argument for source in found],
                "tokenizer": str(tokenizer),
                "text_field": text_field,
                "prompt_field": prompt_field,
                "completion_field": completion_field,
                "chat": chat,
                "heldout": heldout,
                "split_by": split_by,
                "strict": strict,
            },
            {"tokenizer": opened.facts.hash}
            | {file["path"]: file["sha256"] for source in counted for file in source.details["files"]},
        ),
    )
    _prove_counted(counts)
    return counts


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


def _batches(found: Iterable[Document], heldout: float, label: Labeller | None) -> Iterator[Batch]:
    """Documents gathered by label and side until there are enough for a batch."""
    threshold = round(heldout * 2**64)
    growing: dict[tuple[str | None, int | None], Batch] = {}
    for document in found:
        digest = int.from_bytes(hashlib.blake2b(document.key.encode(), digest_size=8).digest(), "big")
        key = None if label is None else label(document), block_of(digest) if digest < threshold else None
        batch = growing.setdefault(key, Batch(*key))
        batch.texts.extend(document.texts)
        batch.stops.extend(document.stops)
        batch.documents += 1
        batch.characters += sum(map(len, document.texts))
        if batch.characters >= (_BATCH if batch.block is None else _HELD_OUT_BATCH):
            yield growing.pop(key)
    yield from growing.values()


def _count_batches(
    batches: Iterator[Batch],
    encoder: Encoder,
    pool: ThreadPoolExecutor,
    tallies: Tallies,
    meter: _Meter,
    *,
    ahead: int,
) -> None:
    """Keep `ahead` batches waiting for the pool, never more: memory stays constant however long the corpus is."""
    pending: deque[Future[tuple[Batch, Counts]]] = deque()

    def absorb() -> None:
        batch, counts = pending.popleft().result()
        tallies.add(batch, counts)
        meter.tokens += int(counts.sum())

    for batch in batches:
        pending.append(pool.submit(_count_batch, batch, encoder))
        if len(pending) > ahead:
            absorb()
    while pending:
        absorb()


def _count_batch(batch: Batch, encoder: Encoder) -> tuple[Batch, Counts]:
    counts = encoder.count(batch.texts)
    np.add.at(counts, np.asarray(batch.stops, np.int64), 1)
    return batch, counts


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
