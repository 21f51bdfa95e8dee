"""A file whose every record is needed: JSON lines, a JSON array or Parquet, compressed or not, read whole or refused.

Knows files and places; knows nothing of fields. Calibration text leaves out what it cannot read and counts it; a
measurement that left out a question would be another measurement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..calibrate.container import container_of, is_parquet
from ..calibrate.records import Record, json_lines, json_values, parquet_rows
from ..calibrate.streams import open_stream
from ..errors import InputError


def read_records(path: str | Path, columns: Sequence[str]) -> Iterator[tuple[str, Record]]:
    """Yield (place, record) of every record, places as "line 3"; empty lines are passed over.

    columns: what to read of Parquet; of the other containers a record comes with all its fields.
    Raises InputError with file and place at the first record that cannot be read, and for a missing, empty or damaged
    file.
    """
    file = Path(path)
    if not file.exists():
        raise InputError(f"{file} does not exist", remedy="check the path")
    if file.is_dir():
        raise InputError(f"{file} is a folder", expected="a file", remedy="name the file in it")
    records = _records(file, columns)
    first = next(records, None)
    if first is None:
        raise InputError(f"{file} holds no record", remedy="check the path, or get the file again")
    yield first
    yield from records


def _records(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, Record]]:
    def refuse(reason: str, place: str) -> None:
        raise InputError(f"{file}, {place}: {reason}", remedy="correct it, or get the file again if it was cut off")

    if is_parquet(file):
        yield from parquet_rows(file, columns)
        return
    with open_stream(file, lambda _: None, {}) as stream:
        container = json_values if container_of(file, stream) is json_values else json_lines
        yield from container(stream, refuse)
