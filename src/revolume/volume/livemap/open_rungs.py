"""The rungs of the ladder as views read them: which lead to a moment, and their files, open as long as somebody
reads.

A rung is believed only while the point at which it ends is retained, and is where the rung says; and its file only
if that says of itself what the manifest says of it. One that has been met damaged is used by nobody from then on,
and is made anew (``ladder.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from revolume.blocks.numbers import WriteNumber
from revolume.chain.map_file import MapFile, MapMeta
from revolume.errors import Damaged
from revolume.volume.livemap.map_files import MapFiles
from revolume.volume.livemap.rung_plan import leading_to, meta_of
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.rung import Rung
from revolume.volume.points.retained_points import RetainedPoints

CACHE_PAGES = 256


@dataclass(slots=True)
class _Opened:
    file: MapFile
    users: int = 0


class OpenRungs:
    """Of one volume. ``damaged``: numbers of rungs that are not what was written."""

    def __init__(self, maps: MapFiles, manifest: ManifestWriter, retained: RetainedPoints) -> None:
        self._maps = maps
        self._manifest = manifest
        self._retained = retained
        self._open: dict[int, _Opened] = {}
        self._bases: list[MapFile] = []
        self.damaged: set[int] = set()

    def usable(self) -> tuple[Rung, ...]:
        """Those that say something of the log as it is, by the points up to which they go."""
        return tuple(rung for rung in self._manifest.state.rungs if self._stands(rung))

    def leading_to(self, begin: int, write: WriteNumber) -> tuple[Rung, ...]:
        """Those that lead from the point ``begin`` towards a write, oldest first."""
        return leading_to(self.usable(), begin, write)

    def _stands(self, rung: Rung) -> bool:
        point = self._retained.numbered(rung.point)
        if point is None or rung.number in self.damaged:
            return False
        return (point.write, point.position, point.address) == (rung.write, rung.position, rung.address)

    def take(self, rung: Rung) -> MapFile:
        """Its file, which others may have open too; ``let_go`` of it once. Damaged, OSError: it can't be read, and
        is used no more."""
        opened = self._open.get(rung.number)
        if opened is None:
            opened = self._open[rung.number] = _Opened(self._opened(rung))
        opened.users += 1
        return opened.file

    def _opened(self, rung: Rung) -> MapFile:
        try:
            file = self._maps.open(layout.rung_name(rung.number), CACHE_PAGES)
        except (Damaged, OSError):
            self.damaged.add(rung.number)
            raise
        if (file.meta, len(file)) != (meta_of(rung), rung.entries):
            file.close()
            self.damaged.add(rung.number)
            raise Damaged("map-damaged", f"Rung {rung.number} is another map.", "It is made anew from the log.")
        return file

    def let_go(self, rung: Rung) -> None:
        """One user less. A page of it that was damaged has been met meanwhile, or not."""
        opened = self._open.get(rung.number)
        if opened is None:
            return  # the volume has been closed
        if opened.file.damaged:
            self.damaged.add(rung.number)
        opened.users -= 1
        if not opened.users:
            del self._open[rung.number]
            opened.file.close()

    def open_base(self, name: str) -> MapFile:
        """The live map's base, for a view that stands on it and may outlive it as the base. ``close_base`` it
        once. Damaged, OSError: it can't be read."""
        file = self._maps.open(name)
        self._bases.append(file)
        return file

    def close_base(self, file: MapFile) -> None:
        """It is read no more."""
        if file in self._bases:  # else the volume has been closed
            self._bases.remove(file)
            file.close()

    def base_damaged(self, meta: MapMeta) -> bool:
        """Whether a view has met a page of this base that is not what was written."""
        return any(file.damaged and file.meta == meta for file in self._bases)

    def note_damaged(self) -> None:
        """Look whether a page has been met that is not what was written."""
        self.damaged |= {number for number, opened in self._open.items() if opened.file.damaged}

    def close(self) -> None:
        """Close what is still open; nobody reads any more."""
        for opened in self._open.values():
            opened.file.close()
        for base in self._bases:
            base.close()
        self._open.clear()
        self._bases.clear()
