"""A moment that has been looked up: plain values, which the command line may know without what looks them up."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.blocks.numbers import WriteNumber
from revolume.volume.suspect.suspicion import Suspicion


@dataclass(frozen=True, slots=True)
class ResolvedMoment:
    """A resolved moment: the last write in it, and that write's label (ns since 1970). ``note``: a sentence for
    whoever asked, as that clocks showed the time twice; else empty. ``branch``: the name of the branch that is
    meant, which begins at ``write``; ``time_ns`` is that of its end, or of its moment ``branch_moment``, if that
    is not empty. Else empty. ``suspicion``: this copy has the moment not as the volume was then."""

    write: WriteNumber
    time_ns: int
    note: str = ""
    branch: str = ""
    branch_moment: str = ""
    suspicion: Suspicion | None = None
