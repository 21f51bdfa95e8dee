"""Worked math (GSM8K) and small programs (MBPP) as conversations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from .documents import Document, chat

_CALCULATOR = re.compile(r"<<[^>]*>>")


def math(file: Path) -> Iterator[Document]:
    """GSM8K, without its calculator marks; the last line names the answer."""
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        steps, _, result = _CALCULATOR.sub("", record["answer"]).partition("\n#### ")
        yield chat("math", record["question"], record["question"].strip(), f"{steps}\nThe answer is {result.strip()}.")


def code(file: Path) -> Iterator[Document]:
    """MBPP: the task with its first test, which fixes the function's name; the answer is a fenced program."""
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        program = "\n".join(part.rstrip() for part in record["code"].replace("\t", "    ").splitlines()).strip()
        question = f"{record['text'].strip()}\nIt must pass: {record['test_list'][0].strip()}"
        yield chat("code", record["text"], question, fenced(program))


def fenced(program: str) -> str:
    """A program as models write it."""
    return f"```python\n{program}\n```"
