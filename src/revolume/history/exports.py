"""What a volume offers over NBD: itself, and every retained moment by name.

    vm1                 the live volume (also the default export)
    vm1@MOMENT          a view, fixed when it is opened
    vm1@MOMENT,rw       the same with a throw-away writable layer

A mirror has nothing live to offer: there the plain name is a moving one too, and means the last point that the
mirror has agreed on.

A moving name (``@-10m``, ``@now``) resolves once per peer and name and stays what it was while any connection
of that peer holds it, and for a minute after the last one has gone, so that a client which lost its link
comes back to the same bytes. Such views and writable ones do not advertise multi-conn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from revolume.blocks.extents import extents
from revolume.errors import NotFound, RevolumeError
from revolume.history.allocation import DIRTY, ChangedSince, allocation, span
from revolume.history.moments import (
    Ago,
    AtWrite,
    ExportName,
    Now,
    format_export,
    format_time,
    parse_export,
    parse_moment,
)
from revolume.history.scratch import Scratch
from revolume.history.timeline import Spot, Timeline
from revolume.history.views import View, open_view
from revolume.host.network import Peer
from revolume.log.ops import Op
from revolume.volume.holding import HoldKind
from revolume.volume.live import LiveMap
from revolume.volume.reader import block_numbers
from revolume.volume.remembered import Remembered
from revolume.volume.volume import Volume

ALLOCATION = "base:allocation"
BITMAP = "qemu:dirty-bitmap:"
LINGER_S = 60.0
BETWEEN_QUESTIONS_S = 5.0  # one client asks INFO, contexts, GO, each opening the export
Extents = list[tuple[int, int]]


class LiveExport:
    """The live volume, for one connection."""

    def __init__(self, volume: Volume, exports: VolumeExports) -> None:
        self._volume = volume
        self._exports = exports
        self.name = volume.name
        self.description = f"{volume.name}, live"
        self.read_only = False
        self.multi_conn = True
        self.append = volume.append
        self.room = volume.room
        self.released = volume.released
        self.on_release = volume.on_release
        self.durable = volume.durable
        self.read_now = volume.read_now
        self.read = volume.read
        self.since: dict[str, ChangedSince] = {}

    @property
    def newest_write(self) -> int:
        """The last write that it shows."""
        return self._volume.write

    @property
    def size(self) -> int:
        """Bytes, now."""
        return self._volume.size

    @property
    def position(self) -> int:
        """The last appended position."""
        return self._volume.position

    async def extents(self, context: str, offset: int, length: int) -> Extents:
        """Allocation, or what changed since a moment."""
        core = self._volume.core
        if context == ALLOCATION:
            return await allocation(core.host.work, core.live, offset, length, self.size)
        return await self._exports.changed(self, context, core.live, offset, length)

    async def cache(self, offset: int, length: int) -> None:
        """Read it, so that the page cache has it."""
        await warm(self._volume.read, offset, length)

    def close(self, said_goodbye: bool = False) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class _Open:
    """A view that somebody holds, or held a moment ago."""

    view: View
    scratch: Scratch | None
    users: int = 0
    expiry: asyncio.TimerHandle | None = None


class ViewExport:
    """A view, for one connection; with a scratch it is writable."""

    def __init__(
        self, name: str, held: _Open, moving: bool, exports: VolumeExports, closed: Callable[[bool], None]
    ):
        self._view = held.view
        self._scratch = held.scratch
        self._exports = exports
        self._closed = closed
        self.name = name
        self.description = told(name, held.view.volume, held.view.spot)
        self.size = held.view.size
        self.read_only = held.scratch is None
        self.multi_conn = held.scratch is None and not moving
        self.position = 0
        self.newest_write = held.view.spot.write
        self.since: dict[str, ChangedSince] = {}

    @property
    def held_bytes(self) -> int:
        """What its overlay takes of the disk."""
        return self._scratch.bytes if self._scratch is not None else 0

    def append(self, ops: list[Op]) -> int:
        """Into the scratch."""
        assert self._scratch is not None
        self._view.tenure.check()
        self._scratch.append(ops)
        return 0

    async def room(self, ops: list[Op]) -> None:
        """Fetch what the changes cover in part."""
        assert self._scratch is not None
        with self._view.using():
            await self._scratch.room(ops)

    def released(self, position: int) -> bool:
        """At once."""
        return True

    def on_release(self, position: int, callback: Callable[[], None]) -> None:
        """At once."""
        callback()

    async def durable(self, position: int) -> None:
        """A throw-away has nothing to keep."""

    def read_now(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        """See ``nbd.export.Export``. GaveWay: the view has been ended."""
        self._view.tenure.check()
        return (self._scratch or self._view.reader).read_now(reads)

    async def read(self, offset: int, buffer: memoryview) -> None:
        """See ``nbd.export.Export``."""
        with self._view.using():
            await (self._scratch or self._view.reader).read(offset, buffer)

    async def extents(self, context: str, offset: int, length: int) -> Extents:
        """Allocation, or what changed since an earlier moment."""
        with self._view.using():
            return await self._extents(context, offset, length)

    async def _extents(self, context: str, offset: int, length: int) -> Extents:
        work = self._view.volume.core.host.work
        if context != ALLOCATION:
            return await self._exports.changed(self, context, self._view.source, offset, length)
        if self._scratch is None:
            return await allocation(work, self._view.source, offset, length, self.size)
        first, count, length = span(offset, length, self.size)
        mine = self._scratch.mine(first, count)
        below = await allocation(work, self._view.source, first * 4096, count * 4096, -(-self.size // 4096) * 4096)
        flags = np.repeat([flag for _, flag in below], [size // 4096 for size, _ in below])
        flags[mine] = 0
        return extents(first, count, flags, offset, length)

    async def cache(self, offset: int, length: int) -> None:
        """Read it, so that the page cache has it."""
        await warm(self.read, offset, length)

    def close(self, said_goodbye: bool = False) -> None:
        """This connection is done with it."""
        self._closed(said_goodbye)


def told(name: str, volume: Remembered, spot: Spot) -> str:
    """A moment's export in a sentence."""
    noted = f" ({spot.note})" if spot.note else ""
    return f"{name}: {volume.name} at {format_time(spot.time_ns)}{noted}"


async def warm(read: Callable[[int, memoryview], object], offset: int, length: int) -> None:
    """Read a range and forget it."""
    step = 1 << 20
    for at in range(offset, offset + length, step):
        buffer = memoryview(bytearray(min(step, offset + length - at)))
        result = read(at, buffer)
        assert asyncio.iscoroutine(result)
        await result


@dataclass(frozen=True, slots=True)
class SeenView:
    """A view of which somebody asked to hear; it was not opened."""

    name: str
    description: str
    size: int
    newest_write: int
    since: dict[str, ChangedSince]
    read_only: bool = True
    multi_conn: bool = True

    def close(self, said_goodbye: bool = False) -> None:
        """Nothing is held."""


class VolumeExports:
    """All exports of one volume. ``live``: the same volume, where clients may write to it; without it, on a
    mirror, the plain name opens the newest moment."""

    def __init__(self, volume: Remembered, live: Volume | None) -> None:
        self._volume = volume
        self._live = live
        self.timeline = Timeline(volume)
        self._open: dict[tuple[str, str], _Open] = {}
        self._opening = asyncio.Lock()

    def names(self) -> list[tuple[str, str]]:
        """The volume and its snapshots, as far as they can be opened."""
        volume = self._volume
        plain = "live" if self._live is not None else "a mirror: as of its last agreed point"
        newest, _ = volume.newest
        shots = [s for s in volume.snapshots() if s.write <= newest]
        named = [(f"{volume.name}@{s.name}", f"snapshot of {format_time(s.time_ns)}") for s in shots]
        return [(volume.name, f"{volume.name}, {plain}"), *named]

    async def open(self, name: str, peer: Peer) -> LiveExport | ViewExport:
        """NotFound, UsageError: there is no such export, and why."""
        asked = self._asked(name)
        if asked is None:
            assert self._live is not None
            return LiveExport(self._live, self)
        async with self._opening:
            return await self._open_view(asked, peer)

    async def look(self, name: str, peer: Peer) -> LiveExport | ViewExport | SeenView:
        """What can be told of it. A view is made only for what would not be the same view later."""
        asked = self._asked(name)
        if asked is None or asked.writable_view or isinstance(asked.moment, Ago | Now):
            return await self.open(name, peer)
        assert asked.moment is not None
        spot = self.timeline.resolve(asked.moment)
        fixed = format_export(ExportName(self._volume.name, AtWrite(spot.write), asked.options))
        size = self._volume.core.size_at(spot.write)
        return SeenView(fixed, told(fixed, self._volume, spot), size, spot.write, {})

    def _asked(self, name: str) -> ExportName | None:
        """A moment's export; None: the live volume."""
        asked = parse_export(name)
        if asked.volume not in ("", self._volume.name):
            raise NotFound(
                "no-export", f"There is no export {asked.volume}.", f"This server has {self._volume.name}."
            )
        if asked.moment is None:
            return None if self._live is not None else ExportName(self._volume.name, Now())
        return asked

    async def _open_view(self, asked: ExportName, peer: Peer) -> ViewExport:
        moving = isinstance(asked.moment, Ago | Now)
        who = identity(peer) if moving or asked.writable_view else ""
        key = (who, format_export(asked))
        held = self._open.get(key)
        if held is None:
            held = self._open[key] = await self._begin(key, asked)
        held.users += 1
        if held.expiry is not None:
            held.expiry.cancel()
            held.expiry = None
        fixed = ExportName(self._volume.name, AtWrite(held.view.spot.write), asked.options)
        return ViewExport(
            format_export(fixed), held, moving, self, lambda said_goodbye: self._release(key, held, said_goodbye)
        )

    async def _begin(self, key: tuple[str, str], asked: ExportName) -> _Open:
        assert asked.moment is not None
        spot = self.timeline.resolve(asked.moment)
        if spot.note:
            self._volume.core.events.tell(f"{format_export(asked)} is w{spot.write}: {spot.note}")
        kind, what = (HoldKind.OVERLAY, "overlay") if asked.writable_view else (HoldKind.VIEW, "view")
        view = await open_view(self._volume, spot, f"{what} @w{spot.write}", kind)
        token = self._volume.core.host.entropy.token(8).hex()
        quota = self._volume.core.options.overlay_quota_bytes
        try:
            held = _Open(view, Scratch(view, token, quota) if asked.writable_view else None)
        except BaseException:  # the disk has no room for a file: nothing is to be kept for this view
            view.close()
            raise
        view.tenure.on_end.append(lambda: self._gave_way(key, held))
        return held

    def _gave_way(self, key: tuple[str, str], held: _Open) -> None:
        """The view has been ended: who has it is told, who asks for the name gets another."""
        if held.expiry is not None:
            held.expiry.cancel()
        if self._open.get(key) is held:
            del self._open[key]

    def _release(self, key: tuple[str, str], held: _Open, said_goodbye: bool) -> None:
        held.users -= 1
        if held.users == 0:
            if said_goodbye:
                self._expire(key, held)
                return
            linger = LINGER_S if key[0] else BETWEEN_QUESTIONS_S
            held.expiry = asyncio.get_running_loop().call_later(linger, self._expire, key, held)

    def _expire(self, key: tuple[str, str], held: _Open) -> None:
        if held.users == 0 and self._open.get(key) is held:
            del self._open[key]
            held.view.close()

    def close(self) -> None:
        """Close every view; no connection holds one any more."""
        for key, held in list(self._open.items()):
            if held.expiry is not None:
                held.expiry.cancel()
            held.users = 0
            self._expire(key, held)

    # Metadata contexts

    async def contexts(self, export: LiveExport | ViewExport | SeenView, query: str) -> list[str]:
        """The contexts that a query names for an export. A bitmap says what changed *since* a moment, so there is
        none of a moment behind the export's own: ask for it the other way round."""
        upto = export.newest_write
        if query in (ALLOCATION, "base:"):
            return [ALLOCATION]
        if query in ("qemu:", BITMAP):
            return [BITMAP + s.name for s in self._volume.snapshots() if s.write <= upto]
        try:
            export.since[query] = self._changed_since(query, upto)
        except RevolumeError:
            return []
        return [query]

    def _changed_since(self, context: str, upto: int) -> ChangedSince:
        if not context.startswith(BITMAP):
            raise NotFound("no-context", f"There is no metadata context {context}.", f"There is {ALLOCATION}.")
        spot = self.timeline.resolve(parse_moment(context[len(BITMAP) :]))
        if spot.write > upto:
            raise NotFound(
                "bitmap-of-later",
                f"{context} is behind this export's moment, w{upto}.",
                "Open the later moment, and ask it what changed since the earlier one.",
            )
        return ChangedSince(self.timeline.address_after(spot.write), self.timeline.restated_since(spot.write))

    async def changed(
        self, export: LiveExport | ViewExport, context: str, source: object, offset: int, length: int
    ) -> Extents:
        """Which blocks of an export's source changed since the context's moment, which is resolved once for each
        connection."""
        since = export.since.get(context)
        if since is None:
            since = export.since[context] = self._changed_since(context, export.newest_write)
        first, count, length = span(offset, length, export.size)
        words = await self._raw_words(source, first, count)
        return extents(first, count, np.where(since.of(words), DIRTY, 0), offset, length)

    async def _raw_words(
        self, source: object, first: int, count: int
    ) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        blocks = block_numbers(first, count)
        work = self._volume.core.host.work
        if isinstance(source, LiveMap):
            words, _ = source.lookup(blocks)
            return await self._words_below(source, blocks, words)
        return await work.call(source.words, blocks)  # type: ignore[attr-defined]


    async def _words_below(
        self, live: LiveMap, blocks: np.ndarray[tuple[int], np.dtype[np.uint64]],
        words: np.ndarray[tuple[int], np.dtype[np.uint64]],
    ) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:  # fmt: skip
        work = self._volume.core.host.work
        for _ in range(3):
            try:
                return await work.call(live.words_below, blocks, words)
            except OSError:  # the base was exchanged and closed meanwhile: look again
                words, _ = live.lookup(blocks)
        return await work.call(live.words_below, blocks, words)


def identity(peer: Peer) -> str:
    """Who a peer is, as far as moving names are concerned: certificate, else address or user."""
    if peer.certificate_name:
        return f"tls:{peer.certificate_name}"
    if peer.uid is not None:
        return f"uid:{peer.uid}"
    return f"at:{peer.address.rsplit(':', 1)[0]}"
