"""Moments: how a person says *when*, and the export names that carry it.

Every face (export names, command line, HTTP) reads moments here and nowhere else, so that what works
in one place works in all of them. Nothing is looked up: this file knows words, not volumes; which write
a moment means is decided where the history is, and the clock is an argument there.

    moment   = "now"                          the present, fixed when it is opened
             | "-" 1*(digits unit)            so long ago: -10m, -1h30m; units s m h d w, each once, falling
             | RFC 3339 time with a zone      2026-11-21T05:00:00Z, 2026-11-21T06:00:00.25+01:00
             | "cp" digits | "w" digits       a consistency point, a write
             | snapshot name                  before-upgrade
             | "lost:" mirror                 lost:m   the moment at which the link to that mirror was lost
             | "branch:" name                 branch:b   what this copy wrote alone, and has taken back
             | "branch:" name ":" name        branch:b:before   a snapshot that was taken on it
    export   = [volume] ["@" moment *("," option)]         option: rw | suspect

The forms never overlap: a snapshot may not be called like any of the others (``check_snapshot_name``),
also not like a *wrong* one of the others, so that a slip (a time without its zone, a span without its
minus) is answered with a sentence and never with "no such snapshot". Without "@" an export name means
the live volume (``moment is None``); the empty volume is the default one.

After a crash write numbers go on above those that had been reserved. A number in such a gap is the volume as
it was then: it means the last write before it. A number above the newest write means nothing yet and is refused.

Numbers are bounded before they are converted, since the text may come from any client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from revolume.errors import UsageError
from revolume.volume.branches.names import BRANCH_PREFIX

LOST_PREFIX: Final = "lost:"
"""What is kept for a mirror is called so: no snapshot can be. In the mirror's name "%" is %25 and "," is %2C."""
"""What begins the text of a branch's moment."""
OPTIONS: Final = ("rw", "suspect")
NUMBER_MAX: Final = 2**63 - 1
SPAN_SECONDS_MAX: Final = 100 * 365 * 86400
_TEXT_CHARS_MAX: Final = 4096
_SECOND_NS: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_UNITS: Final = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_FORMS: Final = "a moment is now, -10m, 2026-11-21T05:00:00Z, cp42, w123456 or a snapshot's name"


@dataclass(frozen=True, slots=True)
class Now:
    """The present, as it is when the view is opened."""


@dataclass(frozen=True, slots=True)
class Ago:
    """So many seconds before now."""

    seconds: int


@dataclass(frozen=True, slots=True)
class AtTime:
    """A wall time, in nanoseconds since 1970 UTC."""

    time_ns: int


@dataclass(frozen=True, slots=True)
class AtPoint:
    """A consistency point."""

    number: int


@dataclass(frozen=True, slots=True)
class AtWrite:
    """The volume after this write and before the next. (A number that a crash left out: after the last before.)"""

    number: int


@dataclass(frozen=True, slots=True)
class AtSnapshot:
    """A named moment."""

    name: str


Moment = Now | Ago | AtTime | AtPoint | AtWrite | AtSnapshot


@dataclass(frozen=True, slots=True)
class ExportName:
    """What an export name asks for. ``moment`` is None for the live volume, which takes no options."""

    volume: str
    moment: Moment | None = None
    options: frozenset[str] = frozenset()

    @property
    def writable_view(self) -> bool:
        return "rw" in self.options

    @property
    def suspect(self) -> bool:
        """It is known to be suspect, and asked for all the same."""
        return "suspect" in self.options


# --- moments -------------------------------------------------------------------------------------------

_NUMBERED = re.compile(r"(cp|w)([0-9]+)")
_AGO = re.compile(r"-(?:[0-9]+[a-z])+")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))?"
)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NAME_RULE: Final = "a-z, 0-9, '.', '_' and '-', 63 characters at most, beginning with a letter or digit"
# What a person typing a time, a span or a number may have meant, right or wrong.
_LIKE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}(-[0-9]{2}([Tt _.-]?[0-9].*)?)?|[0-9]{8}([Tt][0-9]+[Zz]?)?|[0-9]{1,2}:.*"
)
_LIKE_NUMBER = re.compile(r"(cp|w)[0-9]+", re.IGNORECASE)
_LIKE_SPAN = re.compile(r"-.*|([0-9]+[smhdw])+", re.IGNORECASE)


def parse_moment(text: str) -> Moment:
    """The moment that ``text`` says. Raises UsageError with a sentence."""
    if text == "now":
        return Now()
    if text.startswith("-"):
        return Ago(_parse_ago(text))
    if numbered := _NUMBERED.fullmatch(text):
        kind, digits = numbered.groups()
        number = _bounded(digits, NUMBER_MAX, text)
        return AtPoint(number) if kind == "cp" else AtWrite(number)
    if _LIKE_TIME.fullmatch(text):
        return AtTime(parse_time(text))
    return AtSnapshot(_snapshot_meant(text))


def format_moment(moment: Moment) -> str:
    """The text that ``parse_moment`` reads as ``moment``."""
    match moment:
        case Now():
            return "now"
        case Ago(seconds):
            return "-" + format_span(seconds)
        case AtTime(time_ns):
            return format_time(time_ns)
        case AtPoint(number):
            return f"cp{number}"
        case AtWrite(number):
            return f"w{number}"
        case AtSnapshot(name):
            return name


def _parse_ago(text: str) -> int:
    if not _AGO.fullmatch(text):
        raise _bad_moment(text, "A time ago is a minus and a span, as in -10m or -1h30m.")
    return parse_span(text[1:])


def _bounded(digits: str, bound: int, text: str) -> int:
    significant = digits.lstrip("0") or "0"
    if len(significant) > len(str(bound)) or int(significant) > bound:
        raise _bad_moment(text, f"The largest number is {bound}.")
    return int(significant)


# --- spans of time -------------------------------------------------------------------------------------


def parse_span(text: str) -> int:
    """Seconds of a span as in 90s, 24h, 1h30m, 2w. Raises UsageError."""
    total = 0
    unit_last = _SPAN_UNIT_NONE
    for digits, unit in _span_parts(text):
        if _UNITS[unit] >= unit_last:
            raise _bad_span(text, "Each unit once, the larger first: 1h30m.")
        unit_last = _UNITS[unit]
        total += int(digits) * unit_last
    if total > SPAN_SECONDS_MAX:
        raise _bad_span(text, "The longest span is a hundred years.")
    return total


_SPAN_UNIT_NONE: Final = max(_UNITS.values()) + 1
_SPAN = re.compile(r"(?:[0-9]{1,12}[smhdw])+")


def _span_parts(text: str) -> list[tuple[str, str]]:
    if not _SPAN.fullmatch(text):
        raise _bad_span(text, "Write it with its units: 30s, 10m, 24h, 7d, 2w or 1h30m.")
    return re.findall(r"([0-9]+)([smhdw])", text)


def format_span(seconds: int) -> str:
    """The shortest text that ``parse_span`` reads as ``seconds``."""
    parts = []
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


# --- times ---------------------------------------------------------------------------------------------


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time, which must have its zone. Raises UsageError."""
    found = _TIME.fullmatch(text)
    if not found:
        raise _bad_time(text, "Write it with its zone: 2026-11-21T05:00:00Z or 2026-11-21T06:00:00+01:00.")
    *civil, fraction, zulu, sign, zone_hours, zone_minutes = found.groups()
    if not zulu and not sign:
        raise UsageError(
            "time-without-zone",
            f"The time {_shown(text)} has no zone.",
            f"Write {text}Z if it is UTC, or its offset, as in {text}+01:00.",
        )
    offset_s = 0 if zulu else _zone_offset_s(text, sign, int(zone_hours), int(zone_minutes))
    seconds = _civil_seconds(text, [int(field) for field in civil]) - offset_s
    return seconds * _SECOND_NS + int((fraction or "").ljust(9, "0"))


def format_time(time_ns: int) -> str:
    """RFC 3339 in UTC, with as many digits of a second as there are."""
    seconds, fraction = divmod(time_ns, _SECOND_NS)
    civil = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{civil}{digits}Z"


def _zone_offset_s(text: str, sign: str, hours: int, minutes: int) -> int:
    if hours > 23 or minutes > 59:
        raise _bad_time(text, "A zone's offset lies between -23:59 and +23:59.")
    offset_s = hours * 3600 + minutes * 60
    return -offset_s if sign == "-" else offset_s


def _civil_seconds(text: str, civil: list[int]) -> int:
    year, month, day, hour, minute, second = civil
    leap = second == 60  # named by the standard; it is the next second here
    if not 1970 < year < 9999:
        raise _bad_time(text, "The year lies between 1971 and 9998.")
    try:
        moment = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
    except ValueError:
        raise _bad_time(text, "There is no such day or hour.") from None
    return (moment - _EPOCH) // timedelta(seconds=1) + leap


# --- names ---------------------------------------------------------------------------------------------

_VOLUME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_volume_name(name: str) -> str:
    """``name`` if a volume may bear it. Raises UsageError."""
    if _VOLUME.fullmatch(name):
        return name
    raise UsageError(
        "bad-volume-name",
        f"A volume cannot be called {_shown(name)}.",
        "Use letters, digits, '.', '_' and '-', 63 at most, beginning with a letter or digit.",
    )


def check_snapshot_name(name: str) -> str:
    """``name`` if a snapshot may bear it. Raises UsageError."""
    if _looks_like_another_form(name):
        cause = f"A snapshot cannot be called {_shown(name)}: it looks like another moment."
        raise UsageError("bad-snapshot-name", cause, _meant(name))
    if not _NAME.fullmatch(name):
        cause = f"A snapshot cannot be called {_shown(name)}."
        raise UsageError("bad-snapshot-name", cause, f"Its name has {_NAME_RULE}.")
    return name


def _snapshot_meant(name: str) -> str:
    """``name`` if a snapshot may bear it, or the moment of a lost link, or a branch, or a moment
    within one. UsageError otherwise, about the moment that was asked for."""
    if name.startswith(BRANCH_PREFIX):
        parts = name.removeprefix(BRANCH_PREFIX).split(":")
        if len(parts) <= 2 and all(map(_NAME.fullmatch, parts)):
            return name
    if name.startswith(LOST_PREFIX) and name != LOST_PREFIX and name.isprintable() and "," not in name:
        return name
    if _looks_like_another_form(name):
        raise _bad_moment(name, _meant(name))
    if "," in name:
        raise _bad_moment(name, "Options such as ,rw belong to an export's name.")
    if not _NAME.fullmatch(name):
        raise _bad_moment(name, f"A snapshot's name has {_NAME_RULE}.")
    return name


def _looks_like_another_form(name: str) -> bool:
    return name == "now" or any(form.fullmatch(name) for form in (_LIKE_NUMBER, _LIKE_SPAN, _LIKE_TIME))


def _meant(name: str) -> str:
    lower = name.lower()
    if lower != name and _NUMBERED.fullmatch(lower):
        return f"That write or point is {lower}."
    if _LIKE_SPAN.fullmatch(name) and not name.startswith("-"):
        return f"So long ago is -{lower}."
    return "A name is not now, a number (w1, cp1), a span (-10m) or a time."


# --- export names --------------------------------------------------------------------------------------


def parse_export(text: str) -> ExportName:
    """What the export name ``text`` asks for. Raises UsageError; any text at all may come."""
    if len(text) > _TEXT_CHARS_MAX:
        raise UsageError("bad-export-name", "The export name is too long.", "4096 characters are the most.")
    before, options_at, after = text.partition(",")
    volume, moment_at, moment = before.partition("@")
    if volume:
        check_volume_name(volume)
    if not moment_at:
        if options_at:
            raise _bad_export(text, f"Options belong to a moment, as in {volume}@now,rw.")
        return ExportName(volume)
    options = _parse_options(text, after) if options_at else frozenset()
    return ExportName(volume, parse_moment(moment), options)


def format_export(name: ExportName) -> str:
    """The text that ``parse_export`` reads as ``name``."""
    if name.moment is None:
        return name.volume
    options = "".join("," + option for option in OPTIONS if option in name.options)
    return f"{name.volume}@{format_moment(name.moment)}{options}"


def _parse_options(text: str, after: str) -> frozenset[str]:
    options = after.split(",")
    for option in options:
        if option not in OPTIONS:
            raise _bad_export(text, f"The options are {' and '.join(OPTIONS)}; {_shown(option)} is none.")
    return frozenset(options)


# --- sentences -----------------------------------------------------------------------------------------


def _shown(text: str) -> str:
    """``text`` quoted for a sentence: printable, on one line, not longer than a line."""
    quoted = ascii(text[:80])
    return quoted if len(quoted) <= 82 else quoted[:79] + "..."


def _bad_moment(text: str, why: str) -> UsageError:
    if text == "":
        cause = "There is no moment after the '@'."
        return UsageError("bad-moment", cause, f"Leave the '@' out for the live volume; {_FORMS}.")
    return UsageError("bad-moment", f"{_shown(text)} is not a moment.", f"{why} Otherwise {_FORMS}.")


def _bad_span(text: str, why: str) -> UsageError:
    return UsageError("bad-span", f"{_shown(text)} is not a span of time.", why)


def _bad_time(text: str, why: str) -> UsageError:
    return UsageError("bad-time", f"{_shown(text)} is not a time.", why)


def _bad_export(text: str, why: str) -> UsageError:
    return UsageError("bad-export-name", f"{_shown(text)} is not an export name.", why)
