"""count: calibration text in, token counts out.

Reads documents in one thread and tokenises batches of them in others; tiktoken and `tokenizers` both work outside
Python's lock. Or leaves both to Ray (cluster.py). Knows how the parts go together; how text is read, what the target
writes of it and how it is tokenised stands in the files beside this one.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..provenance import birth_certificate
from .chat import ChatTemplate
from .corpus import Ledger, documents
from .counts import RAW, Counts, TokenCounts
from .encoder import Encoder
from .forms import Forms
from .sources import Source, find_sources
from .split import LANGUAGE, OTHER, labeller
from .tally import Batch, Counted, Tallies, batches, checked, cores, count_batch
from .tokenizer import OpenTokenizer, open_tokenizer

LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)

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
    engine: str = LOCAL,
    ray_address: str | None = None,
    on_progress: OnProgress | None = None,
) -> TokenCounts:
    """Count the tokens that the target writes, or would write, in calibration text.

    sources: files (text, JSON lines, JSON, Parquet; compressed or not), folders, globs, URIs of object stores
        (s3://bucket/folder), "-" for standard input; each may begin with its origin, as in
        "target-generated:answers.jsonl".
    tokenizer: the target's: folder, tokenizer.json or hub id.
    text_field, prompt_field, completion_field: the fields of records to look at; without them chats, prompt and
        completion, and text are recognised record by record.
    chat: take chats only; plain text is refused, other records are skipped.
    origin: who wrote the sources that do not say: "raw", "target-generated" or "drafter-generated".
    heldout: the share of documents, between 0 and 1, counted apart to measure coverage on; which ones is decided by a
        hash of their content, so that the same text is always on the same side.
    split_by: a field of the records, or "language": every source becomes one source per value.
    workers: threads that tokenise, or tasks at once on Ray; default: one per core.
    strict: stop at the first thing that cannot be read instead of skipping it.
    engine: "local", or "ray" for the same counting on Ray Data, on as many machines as its cluster has.
    ray_address: the cluster's; default: the variable RAY_ADDRESS, else a Ray of this machine's own, stopped at the end.
    on_progress: hears of the progress about ten times a second; on Ray after each part that was counted.

    Raises InputError for bad arguments, unreadable sources, and when no token was counted.
    """
    _check_fields(text_field, prompt_field, completion_field, chat)
    _check_numbers(heldout, workers)
    _check_engine(engine, ray_address)
    found = find_sources(sources, origin)
    opened = open_tokenizer(tokenizer)
    label_field = None if split_by == LANGUAGE else split_by
    forms = Forms(ChatTemplate(opened), text_field, prompt_field, completion_field, chat, opened.facts, label_field)
    meter = _Meter(sum(source.known_bytes for source in found), on_progress)
    if split_by is not None:
        labeller(split_by)  # or why there is none, before anything is read
    if engine == RAY:
        from .cluster import count_on_ray

        counted: Iterable[Counted] = count_on_ray(
            found,
            opened,
            forms,
            heldout=heldout,
            split_by=split_by,
            strict=strict,
            workers=workers,
            address=ray_address,
            meter=meter.add,
        )
    else:
        counted = _count_here(
            found, opened, forms, heldout=heldout, split_by=split_by, strict=strict, workers=workers, meter=meter
        )

    tallied = [
        one
        for source, part in zip(found, counted, strict=True)
        for one in part.tallies.sources(source, part, alone=len(found) == 1)
    ]
    if label_field is not None and all(source.details.get("label") == OTHER for source in tallied):
        raise InputError(
            f"no record has the field {label_field}",
            expected="a field of the record itself, with its kind",
            remedy="correct --split-by; what lies deeper in a record must be taken out first",
        )
    counts = TokenCounts(
        tokenizer=opened.facts,
        sources=tuple(tallied),
        documents=sum(source.details["documents"] for source in tallied),
        skipped=dict(sum((Counter(source.details["skipped"]) for source in tallied), Counter())),
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
                "engine": engine,
            },
            {"tokenizer": opened.facts.hash}
            | {file["path"]: file["sha256"] for source in tallied for file in source.details["files"]},
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


def _check_engine(engine: str, ray_address: str | None) -> None:
    if engine not in ENGINES:
        raise InputError("unknown engine", expected=" or ".join(ENGINES), found=repr(engine), remedy="correct --engine")
    if ray_address is not None and engine != RAY:
        raise InputError("a Ray address for another engine", found=f"--engine {engine}", remedy="add --engine ray")


@dataclass
class _Meter:
    """Adds up what was read and counted, and tells it now and then."""

    bytes_known: int
    on_progress: OnProgress | None
    bytes_read: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    told: float = 0.0

    def add(self, n_bytes: int, tokens: int) -> None:
        self.tokens += tokens
        self.read(n_bytes)

    def read(self, n_bytes: int) -> None:
        self.bytes_read += n_bytes
        now = time.monotonic()
        if self.on_progress is not None and now - self.told > 0.1:
            self.told = now
            self.on_progress(Progress(self.bytes_read, self.bytes_known, self.tokens, now - self.started))


def _count_here(
    sources: Sequence[Source],
    opened: OpenTokenizer,
    forms: Forms,
    *,
    heldout: float,
    split_by: str | None,
    strict: bool,
    workers: int | None,
    meter: _Meter,
) -> Iterator[Counted]:
    """One source after the other: read in this thread, tokenised in others."""
    encoder, label = Encoder(opened), None if split_by is None else labeller(split_by)
    workers = workers or cores()
    with ThreadPoolExecutor(workers) as pool:
        for source in sources:
            ledger = Ledger(strict, several=len(source.files) > 1)
            found = batches(checked(documents(source, forms, ledger, meter.read), encoder), heldout, label)
            tallies = Tallies(opened.facts.vocab_size, split_by)
            _tally_batches(found, encoder, pool, tallies, meter, ahead=2 * workers)
            yield Counted(tallies, ledger, encoder.way, encoder.why)


def _tally_batches(
    found: Iterator[Batch], encoder: Encoder, pool: ThreadPoolExecutor, tallies: Tallies, meter: _Meter, *, ahead: int
) -> None:
    """Keep `ahead` batches waiting for the pool, never more: memory stays constant however long the corpus is."""
    pending: deque[Future[tuple[Batch, Counts]]] = deque()

    def absorb() -> None:
        batch, counts = pending.popleft().result()
        tallies.add(batch, counts)
        meter.tokens += int(counts.sum())

    for batch in found:
        pending.append(pool.submit(count_batch, batch, encoder))
        if len(pending) > ahead:
            absorb()
    while pending:
        absorb()


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
