"""What a document is counted under when a collection is split: its language, or a field of its record.

Knows texts and labels; knows nothing of counts. The language comes from lingua, which is asked only when wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import InputError, UnsupportedError
from .forms import Document

LANGUAGE = "language"
OTHER = "other"  # what has no value, or is too short to tell
MOST_LABELS = 100  # more are names or numbers of records, not kinds of them

# lingua's models of short word pieces tell languages apart from about a sentence on; code and figures look like any.
_LETTERS = 60
_CHARACTERS = 1000
_SURE = 0.6

# Of a language with as few documents as this most are likely to be wrong guesses, of formulas for example.
_FEWEST_DOCUMENTS = 10
_FEWEST_SHARE = 0.005

Labeller = Callable[[Document], str]


def labeller(split_by: str) -> Labeller:
    """What tells the label of a document: by "language", else by the field of its record, which `Forms` kept.

    Raises UnsupportedError where lingua is not installed.
    """
    return _language() if split_by == LANGUAGE else _field_value


def _field_value(document: Document) -> str:
    return OTHER if document.label is None else document.label


def _language() -> Labeller:
    """English names in small letters ("french"); "other" for short texts and for those no language is likely for."""
    try:
        from lingua import LanguageDetectorBuilder
    except ImportError as error:
        raise UnsupportedError(
            "splitting by language needs lingua", remedy="pip install 'vocabtrim[language]'"
        ) from error
    detector: Any = LanguageDetectorBuilder.from_all_languages().with_low_accuracy_mode().build()

    def label(document: Document) -> str:
        text = (" ".join(document.texts) or document.answer)[:_CHARACTERS]
        if sum(map(str.isalpha, text)) < _LETTERS:
            return OTHER
        likeliest = detector.compute_language_confidence_values(text)[0]
        return str(likeliest.language.name).lower() if likeliest.value >= _SURE else OTHER

    return label


def is_guess(split_by: str | None, documents: int, of_all: int) -> bool:
    """Whether a label with so many documents tells nothing but that the language was guessed wrong."""
    return split_by == LANGUAGE and documents < _FEWEST_DOCUMENTS and documents < _FEWEST_SHARE * of_all


def refuse_many(labels: int, split_by: str) -> None:
    """Raises InputError for a field whose values are no kinds."""
    if labels > MOST_LABELS:
        raise InputError(
            f"--split-by {split_by} makes too many sources",
            expected=f"at most {MOST_LABELS} different values",
            found=f"{labels} so far",
            remedy="name a field with a few kinds, such as a category",
        )
