"""The one way in which foreign text gets onto a page or into Markdown."""

from __future__ import annotations

import html
import re

from .words import printable

_PERCENT = re.compile(r"(?<=\d) %")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|$~])")


def text(value: object) -> str:
    """As the content of an element, or of an attribute between double quotes; a number and its % stay together."""
    return html.escape(_PERCENT.sub("\u00a0%", printable(value)))


def markdown(value: object) -> str:
    """As running text or a table's cell: no character of it is markup."""
    return _MARKDOWN.sub(r"\\\1", printable(value))
