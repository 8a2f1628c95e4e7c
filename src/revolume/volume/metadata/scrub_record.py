"""How far a scrub of this copy has come, and how the last one ended: the manifest's edit SCRUBBED.

Little endian, 112 bytes:
    0  Q  when the pass under way began, ns since 1970; 0: none is
    8  Q  stage (1 log, 2 image, 3 rescued blocks, 4 maps, 5 branches)
   16  Q  in the log a use number, of rescued blocks and branches a table's number, of maps a rung's; else 0
   24  Q  block within that: in the log of the segment, else of the volume
   32  Q  bytes read          40  Q  places found damaged          48  Q  of those, healed
   56  Q  when the last pass that came to its end began, ns since 1970; 0: there was none
   64  Q  when it ended       72  Q  bytes read     80  Q  places found damaged     88  Q  of those, healed
   96  Q  bytes a second at most of the pass under way; 0: as fast as the node's bulk may be
  104  Q  zero
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_SCRUB: Final = struct.Struct("<14Q")
assert _SCRUB.size == 112


class ScrubStage(IntEnum):
    """What a scrub reads, in this order."""

    LOG = 1
    IMAGE = 2
    RESCUED = 3
    MAPS = 4
    BRANCHES = 5


@dataclass(frozen=True, slots=True)
class ScrubPlace:
    """What is to be read next: ``number`` is a segment's use in the log, a table's number of rescued blocks or
    branches, a rung's of the maps, else 0; ``block`` counts within the segment, else within the volume."""

    stage: ScrubStage = ScrubStage.LOG
    number: int = 0
    block: int = 0


@dataclass(frozen=True, slots=True)
class ScrubCounts:
    """Of one pass: bytes read, places found damaged, and how many of those are healed."""

    read: int = 0
    damaged: int = 0
    healed: int = 0


@dataclass(frozen=True, slots=True)
class LastScrub:
    """A pass that came to its end. Times in ns since 1970; all 0: there was none."""

    started_ns: int = 0
    ended_ns: int = 0
    counts: ScrubCounts = ScrubCounts()


@dataclass(frozen=True, slots=True)
class ScrubRecord:
    """``started_ns`` 0: no pass is under way, and ``place``, ``counts`` and ``rate`` mean nothing."""

    started_ns: int = 0
    place: ScrubPlace = ScrubPlace()
    counts: ScrubCounts = ScrubCounts()
    last: LastScrub = LastScrub()
    rate: int = 0

    @property
    def under_way(self) -> bool:
        """A pass has begun, and has neither ended nor been given up."""
        return self.started_ns > 0


NEVER_SCRUBBED: Final = ScrubRecord()


def pack_scrub(record: ScrubRecord) -> bytes:
    """SCRUBBED."""
    place, counts, last = record.place, record.counts, record.last
    return _SCRUB.pack(
        record.started_ns, place.stage, place.number, place.block, counts.read, counts.damaged, counts.healed,
        last.started_ns, last.ended_ns, last.counts.read, last.counts.damaged, last.counts.healed, record.rate, 0,
    )  # fmt: skip


def unpack_scrub(body: bytes) -> ScrubRecord:
    """SCRUBBED; what a later version adds behind it is left alone, and at a stage that only that one knows the
    pass begins anew."""
    started, stage, number, block, *rest = _SCRUB.unpack_from(body)
    known = stage in iter(ScrubStage)
    place = ScrubPlace(ScrubStage(stage), number, block) if known else ScrubPlace()
    last = LastScrub(rest[3], rest[4], ScrubCounts(*rest[5:8]))
    return ScrubRecord(started, place, ScrubCounts(*rest[:3]), last, rest[8])
