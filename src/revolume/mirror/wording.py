"""Words about mirrors that several faces use. It imports nothing heavy: verbs do too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from revolume.blocks.numbers import WriteNumber
from revolume.history.moments import format_time

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def lacking_words(names: Sequence[str], where: str = "this mirror's history") -> str:
    """That snapshots are older than a copy; empty for none."""
    if not names:
        return ""
    what = f"Snapshot {names[0]} is" if len(names) == 1 else f"Snapshots {', '.join(names)} are"
    return f"{what} older than {where} and not on it."


def older_words(since: WriteNumber | None, oldest: WriteNumber) -> str:
    """That moments are older than a mirror's history, which begins at write ``since``; empty if none is.
    ``oldest``: the first moment that its source retains."""
    if since is None or since <= oldest:
        return ""
    before = f"w{oldest}" if since == oldest + 1 else f"w{oldest} to w{since - 1}"
    return f"Its history begins at w{since}: the moments before it ({before}) are not on it."


def loss_words(*, mode: str, required: bool, position: int, why_not: str, last_ns: int, lost_ns: int) -> str:
    """What a promotion of a mirror may lose, as far as the mirror knows. ``mode`` and whether answers wait for it,
    as its log says; ``why_not``: why it proves nothing; ``last_ns``: label of the last write that it shows;
    ``lost_ns``: since when its source is away, 0: not known."""
    if mode == "primary":
        return "it was the primary, and lacks nothing unless another was primary since"
    if required and not why_not:
        return (
            f"it was required up to position {position}: nothing that was answered is missing, unless this mirror "
            "was given up while it could not be told"
        )
    since = f", and its source is away since {format_time(lost_ns)}" if lost_ns else ""
    what = "async" if mode == "async" else "not one that answers waited for to the end"
    return (
        f"it is {what}: what was answered after its last write, of {format_time(last_ns)}, may be lost{since}; "
        "how many writes and bytes that is, the source alone knows (its status says how far a mirror is behind)"
    )


def size_words(size: int) -> str:
    """A number of bytes, as a person reads it."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size} bytes" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"
