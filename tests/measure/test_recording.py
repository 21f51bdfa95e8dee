"""Recordings of our own: what was written is read back, a cut one goes on, and nothing is half-written or replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import small_models
import vocabtrim as vt
from generation import decoded, emitted, lively, random_prompts
from recordings import record
from vocabtrim.decoding.sampling import Sampling
from vocabtrim.decoding.stopping import Reason
from vocabtrim.decoding.target import Target
from vocabtrim.errors import InputError, MismatchError, OutputError
from vocabtrim.measure.recording import RECORDING, Recorded, Recording, RecordingHeader, RecordingWriter
from vocabtrim.measure.state_recorder import StateRecorder

HEADER = RecordingHeader("a target", "abc", 99, Sampling(temperature=0.5, top_p=0.9), (2, -1), {"tool": "vocabtrim"})
WIDTH = 3  # of one hidden state


def generation(name: str, prompt: int = 2, output: int = 3) -> Recorded:
    hidden = torch.randn(prompt + output - 1, 2 * WIDTH, generator=torch.Generator().manual_seed(len(name)))
    return Recorded(
        name, tuple(range(prompt)), tuple(range(7, 7 + output)), "qa", "", Reason.STOP_ID, 20, hidden.bfloat16()
    )


def write(folder: Path, *generations: Recorded, header: RecordingHeader = HEADER) -> Path:
    with RecordingWriter(folder, header) as writer:
        for one in generations:
            writer.append(one)
    return folder


def same(found: Recorded, wanted: Recorded) -> bool:
    return replace(found, hidden=None, source="").__dict__ == replace(wanted, hidden=None).__dict__


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    wanted = [generation("a"), replace(generation("b€", 1, 1), ended=None, max_new_tokens=None, category="")]
    recording = Recording(write(tmp_path / "run", *wanted))
    assert recording.header == HEADER
    for _ in range(2):  # it can be iterated again
        found = list(recording)
        assert all(map(same, found, wanted)) and {one.source for one in found} == {"run"}
    with_states = list(recording.generations((2, -1)))
    for one, other in zip(with_states, wanted, strict=True):
        assert one.hidden is not None and other.hidden is not None
        assert one.hidden.dtype == torch.bfloat16 and torch.equal(one.hidden, other.hidden)


def test_some_of_the_hidden_states_in_another_order(tmp_path: Path) -> None:
    wanted = generation("a").hidden
    assert wanted is not None
    recording = Recording(write(tmp_path / "run", generation("a")))
    for states, columns in (((-1,), [3, 4, 5]), ((2,), [0, 1, 2]), ((-1, 2), [3, 4, 5, 0, 1, 2])):
        [found] = recording.generations(states)
        assert torch.equal(found.hidden, wanted[:, columns])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"does not hold the hidden states.*\[5\].*found \[2, -1\]"):
        next(recording.generations((5,)))


def test_states_are_read_only_where_they_are_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", generation("a"))
    next(folder.glob("states-*")).unlink()
    assert [one.name for one in Recording(folder)] == ["a"]
    with pytest.raises(InputError, match=r"line 2 of .* is no part of a recording"):
        list(Recording(folder).generations((2,)))


def test_another_field_may_be_the_category(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", generation("a"))
    assert [one.category for one in Recording(folder).generations(group_by="name")] == ["a"]
    assert [one.category for one in Recording(folder).generations(group_by="language")] == [""]


def test_a_recording_cut_off_anywhere_goes_on(tmp_path: Path) -> None:
    """Cut at every byte of its last line: what is whole stays, what was cut is recorded again, and nothing differs."""
    three = [generation("a"), generation("bb"), generation("ccc")]
    whole = contents(write(tmp_path / "whole", *three))
    line = whole[RECORDING].splitlines(keepends=True)[-1]
    for cut in range(1, len(line)):
        folder = write(tmp_path / f"cut {cut}", *three)
        with (folder / RECORDING).open("ab") as file:
            file.truncate(len(whole[RECORDING]) - cut)
        assert [one.name for one in Recording(folder)] == ["a", "bb"]
        with RecordingWriter(folder, replace(HEADER, certificate={"another": "day"})) as writer:
            assert writer.names == {"a", "bb"}
            writer.append(three[2])
        assert contents(folder) == whole


@pytest.mark.parametrize(
    "other",
    [
        replace(HEADER, target="another"),
        replace(HEADER, tokenizer_hash=None),
        replace(HEADER, vocab=98),
        replace(HEADER, sampling=Sampling()),
        replace(HEADER, states=(-1,)),
    ],
    ids=["target", "tokenizer", "vocab", "sampling", "states"],
)
def test_a_recording_of_something_else_is_left_alone(tmp_path: Path, other: RecordingHeader) -> None:
    folder = write(tmp_path / "run", generation("a"))
    with (folder / RECORDING).open("ab") as file:
        file.write(b'{"half')
    before = contents(folder)
    with pytest.raises(MismatchError, match="holds a recording of another"), RecordingWriter(folder, other):
        pass
    assert contents(folder) == before


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no recording"), RecordingWriter(tmp_path, HEADER):
        pass
    with pytest.raises(OutputError, match="is no folder"), RecordingWriter(tmp_path / "notes.txt", HEADER):
        pass
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_a_full_disk_is_said_and_what_was_recorded_stays(tiny_disk: Path) -> None:
    """32 kB: some generations of 2 kB of states fit."""
    folder, names = tiny_disk / "run", []
    with RecordingWriter(folder, HEADER) as writer, pytest.raises(OutputError, match="No space left") as error:
        for number in range(99):
            writer.append(generation(f"{number}", output=170))
            names.append(f"{number}")
    assert "goes on behind the last whole line" in str(error.value)
    assert names and [one.name for one in Recording(folder).generations((2, -1))] == names


def test_a_name_twice_and_states_of_other_tokens_are_refused(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "run", HEADER) as writer:
        writer.append(generation("a"))
        with pytest.raises(InputError, match="holds a generation a already"):
            writer.append(generation("a"))
        for hidden in (None, torch.zeros(5, 6)):
            with pytest.raises(InputError, match="expected 4 rows"):
                writer.append(replace(generation("b"), hidden=hidden))
    assert [one.name for one in Recording(tmp_path / "run")] == ["a"]


SPOILED: dict[str, tuple[int, Callable[[dict[str, Any]], Any], str]] = {
    "no object": (2, lambda told: [1], "line 2"),
    "no output": (2, lambda told: told.pop("output"), "line 2"),
    "empty output": (2, lambda told: told.update(output=[]), "no list of ids"),
    "a negative id": (2, lambda told: told.update(prompt=[-1]), "no list of ids"),
    "true as an id": (2, lambda told: told.update(prompt=[True]), "no list of ids"),
    "an unknown end": (2, lambda told: told.update(ended="boredom"), "line 2"),
    "states of fewer tokens": (2, lambda told: told.update(output=[1, 2, 3, 4]), "states of 4 tokens instead of 5"),
    "states of another folder": (2, lambda told: told.update(states="../../etc/passwd"), "line 2"),
    "another schema": (1, lambda told: told.update(schema=2), "another schema version"),
    "no header": (1, lambda told: told.pop("states"), "line 1"),
    "a temperature below 0": (1, lambda told: told.update(sampling={"temperature": -1}), "line 1"),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_changed_recording_is_refused_by_its_line(tmp_path: Path, spoiled: str) -> None:
    number, change, words = SPOILED[spoiled]
    folder = write(tmp_path / "run", generation("a"), generation("b"))
    lines = (folder / RECORDING).read_text().splitlines()
    told = json.loads(lines[number - 1])
    replaced = change(told)
    lines[number - 1] = json.dumps(replaced if isinstance(replaced, list) and spoiled == "no object" else told)
    (folder / RECORDING).write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=words):
        list(Recording(folder).generations((2, -1)))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    root = tmp_path_factory.mktemp("states")
    return vt.load_target(
        lively(small_models.write_target(root / "plain", small_models.shape(48)), root / "target"), dtype="float64"
    )


@pytest.mark.parametrize("prompt", random_prompts(3, 48, [1, 2, 12]), ids=len)
def test_states_that_were_kept_are_those_of_one_pass_over_everything(target: Target, prompt: list[int]) -> None:
    """In float64, to within its rounding; and recording changes no token."""
    recorded = record(target, prompt, 16, states=(1, 3, -1))
    assert list(recorded.output) == emitted(decoded(target, None, prompt, 16))
    target.lm.cache.reserve(99)
    tokens = [*recorded.prompt, *recorded.output[:-1]]
    expected = target.lm.run(torch.tensor(tokens), states=(1, 3, -1)).hidden
    assert expected is not None and recorded.hidden is not None
    assert recorded.hidden.shape == (len(tokens), 3 * target.lm.hidden_size)
    torch.testing.assert_close(recorded.hidden, expected, rtol=0, atol=1e-9)


def test_a_recorder_begins_anew_with_every_prompt(target: Target) -> None:
    recorder = StateRecorder((-1,))
    for length in (9, 4):
        decoded(target, recorder, [1, 2, 3], length)
        assert recorder.hidden.shape[0] == 2 + length
