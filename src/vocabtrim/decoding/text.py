"""Words to ids and back: a prompt as its target wants it, and emitted tokens as text that grows while they come.

Knows tokenizers and chat templates; knows nothing of models. The same reading of `tokenizer.json` that counts
calibration text, so that ids mean here what they meant there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers.decoders import DecodeStream

from ..calibrate.chat import ChatTemplate
from ..calibrate.tokenizer import open_tokenizer
from ..errors import InputError


@dataclass(frozen=True)
class Piece:
    """Text that is certain by now. accepted: every token that it took was a draft that the target accepted."""

    text: str
    accepted: bool


class TargetText:
    """The tokenizer of a target. path: a folder, a `tokenizer.json` or a hub id. Raises InputError without one."""

    def __init__(self, path: str | Path) -> None:
        opened = open_tokenizer(path)
        self.tokenizer, self.template, self.facts = opened.tokenizer, ChatTemplate(opened), opened.facts
        added = self.tokenizer.get_added_tokens_decoder()
        self._special = frozenset(token for token, about in added.items() if about.special)

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation in the chat template, up to where the answer begins.

        messages: role and content of every turn. Raises InputError where the tokenizer has no template.
        """
        if not self.template.exists:
            raise InputError(
                "the tokenizer has no chat template",
                expected="chat_template in tokenizer_config.json",
                remedy="pass a prompt of plain text",
            )
        written = self.template.prompt(messages)
        return list(self.tokenizer.encode(written, add_special_tokens=False).ids)

    def prompt(self, text: str, *, chat: bool = True) -> list[int]:
        """Ids that the target reads: the text as a user's turn in its chat template, up to where the answer begins.

        Without a template, or without `chat`, the text as it is, with what the tokenizer itself puts around a text
        (most often a BOS). Raises InputError for an empty prompt and for one that is no Unicode.
        """
        if not text:
            raise InputError("the prompt is empty", expected="at least a letter", remedy="pass a prompt")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                "the prompt is no Unicode", expected="UTF-8", found=error, remedy="convert it to UTF-8"
            ) from error
        if chat and self.template.exists:
            return self.conversation([{"role": "user", "content": text}])
        return list(self.tokenizer.encode(text).ids)

    def encode(self, text: str) -> list[int]:
        """Ids of a text that stands behind others: nothing is put around it."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def tokenises_back(self, text: str) -> bool:
        """Whether the ids of a text are that text again, up to what the tokenizer makes of every text."""
        if "\ufffd" in text:  # bytes that were no character when they became text: their ids are lost
            return False
        normal = self.tokenizer.normalizer
        written = self.written_out(self.encode(text))
        return written.strip() in (text.strip(), text.strip() if normal is None else normal.normalize_str(text).strip())

    def decode(self, tokens: Sequence[int]) -> str:
        """Text as it is shown: special tokens are left out."""
        return str(self.tokenizer.decode(list(tokens)))

    def written_out(self, tokens: Sequence[int]) -> str:
        """Text with special tokens in it, in which stop strings are looked for."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))

    def silent(self, token: int) -> bool:
        """Whether a token is never shown: a special one, or a row of the head that no token has."""
        return token in self._special or self.tokenizer.id_to_token(token) is None


class TextStream:
    """Tokens in, pieces of text out: whole characters, and nothing that may turn out to begin a stop string.

    All pieces together are the text of all tokens, cut before the stop string where one ended the generation. A stop
    string behind which more tokens come was none: a token that is not shown stood in its middle. Bytes that form no
    character may make a decoder take back characters before them; what was given out then stays.
    """

    def __init__(self, words: TargetText, stop_strings: Sequence[str] = ()) -> None:
        self._words, self._stop_strings = words, tuple(stop_strings)
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._tokens: list[int] = []  # all that are shown
        self._text = ""  # of theirs, as far as its characters are whole
        self._unsaid: list[tuple[int, bool]] = []  # tokens that are not in it yet, and whether each was accepted
        self._held: list[Piece] = []  # text that may begin a stop string
        self._known = 0  # characters of it from before the last token: no stop string ended there, or it were the last

    def feed(self, token: int, *, accepted: bool) -> list[Piece]:
        """Take a token; what is certain with it."""
        self._known = len(self._held_text())
        if not self._words.silent(token):
            self._tokens.append(token)
            self._unsaid.append((token, accepted))
            self._say(self._step(token))
        return self._release(self._certain())

    def finish(self, *, stopped: bool = False) -> list[Piece]:
        """There are no more tokens; what was held back. stopped: the last one completed a stop string."""
        if self._unsaid:
            whole, unsaid = self._words.decode(self._tokens), [token for token, _ in self._unsaid]
            begun = whole.startswith(self._text)
            self._say(whole[len(self._text) :] if begun else self._words.decode(unsaid))
        return self._release(min(self._stops(), default=None) if stopped else None)

    def _step(self, token: int) -> str | None:
        try:
            text: str | None = self._decoder.step(self._words.tokenizer, token)
            return text
        except Exception:  # a bare one: of bytes that form no character, some decoders take back text they gave before
            unsaid = [token for token, _ in self._unsaid]
            self._decoder = DecodeStream(unsaid, skip_special_tokens=True)
            return self._words.decode(unsaid)

    def _say(self, text: str | None) -> None:
        if text:
            self._text += text
            self._held.append(Piece(text, all(accepted for _, accepted in self._unsaid)))
            self._unsaid.clear()

    def _certain(self) -> int:
        """Characters of what is held back that stand before any stop string and before any beginning of one."""
        held = self._held_text()
        begun = (
            len(held) - length
            for string in self._stop_strings
            for length in range(1, len(string))
            if held.endswith(string[:length])
        )
        return min((*self._stops(), *begun), default=len(held))

    def _stops(self) -> list[int]:
        """Where in what is held back a stop string begins that ends in the last token's text."""
        held = self._held_text()
        starts = {string: max(0, self._known + 1 - len(string)) for string in self._stop_strings}
        return [at for string, start in starts.items() if (at := held.find(string, start)) >= 0]

    def _held_text(self) -> str:
        return "".join(piece.text for piece in self._held)

    def _release(self, length: int | None) -> list[Piece]:
        """Give out so many characters of what is held back, all where None."""
        if length is None:
            released, self._held = self._held, []
            return released
        released = []
        self._known = max(0, self._known - length)
        while length > 0:
            piece = self._held.pop(0)
            if len(piece.text) > length:
                self._held.insert(0, replace(piece, text=piece.text[length:]))
                piece = replace(piece, text=piece.text[:length])
            released.append(piece)
            length -= len(piece.text)
        return released
