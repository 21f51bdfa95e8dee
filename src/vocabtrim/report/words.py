"""Numbers and names as people read them, the same on the page, in Markdown and on the terminal."""

from __future__ import annotations


def size(n_bytes: float) -> str:
    """A number of bytes, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def share(part: float | None, digits: int = 1) -> str:
    """A share in percent. What is neither nothing nor all is never rounded to 0 % or 100 %."""
    if part is None:
        return "–"
    shown = f"{part:.{digits}%}"
    smallest = 10.0 ** -(digits + 2)
    if part < 1 and shown == f"{1:.{digits}%}":
        shown = f"{1 - smallest:.{digits}%}"
    elif part > 0 and shown == f"{0:.{digits}%}":
        shown = f"{smallest:.{digits}%}"
    return f"{shown[:-1]} %"


def interval(of: tuple[float, float], digits: int = 2) -> str:
    """Both ends of an interval."""
    low, high = of
    return f"{low:.{digits}f} to {high:.{digits}f}"


def milliseconds(seconds: float) -> str:
    """A time below a second, with the digits that a timer can stand for."""
    return f"{1e3 * seconds:.2f} ms" if seconds < 0.01 else f"{1e3 * seconds:.1f} ms"


def change(ratio: float) -> str:
    """How much fewer or more a ratio of counts says: "1.9 % fewer", "as many"."""
    percent = f"{abs(ratio - 1):.1%}"
    if percent == "0.0%":
        return "as many"
    return f"{percent[:-1]} % {'fewer' if ratio < 1 else 'more'}"


def number(count: int, word: str) -> str:
    """So many of something."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def printable(text: object) -> str:
    """A name out of a file, as one that can be shown anywhere: what no page and no terminal prints becomes �."""
    return "".join(character if character.isprintable() else "�" for character in str(text))
