"""Requests to one HTTP server until it answers: which failures pass, which are of one prompt, which end everything.

Knows HTTP and the key, which is in no file and no message. What is asked is `server.py`'s, what stands in an answer
`replies.py`'s, when to ask again `patience.py`'s.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import InputError
from .patience import Patience, retry_after
from .replies import CutError, Reply, ToldError, streamed_reply, whole_reply
from .work import RefusedError

try:
    import httpx
except ImportError:  # said when a server is asked for
    httpx = None  # type: ignore[assignment]

KEY_VARIABLES = ("VOCABTRIM_API_KEY", "OPENAI_API_KEY")
_TRIES = 6  # failed answers to one prompt; waits that the server asks for and refused connections are none
_PASSING = (408, 409, 425, 429)  # and all from 500 on
_NO_PROMPT = (400, 413, 422)  # refuses this one prompt

_Found = TypeVar("_Found")


class _PassingError(Exception):
    """A failure that may pass. wait: seconds that the server asks for. counts: the prompt itself may be at fault."""

    def __init__(self, reason: str, *, wait: float | None = None, counts: bool = True) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.counts = reason, wait, counts


class Transport:
    """url: up to where "/chat/completions" begins; "/v1" is added to one without a path. timeout: seconds between two
    pieces of an answer. patience: seconds without any sign of life before the server is given up.

    Raises InputError for a URL that is none or holds a password, a key that is none, and without httpx. Asking raises
    it for a server that is not there, refuses the key, or refuses everything; RefusedError for one prompt.
    """

    def __init__(self, url: str, *, timeout: float = 120.0, patience: float = 600.0, first_wait: float = 0.5) -> None:
        self.url = checked_url(url)
        self._key = api_key()
        self._patience = Patience(self.url, patience, first_wait)
        self._reached = False
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, 15.0), pool=None),
            limits=httpx.Limits(max_connections=None),
        )

    async def close(self) -> None:
        """Let go of all connections."""
        await self._http.aclose()

    async def models(self) -> list[str] | None:
        """Names of the models that are served; None where the server has no such page."""
        return await self._until_answered(self._models)

    async def post(self, path: str, body: dict[str, Any]) -> Reply:
        """Ask until there is an answer."""
        return await self._until_answered(lambda: self._post(path, body))

    def harmless(self, text: str) -> str:
        """What a server or a library said, without the key: some servers repeat it."""
        return text.replace(self._key, "***") if self._key else text

    async def _until_answered(self, ask: Callable[[], Awaitable[_Found]]) -> _Found:
        failures = tries = 0
        while True:
            await self._patience.turn()
            try:
                found = await ask()
            except _PassingError as error:
                failures, tries = failures + 1, tries + error.counts
                if tries >= _TRIES:
                    raise RefusedError(f"failed {tries} times, the last time by: {error.reason}") from error
                await self._patience.after(failures, error.reason, error.wait)
            else:
                self._reached = True
                return found

    async def _models(self) -> list[str] | None:
        try:
            answer = await self._http.get(f"{self.url}/models")
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        if answer.status_code in (404, 405, 501):
            return None
        self._prove_answered(answer, answer.content)
        try:
            return [str(model["id"]) for model in answer.json()["data"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{self.url}/models is no list of models",
                found=self.harmless(answer.text[:80]),
                remedy="give the address of an OpenAI-compatible server, up to /v1",
            ) from error

    async def _post(self, path: str, body: dict[str, Any]) -> Reply:
        try:
            async with self._http.stream("POST", self.url + path, json=body) as answer:
                if answer.status_code != 200:
                    self._prove_answered(answer, await answer.aread())
                self._patience.alive()
                if "text/event-stream" in answer.headers.get("content-type", ""):
                    return await streamed_reply(self._alive(answer.aiter_lines()))
                return whole_reply(await answer.aread())
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        except CutError as error:
            raise _PassingError(self.harmless(str(error))) from error
        except ToldError as error:
            if error.code in _NO_PROMPT:
                raise RefusedError(self.harmless(str(error))) from error
            raise _PassingError(self.harmless(str(error)), counts=error.code not in _PASSING) from error

    async def _alive(self, lines: AsyncIterator[str]) -> AsyncIterator[str]:
        async for line in lines:
            self._patience.alive()
            yield line

    def _failed(self, error: httpx.HTTPError) -> Exception:
        """What a connection that failed means. One that never stood is at fault itself."""
        reason = self.harmless(str(error)) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            if self._reached:
                return _PassingError(reason, counts=False)
            remedy = "start the server, or correct --endpoint"
            return InputError(f"cannot reach {self.url}", found=reason, remedy=remedy)
        name = type(error).__name__  # of a timeout all that there is
        return _PassingError(name if reason == name else f"{name}: {reason}")

    def _prove_answered(self, answer: httpx.Response, content: bytes) -> None:
        status = answer.status_code
        if status == 200:
            return
        found = f"{status} {answer.reason_phrase}: {self.harmless(content[:300].decode(errors='replace'))}"
        if status in _PASSING or status >= 500:
            wait = retry_after(answer.headers.get("retry-after"))
            raise _PassingError(found, wait=wait, counts=status != 429 and wait is None)
        if status in _NO_PROMPT:
            raise RefusedError(found)
        if status in (401, 403):
            which = next((name for name in KEY_VARIABLES if os.environ.get(name, "").strip()), None)
            raise InputError(
                f"{self.url} refuses {'the key' if which else 'requests without a key'}",
                found=found,
                remedy=f"correct {which}" if which else f"put the key into {KEY_VARIABLES[0]}",
            )
        raise InputError(f"{self.url} refuses all requests", found=found, remedy="check --endpoint, --model and --api")


def api_key() -> str:
    """The key in the environment; empty where there is none. Raises InputError, without it, for one that is none."""
    for name in KEY_VARIABLES:
        key = os.environ.get(name, "").strip()
        if key:
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise InputError(
                    f"{name} is no key", expected="letters, digits and marks", found="others", remedy="set it again"
                )
            return key
    return ""


def checked_url(url: str) -> str:
    """The address as it is asked and written down: nothing in it may be secret."""
    if httpx is None:
        raise InputError(
            "asking a server needs the httpx package", remedy="install it with: pip install 'vocabtrim[serve-client]'"
        )
    remedy = "give http://HOST:PORT/v1"
    try:
        parts = urlsplit(url)
        usable = parts.port != 0 and bool(httpx.URL(url).host)
    except (ValueError, httpx.InvalidURL) as error:
        raise InputError("the endpoint is no address", remedy=remedy) from error
    if parts.username or parts.password or parts.query or "@" in url:
        raise InputError(
            "the endpoint holds a password or a query, which would be written down",
            remedy=f"put the key into {KEY_VARIABLES[0]} and leave it out of --endpoint",
        )
    if parts.scheme not in ("http", "https") or not usable:
        raise InputError("the endpoint is no address", found=url, remedy=remedy)
    path = parts.path.rstrip("/")
    for page in ("/chat/completions", "/completions"):
        path = path.removesuffix(page)
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"
