"""Large files cut into sections: together they give the documents of the whole file, in the same order."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path

import pyarrow as arrow
import pytest
from pyarrow import parquet

from vocabtrim.calibrate.chat import ChatTemplate
from vocabtrim.calibrate.corpus import Ledger, section_documents
from vocabtrim.calibrate.forms import Document, Forms, UnusableError
from vocabtrim.calibrate.sections import Section, cut, whole
from vocabtrim.calibrate.sources import find_sources
from vocabtrim.calibrate.tokenizer import open_tokenizer


@pytest.fixture
def forms(tiny: Path) -> Forms:
    return Forms(ChatTemplate(open_tokenizer(tiny)))


def section_of(path: Path) -> Section:
    (source,) = find_sources([path], "raw")
    return whole(path, source)


def read(sections: list[Section], forms: Forms) -> tuple[list[Document], Ledger]:
    """Each section with a ledger of its own, as tasks read them."""
    documents, together = [], Ledger()
    for section in sections:
        ledger = Ledger()
        documents += [d for d in section_documents(section, forms, ledger, lambda _: None) if d is not None]
        together.add(ledger)
    return documents, together


def prove_cut(path: Path, forms: Forms, size: int, parts: int | None = None) -> list[Section]:
    """The sections say the same as the whole: documents, what was left out, size and hash."""
    section = section_of(path)
    sections = cut(section, size)
    assert parts is None or len(sections) == parts
    whole_documents, whole_ledger = read([section], forms)
    documents, ledger = read(sections, forms)
    assert documents == whole_documents
    assert (ledger.skipped, ledger.forms, ledger.files) == (
        whole_ledger.skipped,
        whole_ledger.forms,
        whole_ledger.files,
    )
    assert sum(part.bytes for part in sections) == pytest.approx(path.stat().st_size, abs=len(sections))
    return sections


def lines(seed: int, number: int = 400) -> list[str]:
    """JSON lines of all lengths, some empty, some broken."""
    draw = random.Random(seed)
    good = [
        json.dumps({"text": "wörd " * draw.randint(1, 200)}, ensure_ascii=draw.random() < 0.5) for _ in range(number)
    ]
    return [draw.choice(("", "{broken", "17", line, line, line, line)) for line in good]


@pytest.mark.parametrize("size", [1, 1000, 20_000, 10**9])
def test_json_lines(tmp_path: Path, forms: Forms, size: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines(0)), encoding="utf-8")
    assert len(prove_cut(path, forms, size)) == 1 or size < 10**9


def test_json_lines_that_no_name_tells(tmp_path: Path, forms: Forms) -> None:
    """A later part may begin with anything: its container is the file's."""
    path = tmp_path / "export"
    path.write_text('{"text": "first"}\n' + "not a record\n" * 300 + '{"text": "last"}', encoding="utf-8")
    assert len(prove_cut(path, forms, 500)) > 5


@pytest.mark.parametrize("size", [1, 9000, 100_000])
def test_plain_text(tmp_path: Path, forms: Forms, size: int) -> None:
    """Documents follow from the text before them, so sections end where documents do."""
    draw = random.Random(1)
    path = tmp_path / "a.txt"
    words = ["\n", "\n\n", " ", "word", "naïve", "\n  indented", "語" * 50, "\ufeff", "\t"]
    content = "\ufeff" + "".join(draw.choice(words) for _ in range(100_000)) + "x" * 200_000
    path.write_bytes(content.encode() + b"\n\xff\xfe bad\nend of it")
    assert len(prove_cut(path, forms, size)) > 3


def test_a_byte_order_mark_inside_a_text_is_kept(tmp_path: Path, forms: Forms) -> None:
    """Texts put one behind the other: there it is a character, in whichever section."""
    path = tmp_path / "a.txt"
    path.write_text("".join("\ufeff" + "line of text\n" * 400 for _ in range(20)), encoding="utf-8")
    assert len(prove_cut(path, forms, 1)) > 10


def test_a_text_that_looks_compressed_further_down(tmp_path: Path, forms: Forms) -> None:
    path = tmp_path / "a.txt"
    path.write_text("How bzip2 begins:\n" + "BZh\n" * 20_000, encoding="utf-8")
    assert len(prove_cut(path, forms, 1)) > 5


@pytest.mark.parametrize(("size", "parts"), [(1, 10), (10**9, 1)])
def test_parquet(tmp_path: Path, forms: Forms, size: int, parts: int) -> None:
    path = tmp_path / "a.parquet"
    table = arrow.table({"text": [f"row {n} " * 20 if n % 7 else None for n in range(1000)], "n": range(1000)})
    parquet.write_table(table, path, row_group_size=100)
    prove_cut(path, forms, size, parts)


def test_what_cannot_be_cut_stays_whole(tmp_path: Path, forms: Forms) -> None:
    array = tmp_path / "a.json"
    array.write_text(json.dumps([{"text": f"record {n}"} for n in range(500)]))
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(5000))))
    binary = tmp_path / "c"
    binary.write_bytes(b"\0" * 1000)
    for path in (array, packed, binary):
        prove_cut(path, forms, 10, parts=1)


def test_the_hash_of_a_cut_file_is_that_of_the_file(tmp_path: Path, forms: Forms) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines(2)), encoding="utf-8")
    first, *others = prove_cut(path, forms, 1000)
    assert first.story is not None and first.story["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all(section.story is None for section in others)


def test_ledgers_add_up_as_if_read_in_one_go() -> None:
    """The first twenty reasons with a file's name are told apart, whichever ledger they came in."""
    one, parts = Ledger(several=True), [Ledger(several=True) for _ in range(30)]
    for number, part in enumerate(parts):
        for ledger in (one, part):
            ledger.skip(f"f{number}", "malformed", "line 1")
            for _ in range(number + 1):
                ledger.skip_unusable(f"f{number}", UnusableError("no field", ["a"]), "line 2")
    together = Ledger(several=True)
    for part in parts:
        together.add(part)
    assert together.skipped == one.skipped and list(together.skipped) == list(one.skipped)
    assert len(together.skipped) == 21 and together.barren == one.barren == 495


def test_ledgers_lose_patience_where_one_would(tmp_path: Path) -> None:
    """A thousand unusable records before any document, over two ledgers; a document before them, and never."""

    def ledger(documents: int, lacking: int) -> Ledger:
        made = Ledger()
        made.forms.update({"text": documents} if documents else {})
        for _ in range(lacking):
            made.skip_unusable("f", UnusableError("no field", ["a"]), "line 1")
        return made

    together = ledger(0, 600)
    together.add(ledger(0, 399))
    assert not together.is_hopeless
    together.add(ledger(0, 1))
    assert together.is_hopeless
    together = ledger(1, 0)
    together.add(ledger(0, 2000))
    assert not together.is_hopeless
