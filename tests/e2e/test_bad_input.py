"""Bad input as a user meets it: one clear line, exit code 2, nothing on stdout, and every file as it was before."""

from __future__ import annotations

import ctypes
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import hostile
from conftest import assert_bad_input
from vocabtrim.calibrate.counts import TokenCounts
from vocabtrim.errors import MismatchError
from vocabtrim.testbed import shapes
from vocabtrim.testbed.builtin import BUILTIN, TOKENIZER
from vocabtrim.vocabulary.kept import KeptVocabulary

# The built-in tokenizer's 16,384 ids and 16,448 head rows, in a model of two megabytes.
SLIGHT = replace(BUILTIN, hidden=32, intermediate=64, layers=1, heads=2, kv_heads=1, head_dim=16)
TEXT = "The quick brown fox jumps over the lazy dog; a class statement defines a class object.\n"

Maker = Callable[[Path], Path]


@dataclass(frozen=True)
class World:
    """A target, drafters, text and counts that are all good: each test spoils a copy of one."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / name

    def trim(self, out: Path, **instead: object) -> list[object]:
        """Arguments of a good trim into `out`; `instead` puts another drafter, target or source of text in."""
        drafter, target = instead.get("drafter", self.drafter), instead.get("target", self.target)
        source = instead.get("text", self.folder / "text.txt")
        return ["trim", drafter, "--target", target, "--calibrate", source, "--keep", 2000, "--out", out]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    shapes.write_target(folder / "target", SLIGHT, seed=0, tokenizer=TOKENIZER)
    shapes.write_independent(folder / "drafter", SLIGHT, seed=1, tokenizer=TOKENIZER)
    shapes.write_eagle(folder / "eagle", SLIGHT, seed=2)
    (folder / "text.txt").write_text((TEXT * 60 + "\n") * 20)
    return World(folder)


@pytest.fixture(scope="module")
def counts(world: World) -> Path:
    from vocabtrim.calibrate.count import count

    count([str(world.folder / "text.txt")], tokenizer=world.target).save(world.folder / "counts.safetensors")
    return world.folder / "counts.safetensors"


def everything(*folders: Path) -> dict[Path, tuple[int, ...]]:
    """Every path below the folders, with what a write to it would change."""
    stats = {path: path.lstat() for folder in folders for path in [folder, *folder.rglob("*")]}
    return {
        path: (stat.st_mode, *(() if path.is_dir() else (stat.st_size, stat.st_mtime_ns)))
        for path, stat in stats.items()
    }


@pytest.fixture
def refused(vocabtrim: Any, world: World, tmp_path: Path) -> Any:
    """Run a command that must be refused in one line with `facts`, and leave every file and folder as it was."""

    def call(*args: object, facts: tuple[str, ...] = ()) -> str:
        before = everything(tmp_path, world.folder)
        run = vocabtrim(*args)
        assert_bad_input(run, *facts)
        assert run.err.strip().isprintable(), run.err
        assert everything(tmp_path, world.folder) == before
        return str(run.err)

    return call


def spoilt(folder: Path, copy: Path, spoil: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a model's folder with its tensors changed."""
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    spoil(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def name(make: Maker) -> str:
    return make.__name__


def test_the_good_world_is_trimmed(world: World, vocabtrim: Any, tmp_path: Path) -> None:
    """What every other test here spoils works when it is not spoilt."""
    run = vocabtrim(*world.trim(tmp_path / "out"), "--json")
    assert run.code == 0 and run.json["kept_size"] == 2000, run.err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# Checkpoints


@pytest.mark.parametrize("whose", ["drafter", "target"])
@pytest.mark.parametrize("make", hostile.REFUSED_SAFETENSORS, ids=name)
def test_unsound_safetensors(make: Maker, whose: str, world: World, refused: Any, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(world.folder / whose, tmp_path / "bad"))
    make(bad / "model.safetensors")
    instead = {"drafter": world.eagle, whose: bad}
    facts = (str(bad / "model.safetensors"), "not a sound safetensors file", "expected", "found", "fetch")
    refused(*world.trim(tmp_path / "out", **instead), facts=facts)


@pytest.mark.parametrize("whose", ["drafter", "target"])
def test_kept_rows_that_are_nan(whose: str, world: World, refused: Any, vocabtrim: Any, tmp_path: Path) -> None:
    """A row that would poison every draft is refused by id; the same in a row that is not kept does no harm."""

    def spoil(row: int) -> dict[str, object]:
        bad = spoilt(world.folder / whose, tmp_path / f"bad {row}", lambda t: t["lm_head.weight"][row].fill_(torch.nan))
        return {"drafter": world.eagle, whose: bad}

    refused(*world.trim(tmp_path / "out", **spoil(5)), facts=("row 5 of lm_head.weight", "NaN", "finite"))
    assert vocabtrim(*world.trim(tmp_path / "out", **spoil(16_300))).code == 0


@pytest.mark.parametrize("shape", [(), (16_448,), (0, 32), (16_448, 0), (16_448, 32, 1), (16_448, 8)])
def test_heads_of_an_impossible_shape(shape: tuple[int, ...], world: World, refused: Any, tmp_path: Path) -> None:
    bad = spoilt(world.drafter, tmp_path / "bad", lambda tensors: tensors.update({"lm_head.weight": torch.ones(shape)}))
    refused(*world.trim(tmp_path / "out", drafter=bad), facts=("lm_head.weight", str(list(shape))))


@pytest.mark.parametrize("whose", ["drafter", "target"])
@pytest.mark.parametrize("make", [*hostile.REFUSED_TORCH, hostile.legacy_torch, hostile.bin_not_a_state_dict], ids=name)
def test_pickles_never_run(make: Maker, whose: str, world: World, refused: Any, tmp_path: Path) -> None:
    """The bomb would leave a file behind: `refused` would see it. Nor does the message tell how to set it off."""
    bad = Path(shutil.copytree(world.folder / whose, tmp_path / "bad"))
    (bad / "model.safetensors").unlink()
    make(bad / "pytorch_model.bin")
    told = refused(*world.trim(tmp_path / "out", **{"drafter": world.eagle, whose: bad}), facts=("pytorch_model.bin",))
    assert "weights_only" not in told and "can still be loaded" not in told
    if make is hostile.running_pickle:
        assert "could run code" in told and "io.open" in told and "nothing of it was run" in told


@pytest.mark.parametrize("verb", ["convert", "check"])
def test_a_token_map_that_would_run_code(verb: str, refused: Any, tmp_path: Path) -> None:
    bomb = hostile.running_pickle(tmp_path / "map.pt")
    to = ["--to", "d2t", "--out", tmp_path / "d2t.safetensors"] if verb == "convert" else []
    refused(verb, bomb, *to, facts=("could run code", "nothing of it was run"))


@pytest.mark.parametrize("make", hostile.BAD_FOLDERS, ids=name)
def test_incomplete_and_contradicting_folders(make: Maker, world: World, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    bad = make(tmp_path / "models" / "drafter")
    assert "drafter" in refused(*world.trim(tmp_path / "out", drafter=bad))


def test_a_bin_with_a_missing_tensor_says_which(world: World, refused: Any, tmp_path: Path) -> None:
    bad = shapes.write_eagle(tmp_path / "bad", SLIGHT, seed=2, container="bin")
    state = torch.load(bad / "pytorch_model.bin", weights_only=True)
    del state["layers.0.mlp.up_proj.weight"]
    torch.save(state, bad / "pytorch_model.bin")
    facts = ("expected layers.0.mlp.up_proj.weight", "found", "fetch it again")
    refused(*world.trim(tmp_path / "out", drafter=bad), facts=facts)


@pytest.mark.parametrize("value", ["many", [], {}, -1, 10**12, 1.5, True])
@pytest.mark.parametrize("key", ["vocab_size", "num_hidden_layers", "hidden_size"])
@pytest.mark.parametrize("whose", ["drafter", "target"])
def test_configs_whose_sizes_are_none(
    whose: str, key: str, value: object, world: World, refused: Any, tmp_path: Path
) -> None:
    """A billion layers must not be counted up to, nor text be compared with a number."""
    bad = Path(shutil.copytree(world.folder / whose, tmp_path / "bad"))
    config = json.loads((bad / "config.json").read_text())
    (bad / "config.json").write_text(json.dumps(config | {key: value}))
    facts = (f"{key} of {bad / 'config.json'} is no size", "expected a whole number", "found")
    refused(*world.trim(tmp_path / "out", **{"drafter": world.eagle, whose: bad}), facts=facts)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_broken_files_beside_the_target(file: str, content: bytes, world: World, refused: Any, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(world.target, tmp_path / "bad"))
    (bad / file).write_bytes(content)
    refused(*world.trim(tmp_path / "out", target=bad), facts=(str(bad / file),))


# Tokenizers that do not fit


def head_of(rows: int, folder: Path) -> dict[str, Path]:
    """A target and a drafter with heads of so many rows, and the tokenizer of 16,384 ids."""
    shape = replace(SLIGHT, vocab=min(rows, SLIGHT.vocab), head_rows=rows)
    drafter = shapes.write_independent(folder / "wrong drafter", shape, seed=1, tokenizer=TOKENIZER)
    return {
        "drafter": drafter,
        "target": shapes.write_target(folder / "wrong target", shape, seed=0, tokenizer=TOKENIZER),
    }


@pytest.mark.parametrize("rows", [16_000, 33_000], ids=["larger than the head", "smaller than the head"])
@pytest.mark.parametrize("whose", ["drafter", "target", "both"])
def test_a_tokenizer_larger_or_smaller_than_the_head(
    rows: int, whose: str, world: World, refused: Any, tmp_path: Path
) -> None:
    """Padding is a little; twice the rows are another model's. Both numbers are told, whichever side is wrong."""
    wrong = head_of(rows, tmp_path)
    instead = wrong if whose == "both" else {whose: wrong[whose]}
    told = refused(*world.trim(tmp_path / "out", **instead))
    assert ("16384" in told or "16,384" in told) and str(rows) in told


def test_a_drafter_padded_in_its_own_way_is_no_other_model(world: World, vocabtrim: Any, tmp_path: Path) -> None:
    """Qwen2.5's small models have 151,936 rows and its large ones 152,064 for one tokenizer: a pair in daily use."""
    shape = replace(SLIGHT, head_rows=SLIGHT.head_rows - 32)
    drafter = shapes.write_independent(tmp_path / "drafter", shape, seed=1, tokenizer=TOKENIZER)
    run = vocabtrim(*world.trim(tmp_path / "out", drafter=drafter), "--json")
    assert run.code == 0 and run.json["check"]["ok"], run.err


@pytest.fixture(scope="module")
def other_target(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same target with another tokenizer of the same size: two tokens have changed places."""
    folder = Path(shutil.copytree(world.target, tmp_path_factory.mktemp("other") / "target"))
    said = json.loads((folder / "tokenizer.json").read_text())
    vocab = said["model"]["vocab"]
    one, two = (token for token, number in vocab.items() if number in {300, 301})
    vocab[one], vocab[two] = vocab[two], vocab[one]
    (folder / "tokenizer.json").write_text(json.dumps(said))
    return folder


def test_counts_of_another_tokenizer(
    world: World, counts: Path, other_target: Path, refused: Any, vocabtrim: Any, tmp_path: Path
) -> None:
    """Every verb that takes counts names both hashes."""
    theirs = tmp_path / "theirs.safetensors"
    assert vocabtrim("count", world.folder / "text.txt", "--tokenizer", other_target, "--out", theirs).code == 0
    hashes = tuple(TokenCounts.load(path).tokenizer.hash for path in (counts, theirs))
    refused(*world.trim(tmp_path / "out", text=theirs), facts=hashes)
    out = tmp_path / "out.safetensors"
    refused("choose", theirs, "--keep", 500, "--target", world.target, "--out", out, facts=hashes)
    refused("choose", counts, theirs, "--keep", 500, "--out", out, facts=hashes)
    refused("merge", counts, theirs, "--out", out, facts=hashes)


def test_kept_ids_of_another_tokenizer(
    world: World, counts: Path, other_target: Path, refused: Any, vocabtrim: Any, tmp_path: Path
) -> None:
    from vocabtrim.checkpoint.trim import trim

    kept = tmp_path / "kept.safetensors"
    assert vocabtrim("choose", counts, "--keep", 500, "--out", kept).code == 0
    with pytest.raises(MismatchError, match="cut for another tokenizer"):
        trim(world.drafter, kept, target=other_target, out=tmp_path / "out")
    told = ("made with another tokenizer", "expected", "found")
    refused("convert", kept, "--to", "token-map", "--target", other_target, "--out", tmp_path / "map.pt", facts=told)
    linted = vocabtrim("check", kept, "--target", other_target)
    assert linted.code == 1 and "tokenizer.other" in linted.out and not (tmp_path / "out").exists()


# Ids


@pytest.mark.parametrize("token", [-1, 16_384, 16_400, 10**12])
def test_ids_to_keep_beyond_the_vocabulary(token: int, world: World, refused: Any, tmp_path: Path) -> None:
    """16,384 to 16,447 are rows of the head, but padding: no token has them."""
    facts = (f"id {token} lies outside", "expected 0 to 16383", "--always-keep")
    refused(*world.trim(tmp_path / "out"), "--always-keep", token, facts=facts)


@pytest.mark.parametrize("ids", [[1, 2, 99_999], [1, 2, -5], [1, 2, 16_400], [1, 2, 2], [], [1, 2.5], ["1"], [2**70]])
def test_token_maps_with_ids_that_are_none(ids: list[Any], world: World, refused: Any, tmp_path: Path) -> None:
    torch.save(ids, tmp_path / "map.pt")
    refused(
        "convert", tmp_path / "map.pt", "--to", "ids", "--target", world.target, "--out", tmp_path / "kept.safetensors"
    )


def test_check_names_ids_outside_the_vocabulary(world: World, vocabtrim: Any, tmp_path: Path) -> None:
    torch.save([1, 2, 99_999], tmp_path / "map.pt")
    run = vocabtrim("check", tmp_path / "map.pt", "--target", world.target)
    assert run.code == 1 and "map.range: 1 ids" in run.out and "99999" in run.out


# Calibration text


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [
        ("empty.txt", b"", "empty sources"),
        ("empty.jsonl", b"", "empty sources"),
        ("blank.jsonl", b'{"text": ""}\n' * 3, "3 times no text in it"),
        ("broken.jsonl", b'{"text": \n' * 4, "4 times malformed JSON"),
        ("numbers.dat", bytes(4000), "1 times binary file"),
    ],
)
def test_a_corpus_without_text(
    file: str, content: bytes, found: str, world: World, refused: Any, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(content)
    facts = ("no token was counted", found, "check the sources")
    refused(*world.trim(tmp_path / "out", text=tmp_path / file), facts=facts)
    refused("count", tmp_path / file, "--tokenizer", world.target, "--out", tmp_path / "c.safetensors", facts=facts)


def test_no_corpus_at_all_is_said_before_anything_is_counted(world: World, refused: Any, tmp_path: Path) -> None:
    """The second source is looked for before the first is counted."""
    (tmp_path / "folder").mkdir()
    for missing, fact in ((tmp_path / "none.txt", "does not exist"), (tmp_path / "folder", "holds no file")):
        refused(*world.trim(tmp_path / "out"), "--calibrate", missing, facts=(str(missing), fact))


BAD_LINES = b'{"text": "a good line"}\n{"text": broken\n\xff\xfe{}\n[1, 2\n{"other": 1}\n' + b'{"text": "more"}\n' * 500


def test_unreadable_lines_are_skipped_counted_and_reported(world: World, vocabtrim: Any, tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_bytes(BAD_LINES)
    expected = {"malformed JSON": 2, "invalid UTF-8": 1, "no usable field": 1}
    count = ["count", tmp_path / "lines.jsonl", "--tokenizer", world.target, "--out", tmp_path / "c.safetensors"]
    assert vocabtrim(*count, "--json").json["skipped"] == expected
    told = vocabtrim(*count).out
    assert all(f"skipped {number}: {reason}" in told for reason, number in expected.items())
    run = vocabtrim(*world.trim(tmp_path / "out", text=tmp_path / "lines.jsonl"), "--json")
    assert run.code == 0 and run.json["counts"][0]["skipped"] == expected


def test_unreadable_text_is_skipped_counted_and_reported(world: World, vocabtrim: Any, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"good\n\xff\xfe bad\n" + b"good again\n" * 2000)
    out = tmp_path / "c.safetensors"
    run = vocabtrim("count", tmp_path / "text.txt", "--tokenizer", world.target, "--out", out)
    assert run.code == 0 and "skipped 1: invalid UTF-8" in run.out


@pytest.mark.parametrize(
    ("file", "content", "place"),
    [
        ("lines.jsonl", BAD_LINES, "line 2: malformed JSON"),
        ("bytes.jsonl", b'{"text": "good"}\n\n{"text": "\xff"}\n', "line 3: invalid UTF-8"),
        ("text.txt", b"good\n\xff\xfe bad\n", "line 2: invalid UTF-8"),
    ],
)
def test_strict_stops_at_the_line(
    file: str, content: bytes, place: str, world: World, refused: Any, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(content)
    facts = (f"{tmp_path / file}, {place}", "leave --strict out")
    refused(*world.trim(tmp_path / "out", text=tmp_path / file), "--strict", facts=facts)
    out = tmp_path / "c.safetensors"
    refused("count", tmp_path / file, "--tokenizer", world.target, "--out", out, "--strict", facts=facts)


# Places to write to


def test_an_output_that_exists_is_left_alone(world: World, refused: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "folder", tmp_path / "file", world.drafter):
        refused(*world.trim(out), facts=(f"output {out} exists already", "choose another --out"))


def test_an_output_that_no_folder_can_hold(world: World, counts: Path, refused: Any, tmp_path: Path) -> None:
    """A file stands where a folder would have to be, or a folder where a file would have to be."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    refused(*world.trim(tmp_path / "file" / "out"), facts=("cannot write", "Not a directory"))
    for out, fact in (
        (tmp_path / "file" / "c.safetensors", "Not a directory"),
        (tmp_path / "folder", "found a folder"),
    ):
        facts = (f"cannot write {out}", fact)
        refused("count", world.folder / "text.txt", "--tokenizer", world.target, "--out", out, facts=facts)
        refused("choose", counts, "--keep", 100, "--out", out, facts=facts)


def writers(world: World, counts: Path, kept: Path, place: Path) -> dict[str, list[object]]:
    """Every verb that writes, told to write into `place`, more than a few pages each."""
    text = world.folder / "text.txt"
    return {
        "trim": world.trim(place / "out"),
        "count": ["count", text, "--tokenizer", world.target, "--out", place / "counts.safetensors"],
        "merge": ["merge", counts, "--out", place / "merged.safetensors"],
        "choose": ["choose", counts, "--keep", 16_000, "--out", place / "kept.safetensors"],
        "convert": ["convert", kept, "--to", "token-map", "--out", place / "map.pt"],
        "convert, safetensors": ["convert", kept, "--to", "d2t-t2d", "--out", place / "d2t.safetensors"],
    }


WRITERS = ["trim", "count", "merge", "choose", "convert", "convert, safetensors"]


@pytest.fixture(scope="module")
def kept(world: World, counts: Path) -> Path:
    from vocabtrim.job import choose

    choice = choose(counts, 16_000)
    assert choice.kept is not None
    choice.kept.save(world.folder / "kept.safetensors")
    return world.folder / "kept.safetensors"


@pytest.mark.parametrize("verb", WRITERS)
def test_a_full_disk(verb: str, world: World, counts: Path, kept: Path, refused: Any, tiny_disk: Path) -> None:
    place = tiny_disk / "results"
    place.mkdir()
    refused(*writers(world, counts, kept, place)[verb], facts=("cannot write", "No space left on device", "free space"))
    assert list(place.iterdir()) == []


def without_override() -> None:
    """Give up what lets root read and write everywhere (Linux: capabilities 1 and 2, out of the bounding set)."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)


@pytest.fixture
def as_user(vocabtrim_process: Any, tmp_path: Path) -> Any:
    """Run the command line as someone for whom permissions count."""
    (tmp_path / "closed").mkdir(mode=0o555)
    probe = [sys.executable, "-c", "open('closed/x', 'w')"]
    if not subprocess.run(
        probe, cwd=tmp_path, capture_output=True, preexec_fn=without_override, check=False
    ).returncode:
        pytest.skip("this user may write everywhere, and cannot give that up")
    return lambda *args: vocabtrim_process(*args, preexec_fn=without_override)


@pytest.mark.parametrize("verb", ["trim", "count", "choose", "convert"])
def test_no_permission_to_write(
    verb: str, world: World, counts: Path, kept: Path, as_user: Any, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o555)
    run = as_user(*writers(world, counts, kept, place)[verb])
    assert_bad_input(run, "cannot write", "Permission denied", "fix permissions")
    assert list(place.iterdir()) == []


def test_no_permission_to_read(world: World, counts: Path, kept: Path, as_user: Any, tmp_path: Path) -> None:
    """Each stage's input in turn may not be read; its path is told."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)
    commands = writers(world, counts, kept, place)
    weights, text = world.drafter / "model.safetensors", world.folder / "text.txt"
    for file, verb in ((weights, "trim"), (text, "count"), (counts, "choose"), (kept, "convert")):
        mode = file.stat().st_mode
        file.chmod(0)
        try:
            run = as_user(*commands[verb])
            assert_bad_input(run, str(file))
            assert "ermission denied" in run.err or "not readable" in run.err, run.err
        finally:
            file.chmod(mode)
        assert list(place.iterdir()) == []


# What the line looks like


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["nonsense"],
        ["trim", "--nonsense"],
        ["trim", "drafter"],
        ["count", "text.txt"],
        ["choose", "c.safetensors", "--multiple", "0"],
        ["choose", "c.safetensors", "--draft-length", "four"],
        ["convert", "map.pt", "--to", "nonsense", "--out", "x"],
    ],
)
def test_wrong_usage_is_one_line_too(arguments: list[str], refused: Any) -> None:
    refused(*arguments, facts=("--help",))


def test_names_are_shown_as_they_are(world: World, vocabtrim: Any, tmp_path: Path) -> None:
    """Names that look like the markup of the library that draws tables, or hold a terminal's control codes."""
    for file in ("a[bold]b.txt", "[red]a.txt"):
        (tmp_path / file).write_text(TEXT)
        run = vocabtrim(
            *(
                "count",
                tmp_path / file,
                "--tokenizer",
                world.target,
                "--heldout",
                0,
                "--out",
                tmp_path / "c.safetensors",
            )
        )
        assert run.code == 0 and file in run.out, run.err
    assert_bad_input(vocabtrim("check", tmp_path / "a\x1b[2Jb\nc"), "a�[2Jb c")


# kill -9

HEAVY = replace(BUILTIN, hidden=1024, intermediate=4096, layers=2, heads=16, kv_heads=16)
KILLS = 8


def contents(folder: Path) -> dict[str, bytes]:
    """What a trim wrote; of the card and the kept vocabulary, which tell when they were made, the ids alone."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}
    return files | {"kept.safetensors": KeptVocabulary.load(folder / "kept.safetensors").ids.tobytes()}


@pytest.fixture
def heavy_job(tmp_path: Path) -> Iterator[tuple[list[str], Path]]:
    """The command line of a trim of a drafter of some 130 MB, and where it writes."""
    models, place = tmp_path / "models", tmp_path / "place"
    place.mkdir()
    drafter = shapes.write_independent(models / "drafter", HEAVY, seed=1, tokenizer=TOKENIZER)
    (models / "text.txt").write_text(TEXT * 2000)
    arguments = ["trim", drafter, "--target", drafter, "--calibrate", models / "text.txt", "--keep", "12000"]
    program = [sys.executable, "-c", "from vocabtrim.cli import main; main()", *map(str, arguments), "--out"]
    yield program, place
    shutil.rmtree(models)


@pytest.mark.slow
def test_kill_9_at_random_moments_leaves_the_old_state_or_the_new_one(heavy_job: tuple[list[str], Path]) -> None:
    """Half of the kills fall anywhere in the run, half while it writes. The same command again gives it all."""
    program, place = heavy_job
    began = time.monotonic()
    subprocess.run([*program, place / "reference"], capture_output=True, check=True)
    duration = time.monotonic() - began
    reference, moments = contents(place / "reference"), random.Random(0)
    struck_while_writing = 0
    for kill in range(KILLS):
        out = place / f"out {kill}"
        process = subprocess.Popen([*program, out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if kill % 2:
            while not list(place.glob(f".{out.name}.partial-*")) and process.poll() is None:
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.2))
        else:
            time.sleep(moments.uniform(0.2, 1) * duration)
        process.send_signal(signal.SIGKILL)
        process.wait()
        struck_while_writing += bool(list(place.glob(f".{out.name}.partial-*")))
        if out.exists():
            assert contents(out) == reference, f"kill {kill}"
            continue
        again = subprocess.run([*program, out], capture_output=True, text=True, check=False)
        assert again.returncode == 0 and contents(out) == reference, again.stderr
        shutil.rmtree(out)
    assert struck_while_writing >= 2, "the kills came too late or too early to prove anything"
    assert not list(place.glob(".*")), "leftovers of killed runs"
