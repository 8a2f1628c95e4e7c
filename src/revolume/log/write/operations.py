"""What a client asks of a volume, and the errors of admission: shared by every room that writes."""

from __future__ import annotations

from typing import Final

OP_WRITE: Final = 1
OP_ZERO: Final = 2
OP_TRIM: Final = 3
OP_RESIZE: Final = 4

Op = tuple[int, int, int, memoryview | None]
"""(kind, offset in bytes, length in bytes, payload of a write). The kinds are those of log entries."""


class WouldBlock(Exception):
    """These operations can't be applied without waiting (for room in the log, or for a block from the disk); none
    was. Wait with ``room``, then try again."""
