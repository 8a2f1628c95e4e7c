"""What a primary and a secondary have in common: a volume that remembers, whoever changes it."""

from __future__ import annotations

from revolume.chain.point import Point
from revolume.volume.core import Core
from revolume.volume.folder import Folder
from revolume.volume.oldest import oldest_moment
from revolume.volume.status import OldestMoment, Snapshot


class Remembered:
    """An open volume as its history sees it."""

    def __init__(self, core: Core, folder: Folder) -> None:
        self.core = core
        self.folder = folder

    @property
    def name(self) -> str:
        """The volume's name, also its export's."""
        return self.core.name

    @property
    def size(self) -> int:
        """Bytes, now."""
        return self.core.size

    @property
    def volume_id(self) -> bytes:
        """128 random bits, the same on every node."""
        return self.core.volume_id

    @property
    def newest(self) -> tuple[int, int]:
        """The newest moment: write number and label time."""
        return self.core.appender.written, self.core.appender.time_ns

    @property
    def oldest(self) -> OldestMoment:
        """The first moment that can be opened."""
        return oldest_moment(self.folder.horizon, self.folder.retired_write, self.core.points)

    def points(self) -> list[Point]:
        """The retained points, oldest first."""
        return list(self.core.points)

    def snapshots(self) -> list[Snapshot]:
        """The named moments, oldest first."""
        pins = self.core.manifest.state.snapshots
        return [Snapshot(p.name, p.write, p.point, p.time_ns) for p in sorted(pins, key=lambda p: p.write)]
