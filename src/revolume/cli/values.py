"""Values on the command line: sizes and spans of time, read from text and shown as text.

Sizes are binary, as qemu's are: ``10G`` is ten times 2**30 bytes, and so is ``10GiB``. ``10GB`` is refused:
half the world reads it as decimal, and a volume's size is not a thing to guess. Sizes are counted with
exact fractions (``1.5G`` is whole bytes, ``0.3K`` is not), and bounded before they are converted.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from revolume.errors import UsageError
from revolume.history.moments import format_span, format_time, parse_span
from revolume.pace.limits import DailyWindow, checked_rate, parse_window

SIZE_MAX: Final = 2**60
_SIZE = re.compile(r"([0-9]{1,24}(?:\.[0-9]{1,12})?)(?:([KMGTP])(iB)?|B)?", re.IGNORECASE)
_DECIMAL = re.compile(r"[0-9.]+[KMGTP]B", re.IGNORECASE)
_POWER: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


# --- sizes ---------------------------------------------------------------------------------------------


def parse_size(text: str) -> int:
    """Bytes of ``4096``, ``10G``, ``512MiB``, ``1.5T``. Raises UsageError."""
    if _DECIMAL.fullmatch(text):
        hint = f"Write {text[:-1]} or {text[:-1]}iB: units are powers of 1024."
        raise UsageError("bad-size", f"The size {text!a} could be decimal.", hint)
    found = _SIZE.fullmatch(text)
    if not found:
        raise _bad_size(text, "Write it as 10G, 512MiB or a number of bytes.")
    size = Fraction(found[1]) * 1024 ** _POWER[(found[2] or "").upper()]
    if size > SIZE_MAX:
        raise _bad_size(text, f"The largest is {show_size(SIZE_MAX)}.")
    if size.denominator != 1:
        raise _bad_size(text, "It is not a whole number of bytes.")
    return int(size)


def parse_rate(text: str | None) -> int:
    """Bytes a second of ``50MiB`` or ``50MiB/s``; 0, for no limit, of ``none`` and where nothing was said. Raises
    UsageError."""
    if text is None or text == "none":
        return 0
    return checked_rate(parse_size(text.removesuffix("/s")), text)


def parse_bulk_window(text: str | None) -> DailyWindow | None:
    """The window of the day that ``22:00-06:00`` says; None, for always, of ``none`` and where nothing was said.
    Raises UsageError."""
    return None if text is None or text == "none" else parse_window(text)


def format_size(size: int) -> str:
    """The shortest text that ``parse_size`` reads as exactly ``size``."""
    power = 0
    while size and size % 1024 == 0 and power < 5:
        size, power = size // 1024, power + 1
    return f"{size}{' KMGTP'[power].strip()}"


def show_size(size: int) -> str:
    """``size`` for a person: three digits and a unit."""
    value, power = float(size), 0
    while value >= 1000 and power < 5:
        value, power = value / 1024, power + 1
    if power == 0:
        return f"{size} B"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {' KMGTP'[power]}iB"


def _bad_size(text: str, why: str) -> UsageError:
    return UsageError("bad-size", f"{text[:80]!a} is not a size.", why)


def counted(number: int, what: str) -> str:
    """``1 point``, ``2 points``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# --- spans ---------------------------------------------------------------------------------------------


def parse_seconds(text: str) -> float:
    """Seconds of ``500ms``, ``5s``, ``24h``, ``1h30m``; a plain ``0`` needs no unit. Raises UsageError."""
    if text == "0":
        return 0.0
    if milliseconds := re.fullmatch(r"([0-9]{1,9})ms", text):
        return int(milliseconds[1]) / 1000
    return float(parse_span(text))


def show_time(time_ns: int) -> str:
    """A time for a person: to the millisecond."""
    whole = format_time(time_ns - time_ns % 10**9).removesuffix("Z")
    return f"{whole}.{time_ns // 10**6 % 1000:03}Z"


def show_seconds(seconds: float) -> str:
    """A span for a person: its two largest units."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, coarse in ((604800, 86400), (86400, 3600), (3600, 60)):
        if whole >= unit:
            return format_span(whole - whole % coarse)
    return format_span(whole)
