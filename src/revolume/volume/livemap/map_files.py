"""The map files of a volume: the base map's name, and files that go as soon as no job may still open them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from revolume.chain.map_file import MapFile
from revolume.chain.page_cache import CACHE_PAGES
from revolume.host.disk import Directory


class MapFiles:
    """``base_name``: the file of the live map's base, exchanged together with it; "" without one."""

    def __init__(self, directory: Directory, volume_id: bytes, base_name: str) -> None:
        self._directory = directory
        self._volume_id = volume_id
        self._users = 0
        self.base_name = base_name
        self.stale: list[str] = []

    def open(self, name: str, cache_pages: int = CACHE_PAGES) -> MapFile:
        """The caller closes it. ``cache_pages``: kept in memory. Damaged: it is not whole."""
        return MapFile.open(self._directory.open(name, write=False), self._volume_id, cache_pages)

    def retire(self, name: str) -> None:
        """A file that new work does not begin with; it is removed when no job may still open it."""
        self.stale.append(name)
        self._sweep()

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Map files named in here stay until the end of it."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._sweep()

    def _sweep(self) -> None:
        """What the disk does not let go of now goes when the volume is opened next."""
        while self.stale and not self._users:
            with contextlib.suppress(OSError):
                self._directory.remove(self.stale.pop())
