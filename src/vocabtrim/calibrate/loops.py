"""Whether a text ends in circles, as greedy answers do that never find their end.

Knows bytes. Such text is no sample of what a target writes: a few ids by the thousand, and drafters are always right
about them.
"""

from __future__ import annotations

import zlib

# Of 2,119 recorded answers of Llama-3.1-8B the 11 that loop reach 11.9 and more, all others stay below 4.2; web pages
# and programs that people wrote stay below 6.6.
LOOP_RATIO = 8.0


def ends_in_circles(text: str, ratio: float = LOOP_RATIO) -> bool:
    """Whether the last half of a text is more than `ratio` times as long as zlib makes it.

    The last half alone: an answer may go well for long before it falls into a loop, and then it never leaves it.
    """
    written = text.encode(errors="replace")
    half = written[len(written) // 2 :]
    return len(half) > ratio * len(zlib.compress(half))
