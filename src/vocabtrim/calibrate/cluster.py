"""count on Ray Data: the same documents and the same counts, on as many machines as a Ray cluster has.

The corpus goes to Ray as a list of pieces: files, or parts of files where those are large. A task counts one piece
with the code of the local engine and returns its vectors, once, at its end: what a killed worker had counted is gone
with it, Ray runs the piece again elsewhere, and nothing is counted twice. There are never more than some 2000 pieces,
so what comes back does not grow with the corpus; the driver adds it up as it comes.

Ray's own readers are not used: they stop at a malformed line, and know nothing of documents. What they share with us
are pyarrow's filesystems, by which both reach object stores (stores.py).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from ..errors import InputError
from .cluster_worker import Job, Piece
from .corpus import Ledger, refuse_useless
from .encoder import FAST
from .forms import Forms
from .ray_data import on_ray, running_ray
from .sections import Section, whole
from .sources import Source
from .tally import Counted, Tallies
from .tokenizer import OpenTokenizer, tokenizer_files

_PIECE = 32 << 20  # bytes: some seconds of work, beside which what a task costs is small
_PIECES = 2000  # of a corpus too large for pieces of that size

OnCounted = Callable[[int, int], None]  # bytes, tokens


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
    named = (forms.text_field, forms.prompt_field, forms.completion_field, forms.chat_only)
    asked = Job(tokenizer_files(opened), str(opened.folder), named, forms.label_field, split_by, heldout, strict)
    job = pickle.dumps(asked)
    together = [Counted(Tallies(opened.facts.vocab_size, split_by), Ledger(strict), FAST, "") for _ in sources]
    with running_ray(address, workers):
        pieces = _pieces(sources, job, workers, strict=strict)
        waiting: dict[int, Ledger] = {}
        next_number = 0
        for number, part in on_ray("count_piece", pieces, job, workers):
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


def _pieces(sources: Sequence[Source], job: bytes, workers: int | None, *, strict: bool) -> list[Piece]:
    """The corpus as pieces of about equal size, in order; large files are cut, by tasks, neighbouring ones together."""
    size = max(_PIECE, sum(source.known_bytes for source in sources) // _PIECES)
    files = [[[_absolute(whole(file, source))] for file in source.files] for source in sources]
    # Places are told by lines and rows from the beginning of a file, which --strict promises: then no file is cut.
    large = [] if strict else [parts for source in files for parts in source if parts[0].bytes > size]
    for number, parts in on_ray("cut_file", [(parts[0], size) for parts in large], job, workers):
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
    together = 0
    for section in sections:
        group.append(section)
        together += section.bytes
        if together >= size:
            yield group
            group, together = [], 0
    if group:
        yield group
