"""A moment that has been looked up: plain values, which the command line may know without what looks them up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spot:
    """A resolved moment: the last write in it, and that write's label time (ns since 1970). ``note``: what whoever
    asked for it should know."""

    write: int
    time_ns: int
    note: str = ""
