"""What a client asks of a volume, and the errors of admission: shared by every room that writes."""

from __future__ import annotations

from typing import Final

OP_WRITE: Final = 1
OP_ZERO: Final = 2
OP_TRIM: Final = 3
OP_RESIZE: Final = 4

Op = tuple[int, int, int, memoryview | None]
"""(kind, offset in bytes, length in bytes, payload of a write). The kinds are those of log entries."""


class NoRoomNow(Exception):
    """The log has no room for these operations at this instant: wait for room, then come again."""
