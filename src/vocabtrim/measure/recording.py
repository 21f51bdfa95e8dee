"""What a target emitted, token by token, and a folder that holds such recordings: ours, exact and complete.

`recording.jsonl`: the first line says what was recorded, every other one is a generation; `states-<n>.safetensors`
holds the hidden states of generation n where they were asked for, and is written before its line, so that a line tells
that all of it is there. Appended as it goes: a recording that was cut off can go on, its cut last line is dropped.
Knows ids, states and files; knows nothing of models or drafters. Other people's recordings: `foreign_recordings.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ..decoding.sampling import Sampling
from ..decoding.stopping import Reason
from ..errors import InputError, MismatchError
from .growing_file import GrowingFile, cannot_go_on, refuse_other_folder, whole_lines

SCHEMA = 1
RECORDING = "recording.jsonl"


@dataclass(frozen=True, eq=False)
class Recorded:
    """One generation of a target.

    name: unique within its recording. category: a label of the prompt, empty for none. source: where it was read.
    prompt, output: ids; the output holds the stop id that ended it, where one did and was recorded.
    ended: why; None where nobody knows. max_new_tokens: the length limit; None where there was none, or nobody knows.
    hidden: (prompt + output - 1, states * hidden), of every token but the last as the target read them; None where they
    were not recorded or not asked for.
    """

    name: str
    prompt: tuple[int, ...]
    output: tuple[int, ...]
    category: str = ""
    source: str = ""
    ended: Reason | None = None
    max_new_tokens: int | None = None
    hidden: torch.Tensor | None = None


@dataclass(frozen=True)
class RecordingHeader:
    """What all generations of a recording share.

    target: its name. tokenizer_hash: `TokenizerFacts.hash`; None where it has no tokenizer. vocab: ids of the target.
    states: which hidden states stand side by side, counted as in `CausalLM.run`. certificate: how it was made.
    """

    target: str
    tokenizer_hash: str | None
    vocab: int
    sampling: Sampling
    states: tuple[int, ...] = ()
    certificate: Mapping[str, Any] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same where a recording is gone on with."""
        told = asdict(self)
        del told["certificate"]
        return told | {"states": list(self.states)}


class Recording:
    """A recording folder, its first line read. Iterating reads it again from the start, one generation at a time.

    Raises InputError where there is none, for another schema version, and, while iterating, for a line or a file of
    states that is not what was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / RECORDING
        if not self.path.is_file():
            raise InputError(f"{folder} holds no recording", expected=RECORDING, remedy="record with `vocabtrim bench`")
        self.header = _header(self.path, next(whole_lines(self.path), b""))

    def __iter__(self) -> Iterator[Recorded]:
        return self.generations()

    def generations(self, states: Sequence[int] = (), group_by: str = "category") -> Iterator[Recorded]:
        """states: whose hidden states are wanted, in that order; each generation's are read when its turn comes.
        group_by: the field that holds the category. Raises InputError for states that were not recorded."""
        self.prove_states(states)
        columns = [self.header.states.index(state) for state in states]
        for number, line in enumerate(whole_lines(self.path), start=1):
            if number > 1:
                yield self._generation(number, line, columns, group_by)

    def prove_states(self, states: Sequence[int]) -> None:
        """Raises InputError where these hidden states were not recorded."""
        if not set(states) <= set(self.header.states):
            raise InputError(
                f"{self.folder} does not hold the hidden states that the drafter reads",
                expected=f"states {list(states)}",
                found=f"{list(self.header.states)}" if self.header.states else "none",
                remedy="record them with `vocabtrim bench --record`, or replay a drafter that reads none",
            )

    def _generation(self, number: int, line: bytes, columns: list[int], group_by: str) -> Recorded:
        try:
            told = json.loads(line)
            found = Recorded(
                name=str(told["name"]),
                prompt=_ids(told["prompt"]),
                output=_ids(told["output"]),
                category=str(told.get(group_by, "")),
                source=self.folder.name,
                ended=None if told["ended"] is None else Reason(told["ended"]),
                max_new_tokens=None if told["max_new_tokens"] is None else int(told["max_new_tokens"]),
                hidden=self._hidden(told["states"], columns) if columns else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError, OSError) as error:
            raise _damaged(self.path, number, f"{type(error).__name__}: {error}") from error
        tokens = len(found.prompt) + len(found.output) - 1
        if found.hidden is not None and found.hidden.shape[0] != tokens:
            raise _damaged(self.path, number, f"states of {found.hidden.shape[0]} tokens instead of {tokens}")
        return found

    def _hidden(self, file: str, columns: list[int]) -> torch.Tensor:
        hidden = load_file(self.folder / Path(file).name)["hidden"]
        parts = hidden.chunk(len(self.header.states), dim=-1)
        return torch.cat([parts[column] for column in columns], dim=-1)


class RecordingWriter:
    """A recording that is written, new or gone on with: a context manager, of one process at a time.

    Raises OutputError for a folder that holds other things or cannot be written, MismatchError for a recording of
    something else. Nothing is changed then.
    """

    def __init__(self, folder: Path, header: RecordingHeader) -> None:
        self.folder, self.header = folder, header
        self.names: set[str] = set()  # of the generations that are there
        self._file: GrowingFile | None = None

    def __enter__(self) -> RecordingWriter:
        refuse_other_folder(self.folder, RECORDING, "recording")
        file = GrowingFile(self.folder / RECORDING)
        try:
            if file.empty:
                file.forget_half_a_line()
                file.write({"schema": SCHEMA, **self.header.identity, "certificate": self.header.certificate})
            else:
                found = Recording(self.folder)
                _prove_same(self.folder, found.header, self.header)
                self.names = {generation.name for generation in found}
                file.forget_half_a_line()
        except BaseException:
            file.close()
            raise
        self._file = file
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def append(self, generation: Recorded) -> None:
        """Take one more generation; its hidden states too where the recording has some.

        When this returns, a kill of the process no longer loses it. Raises InputError for a name that is there already
        and for hidden states that are not those of its tokens, OutputError where it cannot be written.
        """
        self._prove_new(generation)
        file = None
        if self.header.states:
            assert generation.hidden is not None
            file = f"states-{len(self.names):06d}.safetensors"
            try:
                (self.folder / file).write_bytes(save({"hidden": generation.hidden.contiguous().cpu()}))
            except OSError as error:
                raise cannot_go_on(self.folder / file, error) from error
        assert self._file is not None
        self._file.write(
            {
                "name": generation.name,
                "category": generation.category,
                "prompt": list(generation.prompt),
                "output": list(generation.output),
                "ended": None if generation.ended is None else generation.ended.value,
                "max_new_tokens": generation.max_new_tokens,
                "states": file,
            }
        )
        self.names.add(generation.name)

    def _prove_new(self, generation: Recorded) -> None:
        if generation.name in self.names:
            raise InputError(
                f"{self.folder} holds a generation {generation.name} already",
                expected="a name of its own for each",
                remedy="leave out what is in `names`",
            )
        wanted = len(generation.prompt) + len(generation.output) - 1 if self.header.states else None
        found = None if generation.hidden is None else generation.hidden.shape[0]
        if wanted is not None and wanted != found:
            raise InputError(
                f"the hidden states of generation {generation.name} are not those of its tokens",
                expected=f"{wanted} rows: of all tokens but the last",
                found=found,
                remedy="take them from a StateRecorder that saw the whole generation",
            )


def _header(path: Path, line: bytes) -> RecordingHeader:
    try:
        told = json.loads(line)
        schema = told["schema"]
        if schema == SCHEMA:
            return RecordingHeader(
                target=str(told["target"]),
                tokenizer_hash=None if told["tokenizer_hash"] is None else str(told["tokenizer_hash"]),
                vocab=int(told["vocab"]),
                sampling=Sampling(**told["sampling"]),
                states=tuple(map(int, told["states"])),
                certificate=told["certificate"],
            )
    except (ValueError, KeyError, TypeError, RecursionError, InputError) as error:
        raise _damaged(path, 1, f"{type(error).__name__}: {error}") from error
    raise InputError(
        f"{path} is of another schema version",
        expected=SCHEMA,
        found=repr(schema)[:40],
        remedy="read it with the version of vocabtrim that wrote it",
    )


def _ids(tokens: object) -> tuple[int, ...]:
    if not isinstance(tokens, list) or not tokens or any(type(token) is not int or token < 0 for token in tokens):
        raise ValueError("no list of ids")
    return tuple(tokens)


def _damaged(path: Path, number: int, found: str) -> InputError:
    return InputError(
        f"line {number} of {path} is no part of a recording",
        found=found[:200],
        remedy="the file was changed or is of something else: record again",
    )


def _prove_same(folder: Path, found: RecordingHeader, wanted: RecordingHeader) -> None:
    for name, value in wanted.identity.items():
        if found.identity[name] != value:
            raise MismatchError(
                f"{folder} holds a recording of another {name.replace('_', ' ')}",
                expected=value,
                found=found.identity[name],
                remedy="choose another place for the recording, or repeat the command that began it",
            )
