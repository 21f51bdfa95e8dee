"""What a Ray worker does: counts one piece of the corpus, or finds the places to cut a large file.

Knows one piece and the tokenizer, which came with the job; knows nothing of Ray. Runs the code of the local engine.
"""

from __future__ import annotations

import os
import pickle
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import InputError, VocabTrimError
from .chat import ChatTemplate
from .corpus import Ledger, section_documents
from .encoder import Encoder
from .forms import Forms
from .sections import Section, cut
from .split import labeller
from .tally import Counted, Tallies, batches, checked, count_batch
from .tokenizer import OpenTokenizer, open_tokenizer


@dataclass(frozen=True)
class Job:
    """All that a worker must know, the same for every piece.

    tokenizer: its files' bytes by name, so that no worker needs the path. folder: where the driver has it.
    forms: (text_field, prompt_field, completion_field, chat_only), and label_field. split_by: as `count` takes it.
    """

    tokenizer: dict[str, bytes]
    folder: str
    forms: tuple[str | None, str | None, str | None, bool]
    label_field: str | None
    split_by: str | None
    heldout: float
    strict: bool


@dataclass(frozen=True)
class Piece:
    """What one task counts: neighbouring files of one source, or a part of one.

    source: the position of its source. several: that is of several files.
    """

    source: int
    sections: tuple[Section, ...]
    several: bool

    @property
    def bytes(self) -> int:
        """Bytes as stored."""
        return sum(section.bytes for section in self.sections)


class Worker:
    """What a worker process keeps from one piece to the next."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = Path(tempfile.gettempdir()) / f"vocabtrim-{os.getpid()}-{secrets.token_hex(4)}"

    @contextmanager
    def unpacked(self) -> Iterator[None]:
        """The tokenizer's files in a folder while a task runs; no longer, because Ray ends its workers by a signal."""
        self.folder.mkdir(mode=0o700)
        try:
            for name, content in self.job.tokenizer.items():
                file = self.folder / name
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(content)
            yield
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @cached_property
    def opened(self) -> OpenTokenizer:
        return open_tokenizer(self.folder)

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.opened)

    @cached_property
    def forms(self) -> Forms:
        return Forms(ChatTemplate(self.opened), *self.job.forms, self.opened.facts, self.job.label_field)


@lru_cache(maxsize=1)
def _kept_worker(job: bytes) -> Worker:
    return Worker(pickle.loads(job))


def cut_file(worker: Worker, asked: tuple[Section, int]) -> list[Section]:
    """A large file as sections of about so many bytes."""
    return cut(*asked)


def count_piece(worker: Worker, piece: Piece) -> Counted:
    """Count one piece, in this thread: a task has one core."""
    job, encoder = worker.job, worker.encoder
    ledger, tallies = Ledger(job.strict, piece.several), Tallies(worker.opened.facts.vocab_size, job.split_by)
    label = None if job.split_by is None else labeller(job.split_by)
    read = (section_documents(section, worker.forms, ledger, lambda _: None) for section in piece.sections)
    found = (document for document in chain.from_iterable(read) if document is not None)
    for batch in batches(checked(found, encoder), job.heldout, label):
        tallies.add(*count_batch(batch, encoder))
    return Counted(tallies, ledger, encoder.way, encoder.why)


def work(task: Callable[[Worker, Any], Any], job: bytes, asked: Any) -> Any:
    """The task's result, or the error of a known kind that it ended in: Ray would bury that in its own."""
    worker = _kept_worker(job)
    try:
        with worker.unpacked():
            return task(worker, asked)
    except VocabTrimError as error:
        return error.replaced(str(worker.folder), worker.job.folder)
    except OSError as error:
        return InputError(
            f"a Ray worker on {socket.gethostname()} cannot read {error.filename or 'the calibration text'}",
            found=error.strerror or error,
            remedy="put it where every worker finds it under the same path: a shared folder or an object store",
        )
