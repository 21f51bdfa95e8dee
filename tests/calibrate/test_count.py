"""count, from files to counts: the library function and the command line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import assert_bad_input
from tiny_tokenizer import TEXT, write_jsonl
from vocabtrim import TokenCounts, VocabTrimError, count
from vocabtrim.calibrate import count as count_module
from vocabtrim.calibrate.count import Progress
from vocabtrim.calibrate.encoder import Encoder
from vocabtrim.calibrate.tokenizer import load_tokenizer

ANSWERS = [{"prompt": f"Question {n}?", "completion": f"The answer is {n}, of course."} for n in range(300)]


def expected(tokenizer: Path, texts: list[str], stops: int = 0) -> list[int]:
    """Counts as `tokenizers` gives them, and so many stop tokens."""
    loaded = load_tokenizer(tokenizer)
    ids = [i for encoding in loaded.encode_batch(texts, add_special_tokens=False) for i in encoding.ids]
    tally = np.bincount(ids, minlength=loaded.get_vocab_size())
    tally[loaded.token_to_id("<|end|>")] += stops
    return tally.tolist()


def together(counts: TokenCounts) -> list[int]:
    return (counts.counts + counts.heldout).tolist()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(TEXT * 5), encoding="utf-8", newline="")
    return path


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "answers.jsonl", ANSWERS)


def test_text_is_counted_whole(tiny: Path, text: Path) -> None:
    counts = count([text], tokenizer=tiny)
    assert together(counts) == expected(tiny, [text.read_bytes().decode()])
    assert counts.documents > 3 and not counts.skipped
    assert counts.sources[0].details["encoder"] == "tiktoken"


def test_completions_are_counted_with_their_stop_token(tiny: Path, answers: Path) -> None:
    counts = count([answers], tokenizer=tiny)
    assert together(counts) == expected(tiny, [record["completion"] for record in ANSWERS], stops=300)
    assert counts.documents == 300 and counts.sources[0].details["forms"] == {"completion": 300}


def test_chats_count_what_the_target_writes(tiny: Path, tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": "do not count me"},
        {"role": "assistant", "content": " first "},
        {"role": "user", "content": "nor me"},
        {"role": "assistant", "content": "second"},
    ]
    path = write_jsonl(tmp_path / "chat.jsonl", [{"messages": chat}])
    counts = count([path], tokenizer=tiny, chat=True, heldout=0)
    assert together(counts) == expected(tiny, ["first", "second"], stops=2)


def test_records_of_every_form_in_one_file(tiny: Path, tmp_path: Path) -> None:
    records = [
        {"text": "plain text"},
        {"prompt": "p", "completion": "completed"},
        {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "said"}]},
        {"nothing": "usable"},
        {"messages": [{"role": "user", "content": "x"}]},
        {"text": "half \ud800 a pair"},
    ]
    counts = count([write_jsonl(tmp_path / "r.jsonl", records)], tokenizer=tiny, heldout=0)
    assert together(counts) == expected(tiny, ["plain text", "completed", "said"], stops=2)
    assert counts.skipped == {
        "no usable field": 1,
        "chat without an assistant turn": 1,
        "text with half a surrogate pair": 1,
    }
    assert counts.sources[0].details["forms"] == {"text": 1, "completion": 1, "chat": 1}


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson.bz2", "a.JSONL.xz", "a.jsonl.zst", "a.log", "a"])
def test_json_lines_under_every_name_and_compression(tiny: Path, tmp_path: Path, name: str) -> None:
    content = "".join(json.dumps(record) + "\n" for record in ANSWERS).encode()
    if name.endswith("zst"):
        content = pytest.importorskip("zstandard").ZstdCompressor().compress(content)
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(name.rpartition(".")[2], bytes)
    (tmp_path / name).write_bytes(compress(content))
    counts = count([tmp_path / name], tokenizer=tiny)
    assert together(counts) == expected(tiny, [record["completion"] for record in ANSWERS], stops=300)


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a"])
@pytest.mark.parametrize("indent", [None, 1])
def test_json_arrays(tiny: Path, tmp_path: Path, name: str, indent: int | None) -> None:
    content = json.dumps(ANSWERS, indent=indent).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert count([tmp_path / name], tokenizer=tiny).documents == 300


def test_parquet(tiny: Path, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(ANSWERS), tmp_path / "a.parquet")
    counts = count([tmp_path / "a.parquet"], tokenizer=tiny)
    assert together(counts) == expected(tiny, [record["completion"] for record in ANSWERS], stops=300)
    assert count([tmp_path / "a.parquet"], tokenizer=tiny, text_field="prompt", heldout=0).documents == 300


def test_chats_in_parquet(tiny: Path, tmp_path: Path) -> None:
    """Parquet gives every message every key: a null where a turn has no tool calls."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    chat = [
        {"role": "user", "content": "x", "tool_calls": None},
        {"role": "assistant", "content": "said", "tool_calls": None},
        {"role": "assistant", "content": "called", "tool_calls": [call]},
    ]
    parquet.write_table(arrow.Table.from_pylist([{"messages": chat}]), tmp_path / "a.parquet")
    counts = count([tmp_path / "a.parquet"], tokenizer=tiny, heldout=0)
    assert together(counts) == expected(tiny, ["said", "called"], stops=2)


def test_folder_glob_and_origins(tiny: Path, tmp_path: Path, text: Path, answers: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.md").write_text("more text")
    (tmp_path / "sub" / "image.png").write_bytes(b"\x89PNG\0\0")
    counts = count([tmp_path, f"target-generated:{tmp_path}/*.jsonl"], tokenizer=tiny, heldout=0)
    folder, matched = counts.sources
    assert (folder.origin, matched.origin) == ("raw", "target-generated")
    assert matched.counts.tolist() == expected(tiny, [record["completion"] for record in ANSWERS], stops=300)
    rest = expected(tiny, [text.read_bytes().decode(), "more text"])
    assert (folder.counts - matched.counts).tolist() == rest
    assert counts.skipped == {"binary file": 1}
    assert counts.counts.tolist() == (folder.counts + matched.counts).tolist()


@pytest.mark.parametrize(
    "content", ["just text\nin lines", '{"text": "just text\\nin lines"}', '[{"text": "just text\\nin lines"}]']
)
def test_standard_input_is_told_by_how_it_begins(tiny: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert together(count(["-"], tokenizer=tiny, heldout=0)) == expected(tiny, ["just text\nin lines"])


def test_a_named_pipe(tiny: Path, tmp_path: Path) -> None:
    """As in `vocabtrim count <(zcat logs.gz)`."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("piped text",))
    writer.start()
    counts = count([tmp_path / "pipe"], tokenizer=tiny, heldout=0)
    writer.join()
    assert together(counts) == expected(tiny, ["piped text"])


def test_the_split_is_by_content(tiny: Path, tmp_path: Path) -> None:
    """Same text, same side: in another order, another file, another form, and twice over."""
    texts = [f"text number {n}" for n in range(400)]
    forward = count([write_jsonl(tmp_path / "a.jsonl", [{"text": t} for t in texts])], tokenizer=tiny, heldout=0.3)
    backward = count([write_jsonl(tmp_path / "b.jsonl", texts[::-1] * 2)], tokenizer=tiny, heldout=0.3)
    assert (2 * forward.counts).tolist() == backward.counts.tolist()
    assert (2 * forward.heldout).tolist() == backward.heldout.tolist()
    # 400 documents at 0.3: 120 expected, standard deviation 9.2; the hash is fixed, so this cannot fail by chance.
    assert forward.sources[0].details["heldout_documents"] == 117


def test_a_larger_share_holds_out_the_same_documents_and_more(tiny: Path, answers: Path) -> None:
    small, large = (count([answers], tokenizer=tiny, heldout=share) for share in (0.1, 0.5))
    assert (small.heldout <= large.heldout).all() and small.heldout.sum() < large.heldout.sum()
    assert together(small) == together(large)


def test_nothing_held_out(tiny: Path, answers: Path) -> None:
    assert not count([answers], tokenizer=tiny, heldout=0).heldout.any()


def test_workers_and_batches_change_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": f"{t} {n}"} for n in range(30) for t in TEXT])
    whole = count([path], tokenizer=tiny, workers=1)
    monkeypatch.setattr("vocabtrim.calibrate.tally._BATCH", 500)
    monkeypatch.setattr("vocabtrim.calibrate.tally._SAMPLE", 200)
    assert count([path], tokenizer=tiny, workers=7).hash == whole.hash


def test_no_more_than_a_few_batches_are_read_ahead(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constant memory: while nothing can be tokenised, reading stops."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * 1000 + str(n)} for n in range(3000)])
    monkeypatch.setattr("vocabtrim.calibrate.tally._BATCH", 10_000)
    monkeypatch.setattr("vocabtrim.calibrate.tally._SAMPLE", 1)
    gate, read_when_first_batch_ended, blocks = threading.Event(), [], []
    real_count, real_batches = Encoder.count, count_module.batches

    def slow_count(self: Encoder, texts: Any) -> Any:
        gate.wait(0.5)
        read_when_first_batch_ended.append(len(blocks))
        gate.set()
        return real_count(self, texts)

    def counted_batches(*args: Any) -> Any:
        for batch in real_batches(*args):
            blocks.append(1)
            yield batch

    monkeypatch.setattr(Encoder, "count", slow_count)
    monkeypatch.setattr("vocabtrim.calibrate.count.batches", counted_batches)
    count([path], tokenizer=tiny, workers=2)
    assert len(blocks) > 250 and read_when_first_batch_ended[0] <= 2 * 2 + 2


def test_provenance(tiny: Path, answers: Path) -> None:
    import hashlib

    counts = count([answers], tokenizer=tiny)
    digest = hashlib.sha256(answers.read_bytes()).hexdigest()
    (file,) = counts.sources[0].details["files"]
    assert file == {"path": str(answers), "bytes": answers.stat().st_size, "sha256": digest}
    assert counts.provenance["inputs"] == {"tokenizer": counts.tokenizer.hash, str(answers): digest}
    assert counts.provenance["arguments"]["heldout"] == 0.1
    assert counts.provenance["tool"] == "vocabtrim"


def test_progress_reaches_the_known_size(
    tiny: Path, answers: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    seen: list[Progress] = []
    count([answers, text], tokenizer=tiny, on_progress=seen.append)
    assert seen[-1].bytes_read == seen[-1].bytes_known == answers.stat().st_size + text.stat().st_size
    assert [progress.bytes_read for progress in seen] == sorted(progress.bytes_read for progress in seen)


def test_real_questions_and_answers(data: Path) -> None:
    """GSM8K under Llama 3.2: every answer's tokens, and <|eot_id|> once for each of the 1,319."""
    path = data / "text/gsm8k_test.jsonl"
    counts = count([path], tokenizer=data / "tokenizers/llama3_2", prompt_field="question", completion_field="answer")
    texts = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    loaded = load_tokenizer(data / "tokenizers/llama3_2")
    ids = [i for encoding in loaded.encode_batch(texts, add_special_tokens=False) for i in encoding.ids]
    tally = np.bincount(ids, minlength=128_256)
    tally[128_009] += 1319
    assert together(counts) == tally.tolist()


def test_recorded_generations(data: Path) -> None:
    """`output` is a list with one string, `model_input` the prompt as it was fed."""
    path = data / "recorded/zeroeval_crux_llama3.1-8b.json"
    counts = count(
        [f"target-generated:{path}"],
        tokenizer=data / "tokenizers/llama3_2",
        prompt_field="model_input",
        completion_field="output",
    )
    assert counts.documents == 800 and together(counts)[128_009] == 800
    assert counts.sources[0].origin == "target-generated"


# The command line


def test_count_and_merge_by_hand(vocabtrim: Any, tiny: Path, text: Path, answers: Path, tmp_path: Path) -> None:
    one, two, both = (tmp_path / name for name in ("1.safetensors", "2.safetensors", "both.safetensors"))
    run = vocabtrim("count", text, "--tokenizer", tiny, "--out", one)
    assert run.code == 0, run.err
    assert "text.txt" in run.out and "tokenised by tiktoken" in run.out and str(one) in run.out
    run = vocabtrim("count", f"target-generated:{answers}", "--tokenizer", tiny, "--out", two, "--json")
    assert run.code == 0
    counts = TokenCounts.load(two)
    assert run.json["tokens"] == counts.tokens == int(sum(together(counts)))
    assert (run.json["documents"], run.json["distinct"], run.json["skipped"]) == (300, counts.distinct, {})
    assert run.json["sources"][0]["origin"] == "target-generated"
    run = vocabtrim("merge", one, two, "--weight", "1", "--weight", "3", "--out", both)
    assert run.code == 0 and "together" in run.out
    merged = load_file(both)
    assert (merged["counts"] == load_file(one)["counts"] + 3 * load_file(two)["counts"]).all()
    assert vocabtrim("merge", one, two, "--out", both, "--json").json["tokens"] == TokenCounts.load(both).tokens


def test_skipped_is_shown_by_reason(vocabtrim: Any, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\nbad\n{"text": "caf\xe9"}\n{"text": ""}\nworse\n')
    run = vocabtrim("count", path, "--tokenizer", tiny, "--heldout", "0", "--out", tmp_path / "c")
    assert run.code == 0
    assert "skipped 2: malformed JSON" in run.out and "skipped 1: invalid UTF-8" in run.out
    assert "skipped 1: no text in it" in run.out


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (b'{"text": "good"}\n\nbad\n', ("a.jsonl, line 3: malformed JSON", "--strict")),
        (b'{"text": "good"}\n{"text": "caf\xe9"}\n', ("a.jsonl, line 2: invalid UTF-8",)),
        (b'{"text": "good"}\n{"question": "x"}\n', ("a.jsonl, line 2: no usable field",)),
    ],
)
def test_strict_stops_with_file_and_line(
    vocabtrim: Any, tiny: Path, tmp_path: Path, content: bytes, facts: tuple[str, ...]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    run = vocabtrim("count", tmp_path / "a.jsonl", "--tokenizer", tiny, "--strict", "--out", tmp_path / "c")
    assert_bad_input(run, *facts)
    assert not (tmp_path / "c").exists()


def test_strict_text(vocabtrim: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\n" * 4000 + b"caf\xe9\n")
    run = vocabtrim("count", tmp_path / "a.txt", "--tokenizer", tiny, "--strict", "--out", tmp_path / "c")
    assert_bad_input(run, "a.txt, line 4001: invalid UTF-8")


@pytest.mark.parametrize(
    "case",
    [
        ("a.txt", b"", (), ("no token was counted", "empty sources")),
        ("a.jsonl", b"bad\nbad\n", (), ("no token was counted", "2 times malformed JSON")),
        ("a.txt", b"\xff\xfe\x00h\x00i", (), ("no token was counted", "binary file")),
        ("a.jsonl", b'{"q": "x", "a": "y"}\n', (), ("no record", "messages, prompt and completion, or text", "q, a")),
        ("a.jsonl", b'{"q": "x"}\n', ("--text-field", "text"), ("no field 'text'", "fields q")),
        ("a.jsonl", b'{"q": "x"}\n' * 2000, ("--completion-field", "a"), ("no field 'a'", "fields q")),
        ("a.jsonl", b'{"text": "x"}\n', ("--chat",), ("no chat", "expected messages", "fields text")),
        ("a.txt", b"text", ("--chat",), ("plain text, which holds no chat",)),
        ("a.txt", b"text", ("--heldout", "1"), ("held-out share", "found 1.0")),
        ("a.txt", b"text", ("--heldout", "0.999999"), ("every document fell into the held-out part",)),
        ("a.txt", b"text", ("--workers", "0"), ("number of workers", "found 0")),
        ("a.txt", b"text", ("--origin", "web"), ("unknown origin", "'web'")),
        ("a.txt", b"text", ("--prompt-field", "p"), ("--completion-field",)),
        ("a.txt", b"text", ("--text-field", "a", "--chat"), ("--text-field and --chat",)),
        ("a.txt.gz", gzip.compress(b"text" * 1000)[:-5], (), ("a.txt.gz is damaged or cut off",)),
        ("a.parquet", b"PAR1 and nothing else", (), ("cannot be read as Parquet",)),
    ],
)
def test_bad_input(vocabtrim: Any, tiny: Path, tmp_path: Path, case: tuple[str, bytes, tuple, tuple]) -> None:
    name, content, options, facts = case
    (tmp_path / name).write_bytes(content)
    run = vocabtrim("count", tmp_path / name, "--tokenizer", tiny, "--out", tmp_path / "c", *options)
    assert_bad_input(run, *facts)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_missing_files(vocabtrim: Any, tiny: Path, tmp_path: Path, text: Path) -> None:
    out = ("--out", tmp_path / "c")
    assert_bad_input(vocabtrim("count", "no.txt", "--tokenizer", tiny, *out), "no.txt does not exist")
    assert_bad_input(vocabtrim("count", "no*.txt", "--tokenizer", tiny, *out), "no file matches no*.txt")
    assert_bad_input(vocabtrim("count", text, "--tokenizer", tmp_path / "t", *out), "no tokenizer at")
    assert_bad_input(vocabtrim("merge", tmp_path / "no", *out), "do not exist")


def test_parquet_without_pyarrow(vocabtrim: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    run = vocabtrim("count", tmp_path / "a.parquet", "--tokenizer", tiny, "--out", tmp_path / "c")
    assert_bad_input(run, "needs the pyarrow package", "vocabtrim[data]")


def test_merging_counts_of_different_tokenizers(
    vocabtrim: Any, tiny: Path, data: Path, text: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    vocabtrim("count", text, "--tokenizer", tiny, "--out", one)
    vocabtrim("count", text, "--tokenizer", data / "tokenizers/mistral-v0.1", "--out", two)
    hashes = [TokenCounts.load(path).tokenizer.hash for path in (one, two)]
    run = vocabtrim("merge", one, two, "--out", tmp_path / "c")
    assert_bad_input(run, *hashes)


def test_wrong_number_of_weights(vocabtrim: Any, tiny: Path, text: Path, tmp_path: Path) -> None:
    vocabtrim("count", text, "--tokenizer", tiny, "--out", tmp_path / "1")
    run = vocabtrim("merge", tmp_path / "1", "--weight", "1", "--weight", "2", "--out", tmp_path / "c")
    assert_bad_input(run, "1 weights for 1 files", "found 2")


@pytest.mark.parametrize("verb", ["count", "merge"])
def test_help_has_an_example(vocabtrim: Any, verb: str) -> None:
    run = vocabtrim(verb, "--help")
    assert run.code == 0 and f"Example: vocabtrim {verb}" in " ".join(run.out.split())


def test_as_a_process_with_standard_input(vocabtrim_process: Any, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    run = vocabtrim_process(
        "count", "-", "--tokenizer", tiny, "--out", out, "--json", "--heldout", "0", input="piped in"
    )
    assert run.code == 0, run.err
    assert run.json["tokens"] == sum(expected(tiny, ["piped in"])) and run.err == ""


def test_an_error_in_a_worker_reaches_the_caller(tiny: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Encoder, texts: Any) -> Any:
        raise VocabTrimError("worker failed", remedy="none")

    monkeypatch.setattr(Encoder, "count", fail)
    with pytest.raises(VocabTrimError, match="worker failed"):
        count([text], tokenizer=tiny)


def test_files_without_the_field_are_named(vocabtrim: Any, tiny: Path, tmp_path: Path) -> None:
    """A glob over two data sets of which one calls its text otherwise: half of the text is missing, and which."""
    write_jsonl(tmp_path / "code.jsonl", [{"text": "some text"}] * 30)
    write_jsonl(tmp_path / "maths.jsonl", [{"answer": "some text"}] * 5)
    for source in (tmp_path, tmp_path / "*.jsonl"):
        run = vocabtrim(
            "count", source, "--text-field", "text", "--tokenizer", tiny, "--out", tmp_path.with_suffix(".c")
        )
        assert run.code == 0 and "skipped 5: no field 'text' (maths.jsonl)" in run.out


def test_the_files_without_the_field_that_are_named_are_few(tiny: Path, tmp_path: Path) -> None:
    for number in range(50):
        write_jsonl(tmp_path / f"{number}.jsonl", [{"answer": "x"}])
    write_jsonl(tmp_path / "a.jsonl", [{"text": "some text"}])
    skipped = count([tmp_path], tokenizer=tiny, text_field="text", heldout=0).skipped
    assert len(skipped) == 21 and skipped["no field 'text'"] == 30
