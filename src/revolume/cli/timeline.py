"""How much of a volume's past there is: stretches, from what its status says. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stretch:
    """The moments from write ``since`` to ``until``, both of them. ``kind``: every (any of them opens), point (the
    one alone), suspect (they open with that word), gap (none opens). Times in ns, 0: not known. ``bytes``: what it
    takes on the disk, where that is known of it alone."""

    kind: str
    since: int
    until: int
    since_ns: int
    until_ns: int
    cause: str
    bytes: int


def timeline(status: Answer) -> list[Stretch]:
    """Oldest first. ``status``: as the control socket has it."""
    points = list(_points(status))
    stretches: list[Stretch] = []
    reached, reached_ns = 0, 0
    for point in points:
        if point.since > reached or (stretches and point.since > stretches[-1].until + 1):
            stretches.append(_gap(reached, reached_ns, point))
        stretches.append(point)
        reached, reached_ns = point.since + 1, point.until_ns
    whole = list(_whole(status))
    if whole and whole[0].since > reached:
        stretches.append(_gap(reached, reached_ns, whole[0]))
    return stretches + whole


def _gap(since: int, since_ns: int, following: Stretch) -> Stretch:
    cause = "folded: older than --keep, or beyond --budget"
    return Stretch("gap", since, following.since - 1, since_ns, following.since_ns, cause, 0)


def _points(status: Answer) -> Iterator[Stretch]:
    """Moments before the oldest of the history that is whole, which are pinned."""
    times = {each["write"]: each["time_ns"] for each in status["snapshots"]}
    times |= {each["write"]: each["time_ns"] for each in status.get("clones", ())}
    pinned: dict[int, list[Answer]] = {}
    for holder in status["holders"]:
        if holder["pinned"] and holder["write"] < status["horizon_write"]:
            pinned.setdefault(holder["write"], []).append(holder)
    for write, holders in sorted(pinned.items()):
        names = ", ".join(dict.fromkeys(each["name"] for each in holders))
        kind = "suspect" if _suspect(status, write) else "point"
        time_ns = times.get(write, 0)
        yield Stretch(kind, write, write, time_ns, time_ns, names, max(each["bytes"] for each in holders))


def _suspect(status: Answer, write: int) -> Answer | None:
    for period in status.get("suspect", ()):
        if period["since"] <= write and (period["until"] is None or write < period["until"]):
            return dict(period)
    return None


def _whole(status: Answer) -> Iterator[Stretch]:
    """The history in which every moment opens, divided where it is suspect."""
    first, last = status["horizon_write"], status["write"]
    bounds = {first, last + 1}
    for period in status.get("suspect", ()):
        bounds |= {
            each for each in (period["since"], period["until"]) if each is not None and first < each <= last
        }
    ordered = sorted(bounds)
    for begin, end in pairwise(ordered):
        found = _suspect(status, begin)
        cause = "; ".join(found["causes"]) if found else "every write is kept"
        since_ns = status["horizon_time_ns"] if begin == first else 0
        until_ns = status["time_ns"] if end == last + 1 else 0
        size = status["log_bytes"] if len(ordered) == 2 else 0
        yield Stretch("suspect" if found else "every", begin, end - 1, since_ns, until_ns, cause, size)
