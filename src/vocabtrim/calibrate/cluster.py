"""count on Ray Data: the same documents and the same counts, on as many machines as a Ray cluster has.

The corpus goes to Ray as a list of pieces: files, or parts of files where those are large. A task counts one piece
with the code of the local engine and returns its vectors, once, at its end: what a killed worker had counted is gone
with it, Ray runs the piece again elsewhere, and nothing is counted twice. There are never more than some 2000 pieces,
so what comes back does not grow with the corpus; the driver adds it up as it comes.

Ray's own readers are not used: they stop at a malformed line, and know nothing of documents. What they share with us
are pyarrow's filesystems, by which both reach object stores (stores.py).
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import InputError, VocabTrimError
from .chat import ChatTemplate
from .corpus import Ledger, refuse_useless, section_documents
from .encoder import FAST, Encoder
from .forms import Forms
from .sections import Section, cut, whole
from .sources import Source
from .split import labeller
from .tally import Counted, Tallies, batches, checked, cores, count_batch
from .tokenizer import OpenTokenizer, open_tokenizer, tokenizer_files

_PIECE = 32 << 20  # bytes: some seconds of work, beside which what a task costs is small
_PIECES = 2000  # of a corpus too large for pieces of that size
_RETRIES = 5  # of a piece whose worker died; a piece that kills each worker must not be tried for ever

OnCounted = Callable[[int, int], None]  # bytes, tokens


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


def count_on_ray(
    sources: Sequence[Source],
    opened: OpenTokenizer,
    forms: Forms,
    *,
    heldout: float,
    split_by: str | None,
    strict: bool,
    workers: int | None,
    address: str | None,
    meter: OnCounted,
) -> list[Counted]:
    """Each source, counted on Ray. Raises InputError for what the local engine refuses, and for workers that cannot.

    workers: tasks at once; default: one per core of the cluster. address: as ray.init takes it; default: RAY_ADDRESS,
    else a Ray of this machine's own that ends with the call. A Ray that the caller has begun is used and left alone.
    meter: hears of each piece that was counted.
    """
    for source in sources:
        if any(file is None or not file.is_file() for file in source.files):
            raise InputError(
                f"{source.argument} cannot be read on Ray",
                expected="files that every worker can open",
                found="standard input or a pipe",
                remedy="write it to a file, or count it with --engine local",
            )
    job = Job(
        tokenizer_files(opened),
        str(opened.folder),
        (forms.text_field, forms.prompt_field, forms.completion_field, forms.chat_only),
        forms.label_field,
        split_by,
        heldout,
        strict,
    )
    together = [Counted(Tallies(opened.facts.vocab_size, split_by), Ledger(strict), FAST, "") for _ in sources]
    with _ray(address, workers):
        pieces = _pieces(sources, job, workers)
        waiting: dict[int, Ledger] = {}
        next_number = 0
        for number, part in _on_ray(count_piece, pieces, job, workers):
            if number < next_number or number in waiting:
                raise RuntimeError(f"Ray gave piece {number} of the corpus twice")
            counted = together[pieces[number].source]
            counted.tallies.merge(part.tallies)
            if counted.way == FAST:
                counted.way, counted.why = part.way, part.why
            meter(pieces[number].bytes, part.tallies.tokens)
            waiting[number] = part.ledger
            while (ledger := waiting.pop(next_number, None)) is not None:  # in order, as if read in one go
                position = pieces[next_number].source
                so_far = together[position].ledger
                so_far.add(ledger)
                if so_far.is_hopeless:
                    refuse_useless(sources[position], forms, so_far)
                next_number += 1
        if next_number != len(pieces):
            raise RuntimeError(f"Ray gave {next_number + len(waiting)} of {len(pieces)} pieces of the corpus")
    for source, counted in zip(sources, together, strict=True):
        refuse_useless(source, forms, counted.ledger)
    return together


def _pieces(sources: Sequence[Source], job: Job, workers: int | None) -> list[Piece]:
    """The corpus as pieces of about equal size, in order; large files are cut, by tasks, neighbouring ones together."""
    size = max(_PIECE, sum(source.known_bytes for source in sources) // _PIECES)
    files = [[[_absolute(whole(file, source))] for file in source.files] for source in sources]
    # Places are told by lines and rows from the beginning of a file, which --strict promises: then no file is cut.
    large = [] if job.strict else [parts for source in files for parts in source if parts[0].bytes > size]
    for number, parts in _on_ray(cut_file, [(parts[0], size) for parts in large], job, workers):
        large[number][:] = parts
    pieces: list[Piece] = []
    for source, parts_of_files in enumerate(files):
        for sections in _neighbours(chain.from_iterable(parts_of_files), size):
            pieces.append(Piece(source, tuple(sections), several=len(parts_of_files) > 1))
    return pieces


def _absolute(section: Section) -> Section:
    return replace(section, file=section.file.absolute()) if isinstance(section.file, Path) else section


def _neighbours(sections: Iterable[Section], size: int) -> Iterator[list[Section]]:
    """Sections in their order, so many together that they reach `size`."""
    group: list[Section] = []
    for section in sections:
        group.append(section)
        if sum(section.bytes for section in group) >= size:
            yield group
            group = []
    if group:
        yield group


# What runs on the workers


class _Worker:
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
def _worker(job: bytes) -> _Worker:
    return _Worker(pickle.loads(job))


def cut_file(worker: _Worker, asked: tuple[Section, int]) -> list[Section]:
    """A large file as sections of about so many bytes."""
    return cut(*asked)


def count_piece(worker: _Worker, piece: Piece) -> Counted:
    """Count one piece, in this thread: a task has one core."""
    job, encoder = worker.job, worker.encoder
    ledger, tallies = Ledger(job.strict, piece.several), Tallies(worker.opened.facts.vocab_size, job.split_by)
    label = None if job.split_by is None else labeller(job.split_by)
    read = (section_documents(section, worker.forms, ledger, lambda _: None) for section in piece.sections)
    found = (document for document in chain.from_iterable(read) if document is not None)
    for batch in batches(checked(found, encoder), job.heldout, label):
        tallies.add(*count_batch(batch, encoder))
    return Counted(tallies, ledger, encoder.way, encoder.why)


def work(task: Callable[[_Worker, Any], Any], job: bytes, asked: Any) -> Any:
    """The task's result, or the error of a known kind that it ended in: Ray would bury that in its own."""
    worker = _worker(job)
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


# How it gets there


def _shipped(task: str, job: bytes, wanted: str) -> Callable[[Any], Any]:
    """The function that Ray runs on each row. It travels as code, and imports in front of the reader: a worker that
    lacks our package, or one that we need, must be able to say so."""

    def run(table: Any) -> Any:
        import os
        import pickle
        import socket
        from importlib import import_module
        from importlib.metadata import version

        import pyarrow

        result: tuple[str, Any, Any]

        os.environ.setdefault("RAYON_NUM_THREADS", "1")  # `tokenizers`: a task has one core
        try:
            found = version("vocabtrim")
            if found == wanted:
                cluster = import_module("vocabtrim.calibrate.cluster")
                asked = pickle.loads(table["asked"][0].as_py())
                result = ("done", cluster.work(getattr(cluster, task), job, asked), None)
            else:
                result = ("other", socket.gethostname(), found)
        except ImportError as error:
            result = ("lacks", socket.gethostname(), error.name or str(error))
        return pyarrow.table(
            {"number": table["number"], "result": pyarrow.array([pickle.dumps(result)], pyarrow.large_binary())}
        )

    return run


def _on_ray(
    task: Callable[[_Worker, Any], Any], asked: Sequence[Any], job: Job, workers: int | None
) -> Iterator[tuple[int, Any]]:
    """Yield (position, result) of the task on each thing asked, in the order in which they are done.

    Raises the InputError of a task, InputError for a worker without the packages, and for workers that keep dying.
    """
    if not asked:
        return
    import ray
    from ray.exceptions import RayError, RayTaskError

    wanted = version("vocabtrim")
    rows = [{"number": number, "asked": pickle.dumps(each)} for number, each in enumerate(asked)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")  # no other way to limit retries yet
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _shipped(task.__name__, pickle.dumps(job), wanted),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            concurrency=workers,
            max_retries=_RETRIES,
        )
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    try:
        for row in dataset.iter_rows():
            said, what, found = pickle.loads(row["result"])
            if said != "done":
                raise _refused(said, what, found, wanted)
            if isinstance(what, VocabTrimError):
                raise what
            yield row["number"], what
    except RayTaskError:  # a bug of ours, with the worker's traceback
        raise
    except RayError as error:
        raise InputError(
            "Ray could not finish a piece of the corpus",
            found=str(error).strip().partition("\n")[0],
            remedy="look whether its workers have enough memory, and at Ray's own logs",
        ) from error


def _refused(said: str, host: str, found: str, wanted: str) -> InputError:
    if said == "lacks":
        return InputError(
            f"a Ray worker on {host} lacks the package {found}",
            remedy=f"install it on every machine of the cluster: pip install 'vocabtrim[ray]=={wanted}'",
        )
    return InputError(
        f"a Ray worker on {host} has another version of vocabtrim",
        expected=wanted,
        found=found,
        remedy="install the same version on every machine of the cluster",
    )


@contextmanager
def _ray(address: str | None, workers: int | None) -> Iterator[None]:
    """A Ray to work on, quiet: what it says goes to stderr, and only errors."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError(
            "counting on Ray needs Ray Data", found=error, remedy="install it with: pip install 'vocabtrim[ray]'"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    ours = not ray.is_initialized()
    with redirect_stdout(sys.stderr):  # Ray tells the death of a worker on stdout, which is for results
        if ours:
            _start(ray, address, workers)
        try:
            yield
        finally:
            if ours:
                ray.shutdown()


def _start(ray: Any, address: str, workers: int | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == "local":
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
            ray.init("local", num_cpus=workers or cores(), include_dashboard=False, **quiet)
        else:
            _knock(address)
            ray.init(address, **quiet)
    except (OSError, ValueError, RuntimeError) as error:  # a ConnectionError is an OSError
        raise InputError(
            f"no Ray can be reached at {address}",
            found=str(error).strip().partition("\n")[0],
            remedy="correct --ray-address or RAY_ADDRESS, or leave both out for a Ray of this machine's own",
        ) from error


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at host:port: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
