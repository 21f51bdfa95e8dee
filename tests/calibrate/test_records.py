"""Records out of their containers, and what happens to those that cannot be read."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from vocabtrim.calibrate import records
from vocabtrim.calibrate.records import json_lines, json_values, parquet_rows
from vocabtrim.errors import InputError

Read = tuple[list[tuple[str, Any]], list[tuple[str, str]]]


def read(container: Any, content: str | bytes) -> Read:
    skipped: list[tuple[str, str]] = []
    stream = io.BufferedReader(io.BytesIO(content.encode() if isinstance(content, str) else content))
    return list(container(stream, lambda reason, place: skipped.append((reason, place)))), skipped


def test_json_lines_with_every_kind_of_bad_line() -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "a"}',
        b"",
        b"not json",
        b'{"text": "b"',
        b'{"text": "caf\xe9"}',
        b'"bare"',
        b"[" * 100_000,
        b'{"text": "c"}',
    ]
    content = b"\n".join(lines)
    found, skipped = read(json_lines, content)
    assert found == [("line 1", {"text": "a"}), ("line 6", "bare"), ("line 8", {"text": "c"})]
    assert skipped == [
        ("malformed JSON", "line 3"),
        ("malformed JSON", "line 4"),
        ("invalid UTF-8", "line 5"),
        ("malformed JSON", "line 7"),
    ]


def test_a_line_without_end_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_LONGEST_RECORD", 1000)
    found, skipped = read(json_lines, '{"a": 1}\n{"a": "' + "x" * 5_000_000 + '"}\n{"a": 3}\n')
    assert found == [("line 1", {"a": 1}), ("line 3", {"a": 3})]
    assert skipped == [("record over 64 MB", "line 2")]


@pytest.mark.parametrize("indent", [None, 2])
def test_json_array_over_many_blocks(indent: int | None) -> None:
    values = [{"text": "naïve 中文 " * (n % 500), "n": n} for n in range(3000)]
    content = json.dumps(values, ensure_ascii=False, indent=indent)
    assert len(content.encode()) > 4 << 20
    found, skipped = read(json_values, content)
    assert [value for _, value in found] == values and skipped == []
    assert found[0][0] == "record 1" and found[-1][0] == "record 3000"


def test_numbers_are_not_cut_at_a_block() -> None:
    values = list(range(10**6, 10**6 + 400_000))
    assert [value for _, value in read(json_values, json.dumps(values))[0]] == values


def test_a_record_larger_than_a_block() -> None:
    value = {"text": "x" * (5 << 20)}
    assert read(json_values, json.dumps([value, 1]))[0] == [("record 1", value), ("record 2", 1)]


def test_json_values_one_after_another() -> None:
    found, skipped = read(json_values, '\ufeff{"a": 1}\n{\n "a": 2\n}  {"a": 3}')
    assert [value for _, value in found] == [{"a": 1}, {"a": 2}, {"a": 3}] and not skipped


@pytest.mark.parametrize(
    ("content", "skipped"),
    [
        (b'[{"a": 1}, {"a": oops}, {"a": 3}]', ("malformed JSON", "record 2 and what follows")),
        (b'[{"a": 1}, {"a": 2', ("malformed JSON", "record 2 and what follows")),
        (b'[{"a": 1},', ("malformed JSON", "end of the array")),
        (b'[{"a": 1}', ("malformed JSON", "end of the array")),
        (b'[{"a": 1}, ' + b"[" * 100_000, ("malformed JSON", "record 2 and what follows")),
        (b'{"a": 1} x', ("malformed JSON", "record 2 and what follows")),
    ],
)
def test_json_that_breaks_off(content: bytes, skipped: tuple[str, str]) -> None:
    assert read(json_values, content) == ([("record 1", {"a": 1})], [skipped])


def test_invalid_utf8_in_an_array() -> None:
    found, skipped = read(json_values, b'["a", "caf\xe9"]')
    assert found == [] and [reason for reason, _ in skipped] == ["invalid UTF-8"]


def test_a_record_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_LONGEST_RECORD", 1000)
    found, skipped = read(json_values, '[1, "' + "x" * (9 << 20) + '", 3]')
    assert found == [("record 1", 1)] and skipped == [("record over 64 MB", "record 2 and what follows")]


def test_empty_content() -> None:
    for content in ("", " \n", "[]", "[ ]"):
        assert read(json_values, content) == ([], [])
    assert read(json_lines, "\n\n") == ([], [])


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"text": f"text {n}", "n": n, "messages": [{"role": "user", "content": "x"}]} for n in range(1000)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    everything = list(parquet_rows(tmp_path / "t.parquet", None))
    # Numbers are no text: their column is not even read.
    assert everything[999] == ("row 1000", {"text": "text 999", "messages": [{"role": "user", "content": "x"}]})
    assert [row for _, row in parquet_rows(tmp_path / "t.parquet", ["text"])] == [{"text": row["text"]} for row in rows]
    # Without the wanted column there is still something to name in the error.
    assert next(parquet_rows(tmp_path / "t.parquet", ["answer"])) == ("row 1", {"text": "text 0"})


def test_parquet_is_not_kept_in_memory(tmp_path: Path) -> None:
    """Two hundred row groups of 100 kB; reading them in one go, pyarrow had held on to all that it had read."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with parquet.ParquetWriter(tmp_path / "t.parquet", arrow.schema([("text", arrow.string())])) as writer:
        for group in range(200):
            texts = [random.Random(group * 10 + row).randbytes(5000).hex() for row in range(10)]
            writer.write_table(arrow.table({"text": texts}))
    before = arrow.total_allocated_bytes()
    held = [arrow.total_allocated_bytes() for _ in parquet_rows(tmp_path / "t.parquet", None)]
    assert len(held) == 2000 and max(held) - before < 3_000_000


def test_damaged_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + b"\0" * 100)
    with pytest.raises(InputError, match=r"t\.parquet cannot be read as Parquet"):
        list(parquet_rows(tmp_path / "t.parquet", None))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs the pyarrow package; install it with: pip install"):
        list(parquet_rows(tmp_path / "t.parquet", None))
