"""A target's directory: empty, or with the copy that it holds.

A base begins in an empty directory, or where an unfinished one must begin anew: that was nobody's state, so its
manifest goes and it is made again. A whole copy is never replaced here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from revolume.errors import Refused
from revolume.host import Host
from revolume.host.words import spoken
from revolume.log.transfer import BLOCK
from revolume.mirror.messages import NO_ROOM, Room, Start
from revolume.volume import layout
from revolume.volume.creating import Birth, default_budget, segment_of
from revolume.volume.manifest import NAMES, Epoch, Horizon, PinnedSnapshot
from revolume.volume.opening import open_secondary
from revolume.volume.options import OpenOptions
from revolume.volume.secondary import Secondary


class DirectoryShelf:
    """See the module's text. ``opened`` is called with the copy that is here from now on."""

    def __init__(
        self,
        host: Host,
        path: str,
        options: OpenOptions,
        secondary: Secondary | None,
        opened: Callable[[Secondary], None] = lambda secondary: None,
    ) -> None:
        self._host = host
        self._path = path
        self._options = options
        self._any_segments = options.segment_bytes is None
        self._opened = opened
        self._unborn = host.entropy.token(16)
        self.secondary = secondary

    @property
    def node(self) -> bytes:
        """See ``parts.Shelf``. An empty directory's is drawn anew by each process that finds it empty: a copy that
        was emptied never passes for what it was."""
        return self.secondary.core.manifest.state.node if self.secondary is not None else self._unborn

    def fit(self, segment_blocks: int) -> None:
        """See ``parts.Shelf``."""
        size = segment_blocks * BLOCK
        usual = layout.MIN_SEGMENT_BYTES <= size <= layout.MAX_SEGMENT_BYTES and not size & (size - 1)
        if self._any_segments and usual and self.secondary is None:
            self._options = replace(self._options, segment_bytes=size)

    @property
    def segment_blocks(self) -> int:
        """See ``parts.Shelf``."""
        return segment_of(self._options) // BLOCK

    def room(self) -> Room:
        """See ``parts.Shelf``."""
        if self.secondary is not None:
            pool, directory = self.secondary.core.pool, self.secondary.core.directory
            return Room(pool.limits.budget_bytes, pool.bytes, directory.free_bytes())
        try:
            directory = self._host.disk.open(self._path)
        except OSError:
            return NO_ROOM
        try:
            budget = self._options.budget_bytes or default_budget(directory, 0, segment_of(self._options))
            return Room(budget, 0, directory.free_bytes())
        finally:
            directory.close()

    async def create(self, volume: bytes, name: str, start: Start) -> Secondary:
        """See ``parts.Shelf``."""
        node = self.node  # the one that the source was told
        await self._clear()
        born = birth(volume, name, node, start)
        try:
            self.secondary = await open_secondary(self._host, self._path, self._options, born)
        except OSError as error:
            raise self._not_made(born, error) from error
        self._opened(self.secondary)
        return self.secondary

    async def drop_half(self) -> None:
        """See ``parts.Shelf``. What an opening cuts off is not cut off anywhere else: it is opened again."""
        assert self.secondary is not None
        await self.secondary.close()
        self.secondary = await open_secondary(self._host, self._path, self._options)
        self._opened(self.secondary)

    def _not_made(self, born: Birth, error: OSError) -> Refused:
        return Refused(
            "mirror-not-made",
            f"No mirror of {born.horizon.size} bytes can be made in {self._path}: {spoken(error)}",
            "Make room there, or name a directory on a file system that holds files of this size.",
        )

    async def _clear(self) -> None:
        unfinished = self.secondary
        if unfinished is None:
            return
        if unfinished.base is None:
            raise Refused(
                "mirror-whole",
                f"{self._path} holds a whole copy of {unfinished.name}: it is not written over.",
                "Name an empty directory.",
            )
        self.secondary = None
        await unfinished.close()
        await self._host.work.call(self._forget)

    def _forget(self) -> None:
        """Without a manifest the directory holds no volume; making one empties the rest."""
        directory = self._host.disk.open(self._path)
        try:
            for name in NAMES:
                if directory.exists(name):
                    directory.remove(name)
            directory.sync()
        finally:
            directory.close()


def birth(volume: bytes, name: str, node: bytes, start: Start) -> Birth:
    """What the source says of the volume, as the storage takes it."""
    horizon = Horizon(
        point=start.number,
        write=start.write,
        position=start.end.position,
        time_ns=start.time_ns,
        size=start.size,
        root_low=start.root[0],
        root_high=start.root[1],
        chain=start.end.chain,
    )
    epochs = tuple(Epoch(e.number, e.reign, e.position, e.write) for e in start.epochs)
    held, lacking = (
        tuple(PinnedSnapshot(n.name, n.write, n.point, n.time_ns) for n in start.names if n.held == here)
        for here in (True, False)
    )
    return Birth(volume, name, node, horizon, epochs, held, lacking, start.names_position)
