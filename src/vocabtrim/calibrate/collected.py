"""Lines of the files that `vocabtrim collect` writes, as far as who writes them and who counts them must agree.

    {"vocabtrim": "collect", ...}                      the first line: of what the file is
    {"key", "prompt", "completion", "token_ids",       an answer: what was asked, the text, and its ids under the
     "tokenizer", ...}                                 tokenizer of that hash, the stop id included
    {..., "left_out": reason}                          an answer that is no calibration text

Knows fields; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tokenizer import TokenizerFacts

HEADER = "vocabtrim"
KEY, PROMPT, COMPLETION, TOKEN_IDS, TOKENIZER = "key", "prompt", "completion", "token_ids", "tokenizer"
LEFT_OUT = "left_out"


def passed_over(record: Any) -> bool:
    """Whether a record is no document: a first line, or an answer that was left out (and counted) by who wrote it."""
    if not isinstance(record, Mapping):
        return False
    return record.get(HEADER) == "collect" or (isinstance(record.get(LEFT_OUT), str) and KEY in record)


def recorded_ids(record: Mapping[str, Any], facts: TokenizerFacts) -> tuple[int, ...] | None:
    """The ids that an answer was written in; None where there are none, or they are another tokenizer's."""
    ids = record.get(TOKEN_IDS)
    if record.get(TOKENIZER) != facts.hash or not isinstance(record.get(KEY), str) or not isinstance(ids, list):
        return None
    return tuple(ids) if ids and all(type(token) is int for token in ids) else None
