"""Other people's recordings of a target, as text: ZeroEval's result files, and chats whose answers the target wrote.

The text is tokenised again. That is what the target emitted wherever it took the tokenizer's own way through the text,
which targets nearly always do. Knows fields, containers and tokenizers; knows nothing of drafters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..calibrate.chat import ChatTemplate, openai_messages, tool_definitions
from ..calibrate.forms import CHAT_FIELDS, NO_TURN
from ..calibrate.loops import ends_in_circles
from ..calibrate.records import json_lines, json_values
from ..calibrate.streams import open_stream
from ..calibrate.tokenizer import OpenTokenizer
from ..decoding.stopping import Reason
from ..errors import InputError
from .recording import Recorded

LOOPS = "output that repeats itself"
NO_OUTPUT = "no output in it"
NO_RECORDING = "neither a chat nor a ZeroEval result"
NO_PROMPT = "no prompt before the output"
MALFORMED_CHAT = "malformed chat message"


class ForeignRecordings:
    """Reads them with the target's tokenizer, and counts in `skipped` what it leaves out, by its reason.

    keep_loops: take outputs that go round in circles too. group_by: the field of a record that is its category.
    """

    def __init__(self, opened: OpenTokenizer, *, group_by: str = "category", keep_loops: bool = False) -> None:
        self._tokenizer, self._template = opened.tokenizer, ChatTemplate(opened)
        self._group_by, self._keep_loops = group_by, keep_loops
        self.skipped: Counter[str] = Counter()

    def read(self, file: Path) -> Iterator[Recorded]:
        """The generations of a file of JSON lines or of one JSON array, compressed or not.

        Raises InputError where not one of its records is a recording of a known form, and what `open_stream` raises.
        """
        lines = ".jsonl" in file.suffixes or ".ndjson" in file.suffixes
        wrong: list[str] = []
        usable = False
        with open_stream(file, lambda _: None, {}) as stream:
            records = json_lines(stream, self._skip) if lines else json_values(stream, self._skip)
            for place, record in records:
                known = self._generations(place, record, file.name)
                if known is None:
                    self._skip(NO_RECORDING, place)
                    wrong = wrong or (list(record) if isinstance(record, Mapping) else [type(record).__name__])
                    continue
                usable = True
                yield from known
        if not usable:
            raise InputError(
                f"{file} holds no recording",
                expected="records with messages, or with model_input and output",
                found=f"fields {', '.join(map(str, wrong[:8]))}" if wrong else "no record",
                remedy="pass a folder of `vocabtrim bench --record`, a ZeroEval result, or chats as JSON lines",
            )

    def _skip(self, reason: str, place: str) -> None:
        self.skipped[reason] += 1

    def _generations(self, place: str, record: Any, source: str) -> Iterator[Recorded] | None:
        """None for a record of no known form."""
        if not isinstance(record, Mapping):
            return None
        if isinstance(record.get("model_input"), str) and isinstance(record.get("output"), list):
            return self._zeroeval(place, record, source)
        chat = next((record[name] for name in CHAT_FIELDS if isinstance(record.get(name), list)), None)
        return None if chat is None else self._chat(place, record, chat, source)

    def _zeroeval(self, place: str, record: Mapping[str, Any], source: str) -> Iterator[Recorded]:
        """`model_input` is what the target read. Of its samples the first; the stop token is not in it."""
        text = record["output"][0] if record["output"] else None
        if not isinstance(text, str) or not text or not record["model_input"]:
            self._skip(NO_PROMPT if text else NO_OUTPUT, place)
        elif self._loops(text):
            self._skip(LOOPS, place)
        else:
            name = str(record.get("session_id") or record.get("id") or place)
            yield Recorded(name, self._ids(record["model_input"]), self._ids(text), self._category(record), source)

    def _chat(self, place: str, record: Mapping[str, Any], chat: list[Any], source: str) -> Iterator[Recorded]:
        """Every turn of the assistant is an output behind the turns before it, up to the template's stop token."""
        if not self._template.exists:
            raise InputError(
                "the tokenizer has no chat template, and the recording holds chats",
                expected="chat_template in tokenizer_config.json, or chat_template.jinja",
                remedy="pass the tokenizer of the target that wrote them",
            )
        messages = openai_messages(chat)
        if messages is None:
            self._skip(MALFORMED_CHAT, place)
            return
        turns, refused = self._template.turns(messages, tool_definitions(record.get("tools")))
        for reason in refused:
            self._skip(reason, place)
        if not turns and not refused:
            self._skip(NO_TURN, place)
        for number, turn in enumerate(turns):
            if not turn.text or not turn.before:
                self._skip(NO_PROMPT if turn.text else NO_OUTPUT, place)
            elif self._loops(turn.text):
                self._skip(LOOPS, place)
            else:
                yield Recorded(
                    name=f"{place}, turn {number + 1}",
                    prompt=self._ids(turn.before),
                    output=self._ids(turn.text) + (() if turn.stop is None else (turn.stop,)),
                    category=self._category(record),
                    source=source,
                    ended=None if turn.stop is None else Reason.STOP_ID,
                )

    def _loops(self, text: str) -> bool:
        return not self._keep_loops and ends_in_circles(text)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text.encode(errors="replace").decode(), add_special_tokens=False).ids)

    def _category(self, record: Mapping[str, Any]) -> str:
        return str(record.get(self._group_by, ""))
