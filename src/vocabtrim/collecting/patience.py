"""When to ask a server again: back-off that doubles, the wait that a server asks for, and an end to patience.

Knows clocks; knows nothing of requests.
"""

from __future__ import annotations

import asyncio
import random
import time
from email.utils import parsedate_to_datetime

from ..errors import InputError

_LONGEST_WAIT = 30.0


class Patience:
    """Shared by all requests to one server, so that what one is told holds for all of them.

    seconds: without any sign of life before it is given up. first_wait: behind a first failure; doubled behind each
    further one, up to 30 s, and drawn between its half and the whole, so that requests do not come back all at once.
    """

    def __init__(self, server: str, seconds: float, first_wait: float = 0.5) -> None:
        self._server, self._seconds, self._first_wait = server, seconds, first_wait
        self._alive = time.monotonic()
        self._closed_until = 0.0

    def alive(self) -> None:
        """The server answered something that is no refusal."""
        self._alive = time.monotonic()

    async def turn(self) -> None:
        """Wait while the server wants nobody to ask."""
        while (wait := self._closed_until - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def after(self, failures: int, reason: str, asked_wait: float | None = None) -> None:
        """Wait behind the `failures`-th failure in a row of one request. asked_wait: seconds, where the server said.

        Raises InputError where that would exceed all patience.
        """
        wait = min(_LONGEST_WAIT, self._first_wait * 2 ** (failures - 1)) * random.uniform(0.5, 1)
        if asked_wait is not None:
            wait = asked_wait
            self._closed_until = max(self._closed_until, time.monotonic() + wait)
        silent = time.monotonic() - self._alive
        if silent > self._seconds or (asked_wait or 0) > self._seconds:
            told = f"has given no answer for {silent:.0f} s" if asked_wait is None else "wants nobody to ask for long"
            raise InputError(
                f"{self._server} {told}",
                expected=f"an answer within {self._seconds:.0f} s",
                found=reason if asked_wait is None else f"{reason}, to be asked again in {asked_wait:.0f} s",
                remedy="run the same command again when it is back: all answers so far are kept",
            )
        await asyncio.sleep(wait)


def retry_after(told: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, written as a number or as a date; None where it says nothing."""
    if not told:
        return None
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
    except ValueError:
        return None
