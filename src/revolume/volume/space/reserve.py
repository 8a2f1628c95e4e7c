"""Room kept back on the disk, so that what makes room has room itself.

Folding frees log, but first it writes: blocks that the image did not have yet, their sums, the manifest. On a
disk that is full to the last byte it could not begin, and neither could anything else. So a file of allocated,
unused bytes lies in the volume's directory. When a fold or the manifest finds no room the file is emptied; when
the fold is done it is filled again, before anything else: segments that became free are removed for it instead of
being used again. Thus a fold on a full disk turns log into image, a bounded stretch at a time, and the
disk is as full afterwards as it was before.

The file ``reserve``: its content means nothing, and its size is what it holds. It may be emptied or removed at
any time; the volume fills it again when it can.
"""

from __future__ import annotations

from revolume.blocks.geometry import BLOCK
from revolume.host.disk import Directory, File
from revolume.volume.metadata import layout

BYTES_MAX = 1 << 30
SLACK_BYTES_MAX = 16 << 20
SMALL_BYTES = 1 << 20


def reserve_size(room_bytes: int, budget_bytes: int, segment_bytes: int, volume_bytes: int) -> int:
    """How much to keep back by default: an eighth of what may be used, two segments where that is little; but no
    more than the image of the volume can come to, with its sums and the manifest."""
    share = min(BYTES_MAX, budget_bytes // 8, room_bytes // 8)
    wanted = max(share, min(2 * segment_bytes, room_bytes // 4))
    return min(wanted, enough(volume_bytes)) // BLOCK * BLOCK


def enough(volume_bytes: int) -> int:
    """More is of no use to a volume of this size."""
    return volume_bytes + volume_bytes // 64 + SMALL_BYTES


class Reserve:
    """The file that keeps room back on the disk. ``take`` and ``fill`` wait for the disk: call them from a thread,
    one at a time."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._file: File | None = None
        self.size = 0
        self.held = 0

    @property
    def missing(self) -> int:
        """Bytes that are not kept back although they should be."""
        return self.size - self.held

    @property
    def slack(self) -> int:
        """Bytes that are left free beside it: for small things, so that these need not empty it."""
        return min(SLACK_BYTES_MAX, self.size // 8)

    def unsynced_max(self, bytes_max: int) -> int:
        """How much of the log may be unsynced: recovery copies the tail, which is up to four times that (two
        behind a sync that has begun, two before it), and the copy must find room."""
        return min(bytes_max, self.size // 4) if self.size else bytes_max

    def open(self) -> None:
        """Take up what is there."""
        if self._directory.exists(layout.RESERVE):
            self._file = self._directory.open(layout.RESERVE)
            self.held = self._file.size()

    def resize(
        self, size: int | None, log_bytes: int, budget_bytes: int, segment_bytes: int, volume_bytes: int
    ) -> None:
        """How much to keep back, None: the default, but no less than there is. What lacks is for ``fill``."""
        if size is None:
            room = self._directory.free_bytes() + self.held + log_bytes
            size = reserve_size(room, budget_bytes, segment_bytes, volume_bytes)
            size = max(size, min(self.held, BYTES_MAX, enough(volume_bytes)))
        self.size = size
        if self._file is not None and self.held > size:
            self._file.truncate(size)
            self.held = size

    def take(self) -> bool:
        """Empty it; whether that gave anything."""
        held, self.held = self.held, 0
        if self._file is not None and held:
            self._file.truncate(0)
        return held > 0

    def fill(self) -> bool:
        """Fill it as far as there is room beside the slack; whether it is full."""
        room = self._directory.free_bytes() - self.slack
        wanted = min(self.missing, room) // BLOCK * BLOCK
        if wanted > 0:
            self._allocate(wanted)
        return not self.missing

    def _allocate(self, size: int) -> None:
        try:
            if self._file is None:
                self._file = self._directory.open(layout.RESERVE, create=True)
            self._file.allocate(self.held, size)
            self.held += size
        except OSError:  # somebody was faster; it is tried again
            if self._file is not None:
                self._file.truncate(self.held)

    def close(self) -> None:
        """It stays as it is."""
        if self._file is not None:
            self._file.close()
