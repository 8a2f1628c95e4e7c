"""What one mirror has cost on the wire, by what it was for; and how far behind it is.

The client's bytes are the payload of WRITES transfers. Points are counted by themselves: what they carry whole,
and what their references saved, which is every block that did not travel a second time.

How far a mirror is behind is told from marks. How old the oldest thing is that it has not got: (position, time),
one at most every tenth of a second. How much of the log it has not got: (position, address behind it in this
node's log), one for each batch that was sent, so that what it lacks is counted and not estimated, and falls while
it catches up.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

from revolume.log.transfer import BLOCK, PROPER_SIZE, Flag, Kind

MARK_NS: Final = 100_000_000
MARKS_MAX: Final = 4096
REFERENCED: Final = struct.Struct("<48xQ")
"""Of a point's record (``chain/point.py``): the blocks that it references."""
COLUMNS: Final = struct.Struct("<20xII")
"""Of a proper part: entries, digests."""

_WRITES, _POINT, _SEALS = int(Kind.WRITES), int(Kind.POINT), int(Flag.SEALS)


class Counters:
    """Bytes, since this source was opened."""

    __slots__ = (
        "base_bytes", "client_bytes", "log_bytes", "point_bytes", "saved_bytes", "transfers", "whole_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.transfers = 0
        self.client_bytes = 0
        self.log_bytes = 0
        self.point_bytes = 0
        self.saved_bytes = 0
        self.base_bytes = 0
        self.whole_bytes = 0

    @property
    def average(self) -> int:
        """Of a transfer, so far."""
        return self.log_bytes // self.transfers if self.transfers else BLOCK

    def shipped(self, proper: bytes, payload: int, frame: int) -> None:
        """A transfer went out, ``frame`` bytes in all."""
        self.transfers += 1
        self.log_bytes += frame
        kind = proper[6]
        if kind == _WRITES:
            self.client_bytes += payload
        elif kind == _POINT:
            self.point_bytes += frame
            if proper[7] & _SEALS:
                self.saved_bytes += BLOCK * _referenced(proper)


def _referenced(proper: bytes) -> int:
    entries, digests = COLUMNS.unpack_from(proper)
    count: int = REFERENCED.unpack_from(proper, PROPER_SIZE + 16 * entries + 8 * digests)[0]
    return count


class Lag:
    """How far the mirror is behind what was appended here. ``address``: in this log, behind what it has."""

    __slots__ = ("_marks", "_places", "address")

    def __init__(self, address: int) -> None:
        self.address = address
        self._marks: deque[tuple[int, int]] = deque(maxlen=MARKS_MAX)
        self._places: deque[tuple[int, int]] = deque(maxlen=MARKS_MAX)

    def appended(self, position: int, now_ns: int) -> None:
        """The log has got this far."""
        marks = self._marks
        if not marks or now_ns - marks[-1][1] >= MARK_NS:
            marks.append((position, now_ns))

    def sent(self, position: int, behind: int) -> None:
        """Everything up to a position, and to an address, has been sent."""
        places = self._places
        if not places or places[-1][0] < position:
            places.append((position, behind))

    def received(self, position: int) -> None:
        """The mirror has it."""
        marks, places = self._marks, self._places
        while marks and marks[0][0] <= position:
            marks.popleft()
        while places and places[0][0] <= position:
            self.address = places.popleft()[1]

    def seconds(self, now_ns: int) -> float:
        """Age of the oldest thing that it has not got; 0 if there is none."""
        return (now_ns - self._marks[0][1]) / 1e9 if self._marks else 0.0
