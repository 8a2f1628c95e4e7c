"""Room on a file system that copies on write, where a segment that stands ready promises nothing.

Overwriting a file takes new room there before the old room comes back, so a write into a segment that was written
ahead can still meet a full disk. Where the file system can be told to overwrite in place (btrfs) new volumes are
made so, and nothing else is needed. Otherwise (zfs, bcachefs, older volumes on btrfs) what is free is looked at
before each batch: it must cover the batch and everything that is not synced yet, and leave the reserve alone.

Somebody else may take the room between that look and the write. Then the reserve is emptied and the same bytes are
written once more (``Appender.find_room``); the next batch waits until the reserve is whole again.
"""

from __future__ import annotations

from revolume.blocks.geometry import BLOCK
from revolume.host.disk import Directory
from revolume.log.write.group_commit import GroupCommit
from revolume.volume.space.reserve import Reserve

COPIES = "this file system copies on write: before each write it is looked whether the disk has room for it"


class Cover:
    """Says whether the disk has room for what is to be written. ``copies``: whether it is a question at all."""

    def __init__(self, directory: Directory, reserve: Reserve, commit: GroupCommit, *, copies: bool) -> None:
        self._directory = directory
        self._reserve = reserve
        self._commit = commit
        self.copies = copies

    def covers(self, blocks: int, urgent: bool) -> bool:
        """Whether the disk has room for so many blocks; what is urgent (points, a source's log) may take of the
        reserve."""
        if not self.copies:
            return True
        reserve = self._reserve
        kept = -reserve.held if urgent else reserve.missing + reserve.slack
        return self._directory.free_bytes() - kept - self._commit.unsynced_bytes >= blocks * BLOCK
