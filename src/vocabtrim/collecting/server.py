"""A target behind an OpenAI-compatible server: which model it is, how it can be asked, and what an answer's ids are.

Knows the fields of a request and the target's tokenizer; connections are `transport.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..decoding.text import TargetText
from ..errors import InputError, MismatchError
from ..measure.methods import Settings
from .answers import NOT_BACK, SERVER, TEXT, Prompt, Written
from .replies import Reply
from .transport import Transport
from .work import RefusedError

_SHORT = 16  # tokens; any tokenizer may agree on so few


@dataclass(frozen=True)
class Way:
    """How a request is made. stream: in pieces. ids: token ids are asked for. usage: and their number, of a stream."""

    stream: bool
    ids: bool
    usage: bool = False


# From the best down: the first that a server takes and tells ids by, else the first without that it takes. SGLang tells
# ids of chats in one piece only; OpenAI itself refuses what it does not know; others pass over it.
_WAYS = (Way(True, True, True), Way(False, True), Way(True, False, True), Way(True, False), Way(False, False))


class Server:
    """One model of a server.

    model: its name there; None where the server has just one. chat: ask in messages, which the server renders by a
    template of its own; otherwise in ids that the tokenizer's template rendered. more: fields of every request.
    """

    def __init__(
        self,
        transport: Transport,
        words: TargetText,
        settings: Settings,
        *,
        model: str | None = None,
        chat: bool = True,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self.url, self.model, self.way = transport.url, model, _WAYS[0]
        self._transport, self._words, self._settings = transport, words, settings
        self._chat, self._more = chat, dict(more or {})
        self._answering: str | None = None  # what the server calls the model that answers

    async def connect(self) -> None:
        """Find the model, and the best way to ask by answers of one token.

        Raises what `Transport` does, InputError for a server that takes no request, MismatchError where it does not
        serve the model.
        """
        await self._find_model()
        without: Way | None = None
        refusal: RefusedError | None = None
        for way in _WAYS:
            if without is not None and not way.ids:
                break
            self.way = way
            try:
                reply = await self._ask(self._asked("Hi"), 1, seed=0)
            except RefusedError as error:
                refusal = error
                continue
            if way.ids and reply.token_ids is not None:
                return
            without = without or Way(way.stream, False, way.usage)
        if without is None:
            remedy = "check --model, --api and --extra"
            raise InputError(f"{self.url} takes no request", found=refusal, remedy=remedy) from refusal
        self.way = without

    async def answer(self, prompt: Prompt, seed: int) -> Written:
        """Ask until there is an answer. Raises what `Transport` does, MismatchError when another model answers."""
        began = time.perf_counter()
        try:
            asked = self._asked(prompt)
        except InputError as error:  # the template refuses it
            raise RefusedError(str(error)) from error
        reply = await self._ask(asked, self._settings.max_new_tokens, seed)
        return self._written(reply, time.perf_counter() - began)

    async def _find_model(self) -> None:
        try:
            names = await self._transport.models() or []
        except RefusedError as error:  # a page that fails needs no list where the model is named
            if self.model is None:
                raise InputError(
                    f"{self.url} does not say what it serves", found=error, remedy="say which is meant with --model"
                ) from error
            names = []
        if self.model is None:
            if len(names) != 1:
                raise InputError(
                    f"{self.url} names {len(names) or 'no'} models",
                    found=", ".join(names[:8]) or None,
                    remedy="say which is meant with --model",
                )
            self.model = names[0]
        elif names and self.model not in names:
            raise self._another_model(self.model, ", ".join(names[:8]))

    def _another_model(self, expected: str, found: str) -> MismatchError:
        return MismatchError(
            f"{self.url} serves another model",
            expected=expected,
            found=self._transport.harmless(found),
            remedy="correct --model or --endpoint",
        )

    def _asked(self, prompt: Prompt) -> dict[str, Any]:
        if self._chat:
            return {"messages": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt}
        if isinstance(prompt, str):
            return {"prompt": self._words.prompt(prompt, chat=False)}
        return {"prompt": self._words.conversation(prompt)}

    async def _ask(self, asked: dict[str, Any], max_tokens: int, seed: int) -> Reply:
        sampling, way = self._settings.sampling, self.way
        body = {"model": self.model, **asked, "max_tokens": max_tokens, "temperature": sampling.temperature}
        if not sampling.greedy:
            body |= {"top_p": sampling.top_p, "seed": seed} | ({"top_k": sampling.top_k} if sampling.top_k else {})
        body |= {"stream": way.stream}
        body |= {"stream_options": {"include_usage": True}} if way.usage else {}
        body |= {"return_token_ids": True} if way.ids else {}
        reply = await self._transport.post("/chat/completions" if self._chat else "/completions", body | self._more)
        if reply.model is not None and reply.model != self._answering:
            if self._answering is not None:
                raise self._another_model(self._answering, reply.model)
            self._answering = reply.model
        return reply

    def _written(self, reply: Reply, seconds: float) -> Written:
        ended, text = reply.ended or "", reply.text.strip()
        if reply.token_ids is not None:
            fits = text in self._words.decode(reply.token_ids) if text else None
            return Written(reply.text, tuple(reply.token_ids), SERVER, ended, seconds, fits=fits)
        parts = [part for part in (reply.reasoning, reply.text) if part]
        ids = [token for part in parts for token in self._words.encode(part)]
        if ended == "stop" and (stop := self._words.template.stop) is not None:
            ids.append(stop)
        told = reply.tokens or 0
        slack = 8 if reply.reasoning else 1  # marks around reasoning; some do not count the stop token
        return Written(
            text=reply.text,
            token_ids=tuple(ids),
            ids_from=TEXT,
            ended=ended,
            seconds=seconds,
            fits=abs(told - len(ids)) <= slack if told >= _SHORT else None,
            fault=None if all(map(self._words.tokenises_back, parts)) else NOT_BACK,
        )
