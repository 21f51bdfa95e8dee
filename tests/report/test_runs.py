"""What may stand on one page, and what is refused at the door: one line, never a traceback from deep inside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hand_runs import answer, header, method, run_of, three_way, write_run
from vocabtrim.errors import InputError, MismatchError
from vocabtrim.measure.records import ROUNDS, Run
from vocabtrim.report.runs import open_runs

Change = Callable[[dict[str, Any]], object]


def test_runs_of_one_target(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a", three_way()), write_run(tmp_path / "b", three_way(temperature=1.0))]
    assert [len(run.generated) for run in open_runs(folders)] == [32, 32]


@pytest.mark.parametrize("name", ["target", "tokenizer"])
def test_of_different_targets(tmp_path: Path, name: str) -> None:
    other = three_way()
    other.header["identity"][name] = "b" * 64
    folders = [write_run(tmp_path / "a", three_way()), write_run(tmp_path / "b", other)]
    with pytest.raises(MismatchError, match=f"b was measured on another {name} than .*expected {name} [at]{{12}}"):
        open_runs(folders)


def test_the_same_run_twice(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", three_way())
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InputError, match="is named twice"):
        open_runs([folder, tmp_path / "link"])


def test_nothing_that_every_method_answered(tmp_path: Path) -> None:
    run = run_of(header(method("full")), answer("a", "autoregressive", [1], [(1, 0, 1.0)]))
    with pytest.raises(InputError, match="no question that every method answered, found 1 answers and 0 failures"):
        open_runs([write_run(tmp_path / "a", run)])


def test_no_drafter(tmp_path: Path) -> None:
    run = run_of(header(), answer("a", "autoregressive", [1], [(1, 0, 1.0)]))
    with pytest.raises(InputError, match="measured no drafter, found the target alone"):
        open_runs([write_run(tmp_path / "a", run)])


def replace_method(**more: Any) -> Change:
    return lambda head: head["methods"][2].update(more)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda head: head.pop("made"), "no made that"),
        (lambda head: head.update(target=7), "no target that"),
        (lambda head: head.update(vocabulary="many"), "no vocabulary that"),
        (lambda head: head["identity"].pop("temperature"), "no temperature that"),
        (lambda head: head["identity"].update(temperature="hot"), "no temperature that"),
        (lambda head: head["identity"].update(methods=[]), "no fingerprints that"),
        (lambda head: head["methods"].pop(0), "no methods that"),
        (lambda head: head["methods"].append(3), "no methods that"),
        (lambda head: head["methods"].append(head["methods"][1]), "no methods that"),
        (replace_method(cost=None), "no methods that"),
        (replace_method(cost={"target_pass_bytes": 1}), "no methods that"),
        (replace_method(kept_size=0), "no methods that"),
        (replace_method(kept_size=11), "no methods that"),
        (replace_method(kept_ids=["a"]), "no methods that"),
        (lambda head: head["methods"][2]["cost"].update(target_pass_bytes=0), "no methods that"),
        (lambda head: head["methods"][2]["cost"].update(head_row_bytes="wide"), "no methods that"),
    ],
)
def test_a_damaged_header(tmp_path: Path, change: Change, said: str) -> None:
    folder = write_run(tmp_path / "a", three_way())
    spoil(folder, 0, change)
    with pytest.raises(InputError, match=said):
        open_runs([folder])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line.update(rounds=[]), "no round can give"),
        (lambda line: line["rounds"][0].__setitem__(0, 0), "no round can give"),
        (lambda line: line["rounds"][0].__setitem__(1, "three"), "no round can give"),
        (lambda line: line["rounds"][0].__setitem__(6, None), "no round can give"),
        (lambda line: line["rounds"][0].__setitem__(6, -1.0), "no round can give"),
        (lambda line: line["token_ids"].append(-1), "no round can give"),
        (lambda line: line["prompt_ids"].append("word"), "no round can give"),
        (lambda line: line.update(category=5), "no round can give"),
        (lambda line: line.update(method="nobody"), "no round can give"),
        (lambda line: [round.__setitem__(6, 0.0) for round in line["rounds"]], "took no time"),
    ],
)
def test_a_damaged_answer(tmp_path: Path, change: Change, said: str) -> None:
    folder = write_run(tmp_path / "a", three_way())
    spoil(folder, 2, change)
    with pytest.raises(InputError, match=said):
        open_runs([folder])


def spoil(folder: Path, number: int, change: Change) -> None:
    file = folder / ROUNDS
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines[number])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_good_one_is_good(tmp_path: Path) -> None:
    """Every damage above is to a run that passes: spoil() by itself spoils nothing."""
    folder = write_run(tmp_path / "a", three_way())
    spoil(folder, 0, lambda head: head)
    spoil(folder, 2, lambda line: line)
    (run,) = open_runs([folder])
    assert isinstance(run, Run) and len(run.generated) == 32
