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

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position
from revolume.log.format.transfer import SHARED_HEADER_SIZE, Flag, Kind

MARK_NS: Final = 100_000_000
MARKS_MAX: Final = 4096
REFERENCED: Final = struct.Struct("<48xQ")
"""Of a point's record (``chain/point.py``): the blocks that it references."""
COLUMNS: Final = struct.Struct("<20xII")
"""Of a shared header: entries, digests."""

_WRITES, _POINT, _SEALS = int(Kind.WRITES), int(Kind.POINT), int(Flag.SEALS)


class Counters:
    """Bytes, since this source was opened."""

    __slots__ = (
        "base_bytes", "client_bytes", "difference_bytes", "log_bytes", "point_bytes", "saved_bytes", "transfers",
        "whole_bytes",
    )  # fmt: skip

    def __init__(self) -> None:
        self.transfers = 0
        self.client_bytes = 0
        self.log_bytes = 0
        self.point_bytes = 0
        self.saved_bytes = 0
        self.base_bytes = 0
        self.whole_bytes = 0
        self.difference_bytes = 0

    @property
    def average(self) -> int:
        """Of a transfer, so far."""
        return self.log_bytes // self.transfers if self.transfers else BLOCK

    def base_sent(self, size: int) -> None:
        """A frame of a base went out."""
        self.base_bytes += size

    def difference_sent(self, size: int) -> None:
        """A frame of a difference went out."""
        self.difference_bytes += size

    def shipped(self, shared_header: bytes, payload: int, frame: int) -> None:
        """A transfer went out, ``frame`` bytes in all."""
        self.transfers += 1
        self.log_bytes += frame
        kind = shared_header[6]
        if kind == _WRITES:
            self.client_bytes += payload
        elif kind == _POINT:
            self.point_bytes += frame
            if shared_header[7] & _SEALS:
                self.saved_bytes += BLOCK * _referenced(shared_header)


def _referenced(shared_header: bytes) -> int:
    entries, digests = COLUMNS.unpack_from(shared_header)
    count: int = REFERENCED.unpack_from(shared_header, SHARED_HEADER_SIZE + 16 * entries + 8 * digests)[0]
    return count


class Lag:
    """How far the mirror is behind what was appended here. ``address``: in this log, in blocks, behind what it
    has. Times are monotonic nanoseconds."""

    __slots__ = ("_flowing_from", "_flowing_since_ns", "_marks", "_places", "address")

    def __init__(self, address: Address) -> None:
        self.address = address
        self._marks: deque[tuple[Position, int]] = deque(maxlen=MARKS_MAX)
        self._places: deque[tuple[Position, Address]] = deque(maxlen=MARKS_MAX)
        self._flowing_since_ns = 0
        self._flowing_from = address

    def begin_flow(self, now_ns: int) -> None:
        """The log begins to go out."""
        self._flowing_since_ns, self._flowing_from = now_ns, self.address

    def rate(self, now_ns: int) -> float:
        """Bytes of log a second that have arrived since it began to go out; 0: no time has passed."""
        seconds = (now_ns - self._flowing_since_ns) / 1e9
        return (self.address - self._flowing_from) * BLOCK / seconds if seconds > 0 else 0.0

    def appended(self, position: Position, now_ns: int) -> None:
        """The log has got this far."""
        marks = self._marks
        if not marks or now_ns - marks[-1][1] >= MARK_NS:
            marks.append((position, now_ns))

    def sent(self, position: Position, behind: Address) -> None:
        """Everything up to a position, and to an address, has been sent."""
        places = self._places
        if not places or places[-1][0] < position:
            places.append((position, behind))

    def received(self, position: Position) -> None:
        """The mirror has it."""
        marks, places = self._marks, self._places
        while marks and marks[0][0] <= position:
            marks.popleft()
        while places and places[0][0] <= position:
            self.address = places.popleft()[1]

    def seconds(self, now_ns: int) -> float:
        """Age of the oldest thing that it has not got; 0 if there is none."""
        return (now_ns - self._marks[0][1]) / 1e9 if self._marks else 0.0
