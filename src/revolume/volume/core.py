"""The parts of an open volume, side by side: what opening makes and what the façade and its workers share."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST
from revolume.blocks.root import Root
from revolume.blocks.word import PARTIAL
from revolume.chain.point import Point
from revolume.errors import NoSpace, Poisoned, RevolumeError
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.log.appender import Appender, Stated
from revolume.log.commit import Commit
from revolume.log.pool import SegmentPool
from revolume.log.segment import Segment
from revolume.log.writer import Writer
from revolume.volume.admission import Admission
from revolume.volume.clock_mark import ClockMark
from revolume.volume.cover import Cover
from revolume.volume.damage import Damage
from revolume.volume.events import EventKind, Events
from revolume.volume.holding import HoldKind, Lease
from revolume.volume.label_clock import UNKNOWN_BOOT, ClockStep, LabelClock, SourceClock
from revolume.volume.live import LiveMap
from revolume.volume.lived import LivedTime
from revolume.volume.manifest import EditKind, Horizon, Manifest, Role
from revolume.volume.options import OpenOptions
from revolume.volume.partials import Partials
from revolume.volume.reader import Reader, Store
from revolume.volume.reserve import Reserve
from revolume.volume.sums import Sums

U64 = npt.NDArray[np.uint64]


Result = TypeVar("Result")


class Maintenance:
    """Work that is done to its end even if who waits for it goes away (a client whose wait for room had a
    point made, or a fold)."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[Any]] = set()

    async def finished(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await ``work``; cancelling this does not cancel it."""
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def settled(self) -> None:
        """Wait until nothing of it is under way."""
        while self._under_way:
            await asyncio.wait(list(self._under_way))


class Recorder:
    """Manifest edits, one after the other, each durable before the next; the log states the last one."""

    def __init__(self, host: Host, manifest: Manifest, stated: Stated, reserve: Reserve) -> None:
        self._host = host
        self._reserve = reserve
        self.maintenance = Maintenance()
        self._lock = asyncio.Lock()
        self.manifest = manifest
        self.stated = stated
        self.on_failure: Callable[[str], Poisoned] | None = None

    async def record(self, *edits: tuple[EditKind, bytes]) -> None:
        """All of these edits are durable when it returns. Who asked may go away, the edit goes on: the next
        one must not begin beside it."""
        await self.maintenance.finished(self._record(*edits))

    async def _record(self, *edits: tuple[EditKind, bytes]) -> None:
        async with self._lock:
            try:
                await self._recorded(*edits)
            except OSError as error:
                raise self._not_recorded(error) from error
            self.stated.edit = self.manifest.number
            if self.manifest.failure is not None:  # these edits stand, none will follow
                self._not_recorded(self.manifest.failure)

    async def close_clean(self) -> None:
        """The manifest's last state, behind every edit that was asked for; none may be asked for any more."""
        async with self._lock:
            await self._host.work.call_sync(self.manifest.close_clean)

    async def _recorded(self, *edits: tuple[EditKind, bytes]) -> None:
        """With no room, once more with the room that was kept back."""
        try:
            await self._host.work.call_sync(self.manifest.record, *edits)
        except OSError as error:
            if error.errno != errno.ENOSPC or self.manifest.failure is not None:
                raise
            if not await self._host.work.call_sync(self._reserve.take):
                raise
            await self._host.work.call_sync(self.manifest.record, *edits)

    def _not_recorded(self, error: OSError) -> RevolumeError:
        """A failed sync poisons the volume; without it nothing has happened, and it may be tried again."""
        cause = f"Writing the manifest failed: {error.strerror}."
        if self.manifest.failure is not None and self.on_failure is not None:
            return self.on_failure(cause)
        kind = NoSpace if error.errno == errno.ENOSPC else RevolumeError
        return kind("manifest-not-written", cause, "Look at the disk; nothing that was promised is lost.")


@dataclass(slots=True)
class LastPoint:
    """What the next point stands on: the last one's number and root, and its partials' digests."""

    number: int = 0
    root: Root = (0, 0)
    partial_blocks: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    partial_digests: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))


def lost_sentence(blocks: list[int]) -> str:
    """What is told of blocks that a point had to call lost."""
    more = f" (and {len(blocks) - 1} more)" if len(blocks) > 1 else ""
    return (
        f"Block {blocks[0]}{more} was written in part, and what was there before can't be read: "
        "reads of it are errors until it is overwritten whole."
    )


@dataclass(slots=True)
class Core:
    """An open volume's parts. Nothing in here is shared with another volume."""

    host: Host
    options: OpenOptions
    directory: Directory
    log_directory: Directory
    maps_directory: Directory
    volume_id: bytes
    name: str
    size: int
    recorder: Recorder
    reserve: Reserve
    pool: SegmentPool
    appender: Appender
    commit: Commit
    live: LiveMap
    partials: Partials
    writer: Writer
    store: Store
    reader: Reader
    sums: Sums
    points: list[Point]
    last: LastPoint
    events: Events
    admission: Admission
    sizes: list[tuple[int, int]]
    cover: Cover
    lived: LivedTime
    labels: LabelClock
    source_clock: SourceClock
    steps: list[ClockStep]
    """Clock steps that the log states, oldest first."""
    generation: int = 0
    below_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a point is composed from the layers below the overlay, and while they are exchanged."""
    base_name: str = ""
    """File name of the base map, exchanged together with it."""
    unsynced_bytes_max: int = 0
    """More than this unsynced starts a sync; twice that waits for one."""
    lost: set[int] = field(default_factory=set)
    """Blocks that points called lost, and that have not been overwritten since."""
    leases_given: int = 0
    map_users: int = 0
    stale_maps: list[str] = field(default_factory=list)
    leases: dict[int, Lease] = field(default_factory=dict)
    damage: Damage = field(init=False)
    gave_way: int = 0
    """Views and overlays that were ended because there was no other room."""
    footers: set[asyncio.Task[None]] = field(default_factory=set)
    unwritten: dict[int, Callable[[], None]] = field(default_factory=dict)
    """By use, what writes the footer of a sealed segment that has none yet."""
    sealed: dict[int, Segment] = field(default_factory=dict)
    """By use, segments whose footers this opening has written; not all of them are on the disk."""
    horizon_before: Horizon | None = None
    """While a flip is recorded and memory does not follow it yet: the horizon of before."""

    def __post_init__(self) -> None:
        self.damage = Damage(self.events)
        self.reader.damaged = self.damage.met
        self.commit.on_poison = lambda cause: self.events.tell(cause, EventKind.POISONED)
        self.admission.on_refusal = lambda cause: self.events.tell(cause, EventKind.FULL)

    def retire_map(self, name: str) -> None:
        """A map file that new work does not begin with; it goes when nobody's job may still open it."""
        self.stale_maps.append(name)
        self._sweep_maps()

    @contextlib.contextmanager
    def maps_in_use(self) -> Iterator[None]:
        """Map files named in here stay until the end of it."""
        self.map_users += 1
        try:
            yield
        finally:
            self.map_users -= 1
            self._sweep_maps()

    def _sweep_maps(self) -> None:
        """What the disk does not let go of now goes when the volume is opened next."""
        while self.stale_maps and not self.map_users:
            with contextlib.suppress(OSError):
                self.maps_directory.remove(self.stale_maps.pop())

    @property
    def maintenance(self) -> Maintenance:
        """What must be finished before the files are closed."""
        return self.recorder.maintenance

    @property
    def manifest(self) -> Manifest:
        """The open manifest."""
        return self.recorder.manifest

    def lease(
        self,
        holder: str,
        write: int,
        kind: HoldKind = HoldKind.KEPT,
        revoke: Callable[[], None] = lambda: None,
        held_bytes: Callable[[], int] = lambda: 0,
    ) -> Callable[[], None]:
        """Keep everything from ``write`` on; returns the function that lets go. A kind that gives way says how it
        is ended (``revoke``, which lets go before it returns), and what that gives back by itself."""
        self.leases_given += 1
        token = self.leases_given
        self.leases[token] = Lease(holder, write, kind, revoke, held_bytes)

        def let_go() -> None:
            self.leases.pop(token, None)

        return let_go

    def still_lost(self, block: int) -> bool:
        """Whether the newest version of a block is one that a point called lost (or, if only the base map or
        the image knows, may be)."""
        words, digests = self.live.lookup(np.array([block], np.uint64))
        if int(words[0]) >> 62 == PARTIAL:
            partial = self.partials.blocks.get(block)
            return partial is not None and partial.data is None
        return not words[0] or int(digests[0]) == LOST_DIGEST

    def now_ns(self) -> int:
        """The time by which the newest labels are made, now."""
        mirror = self.manifest.state.role == Role.SECONDARY
        return self.source_clock.now_ns() if mirror else self.labels.now_ns()

    def clock_mark(self) -> ClockMark:
        """What this copy knows of time now, for the opening that follows this one."""
        clock, primary = self.host.clock, self.manifest.state.role == Role.PRIMARY
        return ClockMark(
            self.lived.now_ns(), self.now_ns(), clock.boot_ns(), clock.boot_id() if primary else UNKNOWN_BOOT,
            self.appender.position,
        )  # fmt: skip

    def size_at(self, write: int) -> int:
        """The volume's size as of a retained write."""
        return [size for at, size in self.sizes if at <= write][-1]

    @property
    def horizon(self) -> Horizon:
        """The image's moment, as everything in memory has it: a flip is one step here, behind its record."""
        return self.horizon_before or self.manifest.state.horizon

    async def footers_written(self) -> None:
        """Every segment sealed so far has its footer."""
        while self.footers:
            await asyncio.wait(list(self.footers))

    async def footers_durable(self) -> None:
        """They are on the disk as well. Poisoned if that can't be."""
        await self.footers_written()
        for use, segment in list(self.sealed.items()):
            if self.pool.by_use.get(use) is segment:
                try:
                    if write := self.unwritten.get(use):  # the disk failed when it was its turn
                        await self.host.work.call_sync(write)
                        self.unwritten.pop(use, None)
                    await self.host.work.call_sync(segment.file.datasync)
                except OSError as error:
                    raise self.commit.poison(f"Syncing the log failed: {error.strerror}.") from error

    def image_bytes(self) -> int:
        """The image's length; it is sparse."""
        return self.store.image.size()

    def close_files(self) -> None:
        """Let go of everything, the directory's lock last."""
        self.pool.close()
        self.reserve.close()
        self.sums.close()
        if self.live.base is not None:
            self.live.base.close()
        self.store.image.close()
        self.manifest.close()
        self.log_directory.close()
        self.maps_directory.close()
        self.directory.close()
