"""What a copy knew of time when it was last opened or closed: the manifest's edit CLOCK.

    Q lived time, ns     Q label clock, ns since 1970     Q boot clock, ns     16s boot id     Q position

The boot clock runs on while a volume is stopped, as long as the machine is not started anew (another boot id).
Together with the label clock of the same instant it tells the next opening how late it is, whatever somebody has
done to the wall clock meanwhile. A mirror's labels are its source's: its boot id is zero here.
``position``: of the log's end then; clock steps behind it are not in the label clock stated here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from revolume.blocks.numbers import Position

CLOCK = struct.Struct("<QQQ16sQ")
assert CLOCK.size == 48


@dataclass(frozen=True, slots=True)
class ClockMark:
    """Lived time, label clock and boot clock of one instant, the boot they are of, and the log's end then. All
    zero: never known."""

    lived_ns: int = 0
    label_ns: int = 0
    boot_ns: int = 0
    boot_id: bytes = bytes(16)
    position: Position = Position(0)


def pack_clock(mark: ClockMark) -> bytes:
    """CLOCK."""
    return CLOCK.pack(mark.lived_ns, mark.label_ns, mark.boot_ns, mark.boot_id, mark.position)


def unpack_clock(body: bytes) -> ClockMark:
    """CLOCK; what a later version adds behind it is left alone."""
    return ClockMark(*CLOCK.unpack_from(body))


NEVER = ClockMark()
