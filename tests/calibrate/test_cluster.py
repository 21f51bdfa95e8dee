"""count on Ray Data: what the local engine counts, id by id, also when a worker dies, and refusals in one line.

    python -m pytest -m engine tests/calibrate/test_cluster.py

Runs where `pip install 'vocabtrim[ray]'` was done; the whole file shares one Ray of two cores. Shown with Ray 2.60.
"""

from __future__ import annotations

import bz2
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pytest
from pyarrow import parquet

from conftest import assert_bad_input
from tiny_tokenizer import TEXT, write_jsonl
from vocabtrim import TokenCounts, VocabTrimError, count
from vocabtrim.calibrate import cluster, ray_data
from vocabtrim.calibrate.blocks import by_block
from vocabtrim.calibrate.count import Progress

pytestmark = pytest.mark.engine

CHAT = [{"role": "user", "content": "Count me not"}, {"role": "assistant", "content": "Count me"}]


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed here")
    pytest.importorskip("ray.data")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Every container, chats, completions and text, whole and broken, in files of 10 to 200 kB."""
    root = tmp_path / "corpus"
    (root / "deep").mkdir(parents=True)
    (root / "a.txt").write_text("".join(TEXT * 20), encoding="utf-8", newline="")
    write_jsonl(root / "b.jsonl", [{"text": f"{text} {n}"} for n in range(50) for text in TEXT])
    write_jsonl(
        root / "c.jsonl", [{"messages": CHAT}] * 3 + [{"prompt": "p", "completion": f"c {n}"} for n in range(500)]
    )
    (root / "d.jsonl").write_text('{"text": "one"}\n{broken\n{"other": 1}\n"a string"\n\n[]\n' * 200)
    (root / "deep" / "e.jsonl.bz2").write_bytes(bz2.compress((root / "b.jsonl").read_bytes()))
    (root / "deep" / "f.json").write_text(json.dumps([{"text": f"element {n}"} for n in range(300)]))
    table = arrow.table({"text": [f"{text} {n}" for n in range(100) for text in TEXT]})
    parquet.write_table(table, root / "deep" / "g.parquet", row_group_size=100)
    (root / "h.bin").write_bytes(b"\0\1\2" * 100)
    (root / "i.txt").write_bytes(b"fine\n\xff\xfe broken line\nfine again\n" * 500)
    return root


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PIECE", 50_000)


def same(on_ray: TokenCounts, local: TokenCounts) -> None:
    """All that is counted and told of it; only the record of the run says which engine it was."""
    everything = np.ones(local.tokenizer.vocab_size, bool)
    for one, other in zip(on_ray.sources, local.sources, strict=True):
        assert (one.name, one.origin, one.details) == (other.name, other.origin, other.details)
        assert np.array_equal(one.counts, other.counts) and np.array_equal(one.heldout, other.heldout)
        assert np.array_equal(by_block(one.blocks, everything), by_block(other.blocks, everything))
    assert on_ray.hash == local.hash
    assert (on_ray.documents, list(on_ray.skipped.items())) == (local.documents, list(local.skipped.items()))
    assert on_ray.provenance["inputs"] == local.provenance["inputs"]


@pytest.mark.usefixtures("small_pieces")
def test_the_same_counts_as_the_local_engine(tiny: Path, corpus: Path) -> None:
    """Several sources, cut into dozens of pieces: vectors, documents, forms, what was skipped, files and hashes."""
    sources = [corpus, f"target-generated:{corpus / 'b.jsonl'}", corpus / "a.txt", f"{corpus}/deep/*"]
    local = count(sources, tokenizer=tiny)
    assert local.skipped and local.sources[0].heldout.any()
    same(count(sources, tokenizer=tiny, engine="ray"), local)


def test_files_of_any_size_in_whole_pieces(tiny: Path, corpus: Path) -> None:
    same(count([corpus], tokenizer=tiny, engine="ray", workers=1), count([corpus], tokenizer=tiny))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("by", ["language", "kind"])
def test_split_by_a_label(tiny: Path, tmp_path: Path, by: str) -> None:
    """A source per language, or per value of a field, whichever pieces their documents were in."""
    said = {
        "german": "Die Fähre verlässt die Insel am Mittag, und wer sie verpasst, wartet einen Tag im kleinen Hafen.",
        "english": "The ferry leaves the island at noon, and whoever misses it waits for a day in the small harbour.",
    }
    records = [{"text": f"{text} {n}", "kind": f"in {language}"} for n in range(800) for language, text in said.items()]
    corpus = write_jsonl(tmp_path / "both.jsonl", records)
    local = count([corpus], tokenizer=tiny, split_by=by)
    names = ["english", "german"] if by == "language" else ["in english", "in german"]
    assert [source.name for source in local.sources] == names and all(s.counts.any() for s in local.sources)
    same(count([corpus], tokenizer=tiny, split_by=by, engine="ray"), local)


@pytest.mark.usefixtures("small_pieces")
def test_object_stores(tiny: Path, corpus: Path) -> None:
    """By a file:// URI, which is read by the same calls as s3:// and gs://."""
    same(count([corpus.as_uri()], tokenizer=tiny, engine="ray"), count([corpus.as_uri()], tokenizer=tiny))


@pytest.mark.usefixtures("small_pieces")
def test_relative_paths_and_options(tiny: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus)
    options: dict[str, Any] = {"tokenizer": tiny, "completion_field": "completion", "heldout": 0.5, "origin": "raw"}
    same(count(["c.jsonl"], engine="ray", **options), count(["c.jsonl"], **options))


def test_progress_reaches_the_known_size(tiny: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PIECE", 50_000)
    clock = iter(range(10**9))
    monkeypatch.setattr("vocabtrim.calibrate.count.time.monotonic", lambda: float(next(clock)))
    seen: list[Progress] = []
    counts = count([corpus], tokenizer=tiny, engine="ray", on_progress=seen.append)
    assert len(seen) > 10 and seen[-1].tokens == counts.tokens
    assert seen[-1].bytes_known * 0.99 <= seen[-1].bytes_read <= seen[-1].bytes_known


@pytest.mark.usefixtures("small_pieces")
def test_a_worker_killed_in_the_middle_changes_nothing(
    tiny: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker that finds no marker leaves one and kills itself, with documents counted and more to come."""
    marker = tmp_path / "killed"
    whole_work = ray_data._shipped

    def deadly(task: str, job: bytes, wanted: str) -> Any:
        run = whole_work(task, job, wanted)

        def run_or_die(table: Any) -> Any:
            from vocabtrim.calibrate import cluster_worker

            counted_batch, batches = cluster_worker.count_batch, []

            def count_batch(batch: Any, encoder: Any) -> Any:
                batches.append(batch)
                counted = counted_batch(batch, encoder)
                if batch.documents and counted[1].any() and not marker.exists():
                    marker.write_text(str(os.getpid()))
                    os.kill(os.getpid(), signal.SIGKILL)
                return counted

            cluster_worker.count_batch = count_batch
            try:
                return run(table)
            finally:
                cluster_worker.count_batch = counted_batch

        return run_or_die

    local = count([corpus], tokenizer=tiny)
    monkeypatch.setattr(ray_data, "_shipped", deadly)
    on_ray = count([corpus], tokenizer=tiny, engine="ray")
    assert marker.exists() and int(marker.read_text()) != os.getpid()
    same(on_ray, local)


def shipped_without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers on which importing that package fails, as where it is not installed."""
    whole_work = ray_data._shipped

    def bare(task: str, job: bytes, wanted: str) -> Any:
        run = whole_work(task, job, wanted)

        def run_without(table: Any) -> Any:
            there = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "vocabtrim"}
            held = sys.modules.pop(package, None)
            sys.modules[package] = None  # type: ignore[assignment]  # what makes an import fail
            try:
                return run(table)
            finally:
                del sys.modules[package]
                sys.modules.update(there)
                if held is not None:
                    sys.modules[package] = held

        return run_without

    monkeypatch.setattr(ray_data, "_shipped", bare)


@pytest.mark.parametrize("package", ["tiktoken", "tokenizers", "vocabtrim.calibrate"])
def test_a_worker_without_a_package(
    vocabtrim: Any, tiny: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    shipped_without(package, monkeypatch)
    out = tmp_path / "counts.safetensors"
    run = vocabtrim("count", corpus, "--tokenizer", tiny, "--engine", "ray", "--out", out)
    assert_bad_input(run, "a Ray worker on ", f"lacks the package {package}", "pip install 'vocabtrim[ray]==")
    assert not out.exists()


def test_a_worker_with_another_version(
    vocabtrim: Any, tiny: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_data, "version", lambda _: "99.0")  # the driver's; workers ask for themselves
    run = vocabtrim("count", corpus, "--tokenizer", tiny, "--engine", "ray")
    assert_bad_input(run, "another version of vocabtrim", "expected 99.0")


def test_a_path_that_workers_do_not_have(
    tiny: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer travels; the corpus does not."""
    real_pieces = cluster._pieces

    def gone(*args: Any, **options: Any) -> Any:
        pieces = real_pieces(*args, **options)
        (corpus / "a.txt").unlink()
        return pieces

    tokenizer = tmp_path / "tokenizer"
    tokenizer.symlink_to(tiny)
    monkeypatch.setattr(cluster, "_pieces", gone)
    with pytest.raises(VocabTrimError, match=r"a Ray worker on .* cannot read .*a\.txt.*: a shared folder"):
        count([corpus / "a.txt"], tokenizer=tokenizer, engine="ray")


def test_a_piece_that_kills_every_worker_is_given_up(
    vocabtrim: Any, tiny: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(task: str, job: bytes, wanted: str) -> Any:
        return lambda table: os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(ray_data, "_shipped", deadly)
    monkeypatch.setattr(ray_data, "_RETRIES", 1)
    run = vocabtrim("count", corpus / "a.txt", "--tokenizer", tiny, "--engine", "ray")
    assert run.code == 2 and run.out == ""
    assert run.err.strip().splitlines()[-1].startswith("vocabtrim: Ray could not finish a piece of the corpus")


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("d.jsonl", {"strict": True}, r"d\.jsonl, line 2: malformed JSON"),
        ("d.jsonl", {"text_field": "none"}, "no record of .* can be used .*no field 'none'"),
        ("h.bin", {}, "no token was counted"),
        ("i.txt", {"chat": True}, "is plain text, which holds no chat"),
        ("bad.jsonl.gz", {}, "is damaged or cut off"),
    ],
)
def test_what_the_local_engine_refuses(
    tiny: Path, corpus: Path, name: str, options: dict[str, Any], message: str
) -> None:
    """In the same words."""
    (corpus / "bad.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00 this is no gzip")
    said = []
    for engine in ("local", "ray"):
        with pytest.raises(VocabTrimError, match=message) as refused:
            count([corpus / name], tokenizer=tiny, engine=engine, **options)
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_a_tokenizer_without_a_chat_template(tiny: Path, corpus: Path, tmp_path: Path) -> None:
    """The folder that is named is the user's, not the one a worker unpacked."""
    chats = write_jsonl(corpus / "x.jsonl", [{"messages": CHAT}])
    (tmp_path / "bare.json").write_bytes((tiny / "tokenizer.json").read_bytes())
    said = []
    for engine in ("local", "ray"):
        with pytest.raises(VocabTrimError, match="has no chat template") as refused:
            count([chats], tokenizer=tmp_path / "bare.json", engine=engine)
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_standard_input_and_pipes(tiny: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source in ("-", tmp_path / "pipe"):
        with pytest.raises(VocabTrimError, match="standard input or a pipe"):
            count([source], tokenizer=tiny, engine="ray")


def test_a_ray_of_its_own_leaves_nothing_behind(
    vocabtrim_process: Any, tiny: Path, corpus: Path, tmp_path: Path
) -> None:
    """As a user runs it: no Ray is running; stdout is one JSON object, and no unpacked tokenizer stays."""
    out, scratch = tmp_path / "counts.safetensors", tmp_path / "scratch"
    scratch.mkdir()
    environment = {
        **os.environ,
        "TMPDIR": str(scratch),
        "RAY_TMPDIR": tempfile.gettempdir(),
    }
    run = vocabtrim_process(
        *("count", corpus, "--tokenizer", tiny, "--engine", "ray", "--workers", 1, "--out", out, "--json"),
        env=environment,
    )
    assert run.code == 0, run.err
    assert run.json["counts_hash"] == TokenCounts.load(out).hash == count([corpus], tokenizer=tiny).hash
    assert run.err == "" and not list(scratch.glob("vocabtrim-*"))


def test_no_ray_at_an_address(vocabtrim_process: Any, tiny: Path, corpus: Path) -> None:
    run = vocabtrim_process(
        "count", corpus, "--tokenizer", tiny, "--engine", "ray", "--ray-address", "ray.invalid:6379"
    )
    assert_bad_input(run, "no Ray can be reached at ray.invalid:6379", "--ray-address")
