"""A target's directory: empty, or with the copy that it holds.

A base begins in an empty directory, or where an unfinished one must begin anew: that was nobody's state, so its
manifest goes and it is made again. A whole copy is never replaced here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from revolume.blocks.geometry import BLOCK
from revolume.errors import Refused
from revolume.host import Host
from revolume.host.error_text import error_text
from revolume.mirror.copy_protocols import ComparedPoint
from revolume.mirror.held_moments import HeldMoment, listed_moments, open_moment
from revolume.mirror.target.compared_point import SeededImage, view_point
from revolume.mirror.target.copy_description import describe_copy
from revolume.mirror.volume_examination import examine_volume
from revolume.mirror.wire.begin_messages import BaseStart
from revolume.mirror.wire.codec import Pin
from revolume.mirror.wire.examine_messages import Examined, Standing, of_welcome
from revolume.mirror.wire.greeting_messages import NO_ROOM, Room
from revolume.mirror.wire.recall_messages import Moments, Recall
from revolume.mirror.wire.tail_messages import Fetch
from revolume.volume.branches.common_point import CommonPoint
from revolume.volume.branches.names import branch_moment, names_not_kept
from revolume.volume.image.seed import SeedSpec, check_seed, take_seed
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest import NAMES
from revolume.volume.metadata.manifest_state import Branch, Epoch, Horizon, PinnedSnapshot
from revolume.volume.open.create import Birth, default_budget, segment_of
from revolume.volume.open.open import open_secondary
from revolume.volume.open.options import OpenOptions
from revolume.volume.open.rewind import rewind
from revolume.volume.secondary import Secondary


class RealCopyDirectory:
    """The directory at ``path``, with ``secondary``, the copy in it, or None where it is empty. ``opened`` is
    called with each copy that is here from then on."""

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
        self._closed = False
        self._changing = asyncio.Lock()
        """Held while the copy is closed and opened as something else: whoever comes meanwhile waits."""

    @property
    def between(self) -> bool:
        """The copy is closed, and is being opened as something else."""
        return self._closed

    @property
    def node(self) -> bytes:
        """Node id of the copy. An empty directory's is drawn anew by each process that finds it empty: a copy that
        was emptied never passes for what it was."""
        return self.secondary.manifest.state.node if self.secondary is not None else self._unborn

    @property
    def advertised(self) -> str:
        """The address at which other nodes reach this one, if that is another than the source's for it."""
        return self._options.listener.advertised

    def fit(self, segment_blocks: int) -> None:
        """An empty directory that was given no segment size takes over the source's, if it is one that can be."""
        size = segment_blocks * BLOCK
        usual = layout.MIN_SEGMENT_BYTES <= size <= layout.MAX_SEGMENT_BYTES and not size & (size - 1)
        if self._any_segments and usual and self.secondary is None:
            self._options = replace(self._options, segment_bytes=size)

    @property
    def segment_blocks(self) -> int:
        """Of the segments that a copy made here gets."""
        return segment_of(self._options) // BLOCK

    def room(self) -> Room:
        """Budget and size of the log, and what is free on the disk, in bytes: of a whole copy what is free for a
        difference, the part of it that is here included."""
        if self.secondary is not None:
            return _room_beside(self.secondary)
        try:
            directory = self._host.disk.open(self._path)
        except OSError:
            return NO_ROOM
        try:
            budget = self._options.budget_bytes or default_budget(directory, 0, segment_of(self._options))
            return Room(budget, 0, directory.free_bytes())
        finally:
            directory.close()

    @property
    def seeded(self) -> bool:
        """A copy begins, or began, with a seed."""
        return bool(self._options.seed) if self.secondary is None else self.secondary.seeded

    async def open_compared(self, point: Pin, quick: bool) -> ComparedPoint:
        """Hold a point of the copy open, to be compared. NotFound: it does not have it; Refused: it is not
        whole."""
        if self.seeded and self.secondary is not None:
            return SeededImage(self.secondary)
        if self.secondary is None or self.secondary.base is not None:
            raise Refused("base-incomplete", "The copy is not whole yet.", "Wait until its base is complete.")
        return await view_point(self.secondary, point, quick)

    def moments(self, version: int) -> Moments:
        """The moments that the copy holds. Refused: it is empty, or not whole."""
        return listed_moments(self._whole(), version)

    async def open_moment(self, asked: Recall, fed: bool) -> HeldMoment:
        """Hold a moment open for another node. NotFound: the copy does not hold it; Refused: it is suspect, or the
        copy is none of the asker's volume. ``fed``: its source is connected."""
        copy = self._whole()
        refuse_other_volume(copy.volume_id, copy.name, asked.asker)
        return await open_moment(copy, asked, primary=False, fed=fed)

    def _whole(self) -> Secondary:
        if self.secondary is None or self.secondary.base is not None:
            raise Refused("base-incomplete", "The node that answers holds no whole copy.", "Name another node.")
        return self.secondary

    async def examined(self, asked: Fetch) -> Examined:
        """What is here, for a peer that only asks."""
        copy = self.secondary
        if copy is None:
            return replace(of_welcome(await describe_copy(self, asked)), why_not="No source has connected yet.")
        return await examine_volume(
            copy, asked, standing=Standing.SECONDARY, end=copy.end, whole=copy.base is None,
            agreed=(copy.agreed.number, copy.manifest.state.agreed.position), why_not=copy.why_not_promotable,
            members=await copy.records.members(),
        )  # fmt: skip

    async def create(self, volume: bytes, name: str, start: BaseStart, seeded: bool = False) -> Secondary:
        """Begin a base; an unfinished one gives way. Refused: a whole copy is here, or there is no room for
        one."""
        async with self._changing:
            return await self._created(volume, name, start, self._options.seed if seeded else "")

    async def _created(self, volume: bytes, name: str, start: BaseStart, seed: str) -> Secondary:
        node = self.node  # the one that the source was told
        if seed:
            await self._host.work.call(check_seed, self._host.disk, seed, name, start.size)
        await self._clear()
        born = replace(birth(volume, name, node, start), seeded=bool(seed))
        try:
            if seed:
                await self._host.work.job(take_seed, SeedSpec(self._path, seed, volume, start.size))
            self.secondary = await open_secondary(self._host, self._path, self._options, born)
        except OSError as error:
            raise self._not_made(born, error) from error
        self._opened(self.secondary)
        return self.secondary

    async def truncate_incomplete(self) -> None:
        """Open the copy again: an opening cuts off the write of which only a part has come."""
        assert self.secondary is not None
        self._closed = True
        await self.secondary.close()
        await self.open_again()

    async def take_back(self, point: Pin, name: str) -> str:
        """Go back to a point; what the copy wrote behind it alone is a branch then, of this name. What was done,
        as a sentence. Refused: it can't; the copy is what it was."""
        async with self._changing:
            branch = await self._taken_back(point, name)
        assert self.secondary is not None
        if branch is None:
            return f"This copy is back at cp{point.number}; it had written nothing alone."
        return (
            f"This copy is back at cp{point.number}; what it wrote alone ({branch.writes} writes, {branch.bytes} "
            f"bytes) is its branch {branch.name}, read as {self.secondary.name}@{branch_moment(branch.name)}."
            f"{_moments_told(self.secondary.name, branch)}"
        )

    async def _taken_back(self, point: Pin, name: str) -> Branch | None:
        assert self.secondary is not None
        end = self.secondary.end.position
        common = CommonPoint(point.number, point.position, point.chain)
        branch = await self._rewound(common, name)
        if branch is not None or self.secondary.end.position != end:
            return branch
        # It ends behind the point's record already, and the source has none: that was made of the point alone.
        await self.secondary.fold_to_agreed()
        return await self._rewound(replace(common, record=False), name)

    async def _rewound(self, common: CommonPoint, name: str) -> Branch | None:
        assert self.secondary is not None
        self._closed = True
        await self.secondary.close()
        try:
            return await rewind(self._host, self._path, self._options, common, name)
        finally:
            await self._open_again()

    async def finish_jump(self) -> None:
        """All that changed has been sent: the copy is the source's point from then on, opened anew. Refused: it is
        not that point, and the copy is what it was."""
        async with self._changing:
            assert self.secondary is not None
            await self.secondary.finish_jump()
            self._closed = True
            await self.secondary.close()
            await self._open_again()

    async def open_again(self) -> None:
        """Open the copy if what closed it was broken off before it was open again; else nothing happens, but that
        what changes it just now is waited for."""
        async with self._changing:
            await self._open_again()

    async def _open_again(self) -> None:
        if self._closed:
            self.secondary = await open_secondary(self._host, self._path, self._options)
            self._closed = False
            self._opened(self.secondary)

    def _not_made(self, born: Birth, error: OSError) -> Refused:
        return Refused(
            "mirror-not-made",
            f"No mirror of {born.horizon.size} bytes can be made in {self._path}: {error_text(error)}",
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
            directory.open(layout.DISCARDED, create=True).close()
            directory.sync()
            for name in NAMES:
                if directory.exists(name):
                    directory.remove(name)
            directory.sync()
        finally:
            directory.close()


def refuse_other_volume(volume: bytes, name: str, asker: Fetch) -> None:
    """Refused: the node that asks is of another volume; one that has none yet takes any."""
    if asker.volume not in (bytes(16), volume):
        raise Refused(
            "other-volume", f"The node that answers holds another volume, {name}.", "Name a copy of this one."
        )


def _room_beside(copy: Secondary) -> Room:
    pool, jump = copy.log.pool, copy.jump
    free = copy.context.directory.free_bytes()
    if copy.base is None:
        free = max(0, free - pool.limits.reserve_bytes) + (jump.bytes if jump is not None else 0)
    return Room(pool.limits.budget_bytes, pool.bytes, free)


def point_of(start: BaseStart) -> Horizon:
    """The point to which the blocks belong that the source is about to send."""
    return Horizon(
        point=start.number,
        write=start.write,
        position=start.end.position,
        time_ns=start.time_ns,
        size=start.size,
        root_low=start.root[0],
        root_high=start.root[1],
        chain=start.end.chain,
    )


def birth(volume: bytes, name: str, node: bytes, start: BaseStart) -> Birth:
    """What the source says of the volume, as the storage takes it."""
    horizon = point_of(start)
    epochs = tuple(Epoch(e.number, e.reign, e.position, e.write) for e in start.epochs)
    held, lacking = (
        tuple(PinnedSnapshot(n.name, n.write, n.point, n.time_ns) for n in start.names if n.held == here)
        for here in (True, False)
    )
    return Birth(
        volume, name, node, horizon, epochs, snapshots=held, lacking=lacking, names_position=start.names_position,
        members=start.members, resync_points=start.resync_points,
    )  # fmt: skip


def _moments_told(volume: str, branch: Branch) -> str:
    """Which of the names that were given on a branch can be read, and which can't."""
    told = ""
    if branch.moments:
        names = ", ".join(moment.name for moment in branch.moments)
        told += f" Snapshots on it ({names}) are read as {volume}@{branch_moment(branch.name, 'NAME')}."
    if lost := names_not_kept(branch):
        told += f" Not kept with it: {', '.join(lost)}."
    return told
