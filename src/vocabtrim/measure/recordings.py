"""Recordings of every form as one stream of generations, all of one tokenizer.

Knows which file is what, and that ids of different tokenizers must not be mixed; knows nothing of drafters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ..calibrate.tokenizer import OpenTokenizer
from ..errors import InputError, MismatchError
from .foreign_recordings import ForeignRecordings
from .recording import RECORDING, Recorded, Recording


class Recordings:
    """What several arguments name: our recording folders (or their `recording.jsonl`), ZeroEval results, chats.

    opened: the target's tokenizer; None where there is none, and then only our own can be read.
    group_by: the field that holds the category, `category` where None; where it is given and no record has it, that is
    an error. limit: of each recording so many generations, all where None. keep_loops: see `ForeignRecordings`.
    Opening raises InputError for what is not there or cannot be read without a tokenizer, MismatchError for recordings
    of different tokenizers. Iterating raises what the readers raise.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        opened: OpenTokenizer | None,
        *,
        group_by: str | None = None,
        limit: int | None = None,
        keep_loops: bool = False,
    ) -> None:
        if not paths:
            raise InputError("no recording to replay", expected="at least one RECORDED", remedy="name a recording")
        self.tokenizer_hash = None if opened is None else opened.facts.hash
        self._tokenizer_of = "the tokenizer that was given"
        self._limit, self._told, self._field = limit, group_by is not None, group_by or "category"
        self._foreign = (
            None if opened is None else ForeignRecordings(opened, group_by=self._field, keep_loops=keep_loops)
        )
        self._states: tuple[int, ...] = ()
        self._sources: dict[str, Recording | Path] = {}
        for path in map(Path, paths):
            self._sources[path.name if path.name not in self._sources else str(path)] = self._open(path)

    @property
    def skipped(self) -> Counter[str]:
        """What was left out of other people's recordings so far, by its reason."""
        return Counter() if self._foreign is None else self._foreign.skipped

    def want(self, states: Sequence[int]) -> None:
        """Read these hidden states of the target too. Raises InputError for a recording without them."""
        for source in self._sources.values():
            if isinstance(source, Recording):
                source.prove_states(states)
            elif states:
                raise InputError(
                    f"{source} holds no hidden states, and the drafter reads the target's",
                    remedy="record with `vocabtrim bench --record`, or replay a drafter that reads none",
                )
        self._states = tuple(states)

    def __iter__(self) -> Iterator[Recorded]:
        grouped = False
        for name, source in self._sources.items():
            for recorded in islice(self._read(source), self._limit):
                grouped = grouped or recorded.category != ""
                yield replace(recorded, source=name)
        if self._told and not grouped:
            raise InputError(f"no generation has a field {self._field}", remedy="leave --by out, or name another")

    def _read(self, source: Recording | Path) -> Iterator[Recorded]:
        if isinstance(source, Recording):
            return source.generations(self._states, self._field)
        assert self._foreign is not None
        return self._foreign.read(source)

    def _open(self, path: Path) -> Recording | Path:
        folder = path.parent if path.name == RECORDING else path
        if (folder / RECORDING).is_file():
            recording = Recording(folder)
            self._prove_tokenizer(recording)
            return recording
        if not path.is_file():
            raise InputError(
                f"no recording at {path}",
                expected=f"a folder with {RECORDING}, a ZeroEval result, or chats as JSON lines",
                found="a folder without it" if path.is_dir() else "nothing",
                remedy="check the path",
            )
        if self._foreign is None:
            raise InputError(f"{path} holds text, which takes a tokenizer", remedy="pass the target's --tokenizer")
        return path

    def _prove_tokenizer(self, recording: Recording) -> None:
        found = recording.header.tokenizer_hash
        if self.tokenizer_hash is None:
            self.tokenizer_hash, self._tokenizer_of = found, str(recording.folder)
        elif found is not None and found != self.tokenizer_hash:
            raise MismatchError(
                f"{recording.folder} was recorded with another tokenizer than {self._tokenizer_of}",
                expected=f"tokenizer {self.tokenizer_hash[:12]}",
                found=found[:12],
                remedy="replay recordings of one target at a time, with its own tokenizer",
            )
