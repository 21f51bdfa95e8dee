"""Sources in object stores, shown on file:// URIs: the same code reads s3:// and gs://, by pyarrow's filesystems."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow import parquet

from conftest import assert_bad_input
from vocabtrim import count
from vocabtrim.calibrate.sources import find_sources
from vocabtrim.calibrate.stores import shown
from vocabtrim.errors import InputError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder with a file of each container, some below, one hidden."""
    root = tmp_path / "store"
    (root / "sub" / ".hidden").mkdir(parents=True)
    (root / "a.txt").write_text("Plain text, and more of it.\n" * 50)
    (root / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(b'{"text": "record %d"}\n' % n for n in range(100))))
    (root / "sub" / "c.json").write_text(json.dumps([{"text": f"element {n}"} for n in range(50)]))
    parquet.write_table(arrow.table({"text": [f"row {n}" for n in range(50)]}), root / "sub" / "d.parquet")
    (root / "sub" / ".hidden" / "e.txt").write_text("never read")
    return root


def test_a_folder_counts_as_the_same_folder_on_disk(tiny: Path, store: Path) -> None:
    stored, local = (count([where], tokenizer=tiny) for where in (store.as_uri(), store))
    assert stored.hash == local.hash and stored.documents == local.documents > 150
    files, local_files = (counts.sources[0].details["files"] for counts in (stored, local))
    assert files == [{**file, "path": f"file://{file['path']}"} for file in local_files]
    assert stored.sources[0].name == local.sources[0].name == "store"


def test_files_and_patterns(store: Path) -> None:
    uri = store.as_uri()
    (one, several) = find_sources([f"target-generated:{uri}/a.txt", f"{uri}/*/*.[jp]*"], "raw")
    assert (one.name, one.origin, one.argument) == ("a.txt", "target-generated", f"{uri}/a.txt")
    assert not one.from_folder and one.known_bytes == (store / "a.txt").stat().st_size
    assert list(map(str, several.files)) == [f"{uri}/sub/c.json", f"{uri}/sub/d.parquet"]


def test_a_key_in_a_uri_is_not_shown() -> None:
    assert shown("s3://name:secret@bucket/folder?region=r&secret_key=k", "bucket/folder") == "s3://bucket/folder"
    with pytest.raises(InputError) as refused:
        find_sources(["s3://name:secret@bucket/folder?no_such_option=1"], "raw")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("end", "facts"),
    [("/none.txt", ("none.txt", "does not exist")), ("/*.csv", ("*.csv", "does not exist"))],
)
def test_nothing_there(vocabtrim: Any, tiny: Path, store: Path, end: str, facts: tuple[str, ...]) -> None:
    run = vocabtrim("count", store.as_uri() + end, "--tokenizer", tiny, "--out", store / "counts.safetensors")
    assert_bad_input(run, *facts)
    assert not (store / "counts.safetensors").exists()


def test_an_unknown_store(vocabtrim: Any, tiny: Path) -> None:
    assert_bad_input(vocabtrim("count", "carrier-pigeon://coop/a.txt", "--tokenizer", tiny), "carrier-pigeon://")
