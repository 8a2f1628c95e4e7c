"""What one mirror has cost on the wire, by what it was for; and how far behind it is.

The client's bytes are the payload of WRITES transfers. Points are counted by themselves: what they carry whole,
and what their references saved, which is every block that did not travel a second time.

How old the newest thing is that the mirror has *not* got is told from marks, (position, bytes, time), one at most
every tenth of a second.
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
    """How far the mirror is behind what was appended here."""

    __slots__ = ("_marks",)

    def __init__(self) -> None:
        self._marks: deque[tuple[int, int, int]] = deque(maxlen=MARKS_MAX)

    def appended(self, position: int, log_bytes: int, now_ns: int) -> None:
        """The log has got this far; ``log_bytes`` of it have been sent."""
        marks = self._marks
        if not marks or now_ns - marks[-1][2] >= MARK_NS:
            marks.append((position, log_bytes, now_ns))

    def received(self, position: int) -> None:
        """So has the mirror."""
        marks = self._marks
        while marks and marks[0][0] <= position:
            marks.popleft()

    def seconds(self, now_ns: int) -> float:
        """Age of the oldest thing that it has not got; 0 if there is none."""
        return (now_ns - self._marks[0][2]) / 1e9 if self._marks else 0.0

    def sent_bytes(self, log_bytes: int) -> int:
        """Sent since then, and not known to have arrived."""
        return log_bytes - self._marks[0][1] if self._marks else 0
