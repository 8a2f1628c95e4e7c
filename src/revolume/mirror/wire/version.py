"""The versions of the mirror protocol that this node speaks, and how two nodes agree on one.

Whoever connects states the highest and the lowest version that it speaks: bytes 0..1 and byte 3 of HELLO, FETCH
and EXAMINE, which stay where they are in every version. Whoever answers chooses the highest that both speak and
says so in bytes 0..1 of WELCOME, or in TAIL. If there is none, it refuses, and the refusal names both ranges.
Version 1 stated no lowest version (byte 3 was zero): it spoke version 1 alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from revolume.errors import RevolumeError
from revolume.host.disk import Buffer

_STATED = struct.Struct("<HBB")  # highest, another field, lowest


@dataclass(frozen=True, slots=True)
class Versions:
    """A range of versions, both ends included."""

    lowest: int
    highest: int

    def __str__(self) -> str:
        same = self.lowest == self.highest
        return f"version {self.highest}" if same else f"versions {self.lowest} to {self.highest}"


OURS: Final = Versions(lowest=2, highest=8)
MOMENTS: Final = 3
"""Since this version earlier pinned moments travel before a base."""
MEMBERS: Final = 4
"""Since this version the members travel."""
DIFFERENCES: Final = 5
"""Since this version a copy may be brought up to date by a difference, and says at which points it stood."""
HANDOVERS: Final = 5
"""Since this version a primary may hand over to its mirror."""
RESYNC_POINTS: Final = 6
"""Since this version the log may state resync points."""
COMPARISON: Final = 7
"""Since this version the two ends heal each other's blocks, are compared, and mark history that is suspect."""
RECALLS: Final = 8
"""Since this version a node is asked which moments it holds, and for one of them."""
SOURCE: Final = Versions(lowest=6, highest=8)
"""Of a source: its log states resync points, which a node that does not speak version 6 can't keep. (A source that
speaks an earlier one may have a mirror that speaks 6.)"""


def stated(body: Buffer) -> Versions:
    """The range at the beginning of a HELLO, FETCH or EXAMINE. struct.error: it is too short for one."""
    highest, _, lowest = _STATED.unpack_from(body)
    return Versions(lowest or highest, highest)


def common(theirs: Versions, ours: Versions = OURS) -> int:
    """The highest version that both speak. RevolumeError "link-version": there is none."""
    chosen = min(theirs.highest, ours.highest)
    if chosen < max(theirs.lowest, ours.lowest):
        raise _apart(theirs, ours)
    return chosen


def check_chosen(version: int, ours: Versions = OURS) -> None:
    """RevolumeError "link-version": the peer chose a version that this node does not speak."""
    if not ours.lowest <= version <= ours.highest:
        raise _apart(Versions(version, version), ours)


def _apart(theirs: Versions, ours: Versions) -> RevolumeError:
    older = "The other node" if theirs.highest < ours.lowest else "This node"
    return RevolumeError(
        "link-version",
        f"The node that connects and the node that answers have no version of the mirror protocol in common: one "
        f"speaks {ours}, the other {theirs}.",
        f"{older} runs the older release of Revolume: install the newer one there.",
    )
