"""Opening a volume as primary: manifest, log, maps, a new epoch.

    lock the directory → manifest → what of the log stands (``log/tail.py``) → the unsynced tail written anew
    → live map from base map and columns (``replay.py``) → epoch durable → log open for appending

After a clean stop the log goes on where it ended; after an unclean one numbering resumes above what was
reserved, in a fresh segment behind the rewritten tail.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from revolume.blocks.overlay import Overlay, OverlayFull
from revolume.blocks.word import PARTIAL
from revolume.chain.mapfile import MapFile
from revolume.chain.point import Point
from revolume.errors import Damaged, NoSpace, NotFound, Refused, RevolumeError
from revolume.host import Host
from revolume.host.disk import Directory, File
from revolume.log.appender import Appender, LogEnd, Stated
from revolume.log.columns import Columns, ColumnsBuilder
from revolume.log.commit import Commit
from revolume.log.pool import PoolLimits, SegmentPool
from revolume.log.scan import Found, chain_behind
from revolume.log.segment import Segment, write_footer
from revolume.log.tail import Piece, Recovered, TailCopy, last_of, recover, stated_durable
from revolume.log.transfer import BLOCK
from revolume.log.writer import Writer
from revolume.volume import facts, layout
from revolume.volume.admission import Admission
from revolume.volume.core import Core, Events, LastPoint, Recorder
from revolume.volume.creating import Birth, check_budget, create, create_copy, default_budget
from revolume.volume.cutter import Cutter
from revolume.volume.first_base import FirstBase, check_memory, too_small
from revolume.volume.folder import Folder
from revolume.volume.live import LiveMap
from revolume.volume.manifest import (
    EditKind,
    Epoch,
    Horizon,
    Manifest,
    Mark,
    MirrorMode,
    Role,
    State,
    load,
    pack_epoch,
    pack_mark,
    pack_number,
    pack_pairs,
)
from revolume.volume.mirrors import missing
from revolume.volume.options import OpenOptions
from revolume.volume.partials import Partials
from revolume.volume.reader import Reader, Store
from revolume.volume.replay import records_behind, replay
from revolume.volume.reserve import Reserve
from revolume.volume.secondary import Secondary
from revolume.volume.sums import Sums
from revolume.volume.volume import RESERVE_STEP, Volume

Result = TypeVar("Result")


async def open_volume(host: Host, path: str, options: OpenOptions) -> Volume:
    """Open the volume in ``path``, or create it if ``options.size`` is given and nothing is there."""
    check_memory(options.map_memory_bytes)
    if options.promote:
        await _prove(host, path, options)
    directory = _locked(host, path, options)
    with ExitStack() as held:
        held.callback(directory.close)
        manifest = await host.work.call(_manifest, host, directory, options)
        held.callback(manifest.close)
        _agree(manifest.state, options, directory.path)
        _may_be_primary(manifest.state, options, directory.path)
        volume = await _Opening(host, directory, manifest, options, held).run()
        held.pop_all()
        return volume


async def _prove(host: Host, path: str, options: OpenOptions) -> None:
    """A mirror that is to become a primary first deals with what it has received. What is none is left alone."""
    directory = _locked(host, path, options)
    try:
        state = (await host.work.call(load, directory)).state
    finally:
        directory.close()
    if state.role != Role.SECONDARY or state.base is not None:
        return
    secondary = await open_secondary(host, path, replace(options, size=None, promote=False))
    try:
        await secondary.prove()
    finally:
        await secondary.close()


async def open_secondary(host: Host, path: str, options: OpenOptions, birth: Birth | None = None) -> Secondary:
    """Open the copy in ``path`` as secondary, or with ``birth`` make it if nothing is there."""
    check_memory(options.map_memory_bytes)
    directory = _locked(host, path, replace(options, size=birth.horizon.size if birth else None))
    with ExitStack() as held:
        held.callback(directory.close)
        manifest = await host.work.call(_copy_manifest, host, directory, options, birth)
        held.callback(manifest.close)
        _agree(manifest.state, replace(options, name=None), directory.path)
        if manifest.state.role != Role.SECONDARY:
            raise Refused(
                "is-primary",
                f"{directory.path} holds a volume that clients may write to, not a mirror.",
                "Serve it without --mirror-listen, or name an empty directory.",
            )
        secondary = await _Opening(host, directory, manifest, options, held).run_secondary()
        held.pop_all()
        return secondary


def _copy_manifest(host: Host, directory: Directory, options: OpenOptions, birth: Birth | None) -> Manifest:
    try:
        load(directory)
    except NotFound:
        if birth is None:
            raise
        return create_copy(host, directory, options, birth)
    return Manifest.opened(directory)


def _may_be_primary(state: State, options: OpenOptions, path: str) -> None:
    """Refused for a mirror, unless it is being promoted and may be; and where a required mirror is left out."""
    if state.role == Role.SECONDARY and not options.promote:
        raise Refused(
            "is-mirror", f"{path} is a mirror: only its source changes it.",
            "Serve it with --mirror-listen, or make it a primary with 'revolume promote'.",
        )  # fmt: skip
    if state.base is not None:
        raise Refused(
            "not-promotable", f"{path} is not a whole copy yet: its base is still being received.",
            "Let its source finish, or promote another mirror.",
        )  # fmt: skip
    for mirror in state.mirrors:
        if mirror.joined and mirror.mode == MirrorMode.SYNC and mirror.name not in options.mirrors:
            raise missing(mirror.name)


def _locked(host: Host, path: str, options: OpenOptions) -> Directory:
    try:
        directory = host.disk.open(path, create=options.size is not None)
    except FileNotFoundError:
        raise NotFound(
            "no-directory", f"{path} does not exist.", "Give --size to create a volume there."
        ) from None
    except NotADirectoryError:
        raise Refused("not-a-directory", f"{path} is not a directory.", "Name a directory.") from None
    try:
        directory.lock()
    except BlockingIOError:
        directory.close()
        raise Refused(
            "dir-in-use",
            f"{path} is in use by another process.",
            "Stop that one, or reach the volume through it.",
        ) from None
    return directory


def _manifest(host: Host, directory: Directory, options: OpenOptions) -> Manifest:
    try:
        load(directory)
    except NotFound:
        if options.size is None:
            raise
        name = options.name or directory.path.rstrip("/").rsplit("/", 1)[-1]
        return create(host, directory, options, name)
    return Manifest.opened(directory)


def _parts(directory: Directory) -> tuple[Directory, Directory, File]:
    """Log, maps and image. Damaged: one of them is missing."""
    try:
        return directory.child(layout.LOG), directory.child(layout.MAPS), directory.open(layout.IMAGE)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(
            "part-missing",
            f"The volume in {directory.path} has lost its {error.filename}.",
            "Put it back from a mirror or a backup, or read what is left with 'revolume salvage'.",
        ) from None


def _agree(state: State, options: OpenOptions, path: str) -> None:
    if options.name is not None and state.name != options.name:
        raise Refused(
            "wrong-name", f"The volume in {path} is called {state.name}.", "Leave --name out, or name it so."
        )
    check_budget(options, state.segment_blocks * BLOCK)


@dataclass(slots=True)
class _Tail:
    """The log's end, ready to be appended to."""

    pieces: list[Piece]
    end: LogEnd
    segment: Segment | None
    next_block: int


class _Opening:
    """``held``: what is to be closed if the volume can't be opened."""

    def __init__(
        self, host: Host, directory: Directory, manifest: Manifest, options: OpenOptions, held: ExitStack
    ) -> None:
        self._host = host
        self._directory = directory
        self._options = options
        self._stated = Stated(horizon=manifest.state.horizon.write, edit=manifest.number)
        self._reserve = Reserve(directory)
        self._recorder = Recorder(host, manifest, self._stated, self._reserve)
        self._held = held
        self._log, self._maps, self._image = _parts(directory)
        self._pool = self._make_pool()
        for part in (self._log, self._maps, self._image, self._pool, self._reserve):
            held.callback(part.close)
        self._events = Events(host.clock.wall_ns)

    @property
    def _state(self) -> State:
        return self._recorder.manifest.state

    def _make_pool(self) -> SegmentPool:
        options, blocks = self._options, self._state.segment_blocks
        size = blocks * BLOCK
        budget = options.budget_bytes or self._state.budget
        budget = budget or default_budget(self._directory, len(self._state.uses) * size, size)
        reserve = self._reserve
        reserve.open()
        reserve.resize(options.reserve_bytes, len(self._state.uses) * size, budget, size)
        ready = max(2, min(options.spare_bytes, budget // 4) // size)
        limits = PoolLimits(ready, budget, reserve.slack)
        pool = SegmentPool(self._log, self._host.work, blocks, limits, self._register)
        pool.owed_bytes = lambda: reserve.missing
        return pool

    def _budget_edits(self) -> list[tuple[EditKind, bytes]]:
        """The budget, where it is another than the manifest holds."""
        budget = self._pool.limits.budget_bytes
        if budget == self._state.budget or self._options.budget_once:
            return []
        return [(EditKind.BUDGET, pack_number(budget))]

    async def _register(self, uses: dict[int, int]) -> None:
        await self._recorder.record((EditKind.USES, pack_pairs(uses)))

    async def _tail(self) -> _Tail:
        state = self._state
        self._pool.adopt(state.uses, state.next_use)
        if state.clean is None:
            return await self._unclean_tail()
        tail = await self._host.work.call(self._clean_tail, state.clean)
        await self._accept()
        return tail

    async def run_secondary(self) -> Secondary:
        tail = await self._tail()
        core = await self._core(tail)
        pieces = [(p.segment, p.columns) for p in tail.pieces]
        await self._recorder.record((EditKind.CLEAN, pack_mark(None)), *self._budget_edits())
        core.writer.on_seal = Sealer(core).seal
        core.commit.on_durable = Durables(core).moved
        agreed = core.points[-1] if core.points else _point_of(self._state.horizon)
        secondary = Secondary(core, Folder(core), agreed)
        await self._take_up_epoch(secondary)
        self._sweep_maps()
        secondary.start(records_behind(pieces, self._state.agreed.position))
        return secondary

    async def _take_up_epoch(self, secondary: Secondary) -> None:
        """The log goes on in the epoch of its last transfer."""
        appender = secondary.core.appender
        identity = await secondary.feed.identity_at(appender.position)
        if identity is not None:
            appender.epoch, appender.reign = identity[:2]

    async def run(self) -> Volume:
        core = await self._core(await self._tail())
        self._check_size(core)
        await self._begin_epoch(core)
        volume = self._volume(core)
        self._sweep_maps()
        volume.start()
        return volume

    def _check_size(self, core: Core) -> None:
        wanted = self._options.size
        if wanted is not None and wanted != core.size:
            raise Refused(
                "wrong-size",
                f"The volume in {self._directory.path} has {core.size} bytes, not {wanted}.",
                "Leave --size out, or use 'revolume grow'.",
            )

    # The log

    def _horizon_end(self) -> LogEnd:
        h = self._state.horizon
        return LogEnd(h.position, h.chain, h.write, h.time_ns)

    def _log_segments(self) -> list[Segment]:
        first = self._state.horizon.address // self._pool.segment_blocks
        return [s for s in self._pool.segments() if s.use >= first]

    def _clean_tail(self, mark: Mark) -> _Tail:
        """The log as a clean stop left it; Damaged if it isn't."""
        self._stated.durable = mark.position  # footers that are written now say so
        last_use = mark.address // self._pool.segment_blocks
        used = [s for s in self._log_segments() if s.use <= last_use]
        for segment in self._pool.segments():
            if segment.use > last_use:
                self._pool.ready.append(segment)
        found = self._recover(used, mark.position)
        if found.end.position != mark.position or found.end.chain != mark.chain:
            raise Damaged(
                "log-damaged",
                f"The log ends at position {found.end.position}, but was closed at {mark.position}.",
                "Restore the directory from a mirror or a backup, or use 'revolume salvage'.",
            )
        end = LogEnd(mark.position, mark.chain, mark.write, mark.time_ns)
        last = found.pieces[-1] if found.pieces else None
        self._seal(found.pieces[:-1])
        goes_on = last is not None and last.segment.use == last_use and last_use not in self._state.ends
        if goes_on and last is not None and last.builder is not None:
            return _Tail(found.pieces, end, last.segment, last.end_block)
        return _Tail(found.pieces, end, None, 0)

    def _recover(self, segments: list[Segment], durable: int) -> Recovered:
        state = self._state
        return recover(
            segments, state.volume, self._horizon_end(), state.horizon.address, durable, state.ends
        )

    async def _unclean_tail(self) -> _Tail:
        """The log after a crash: torn end cut, unsynced tail copied to a fresh segment and synced."""
        host, state = self._host, self._state
        segments = self._log_segments()
        durable, edit = await host.work.call(stated_durable, segments, state.volume)
        if edit > self._recorder.manifest.number:
            raise Damaged(
                "manifest-damaged",
                f"The log knows manifest edit {edit}, the manifest ends with {self._recorder.manifest.number}.",
                "The manifest's end is lost: use 'revolume salvage', or restore from a mirror or a backup.",
            )
        durable = max(durable, state.durable.position, state.horizon.position)
        self._stated.durable = durable
        found = await host.work.call(self._recover, segments, durable)
        if state.epochs:
            self._events.tell(
                f"recovered after an unclean stop: {len(found.tail)} transfers beyond position {durable} kept"
            )
        return await self._rewritten(found)

    async def _rewritten(self, found: Recovered) -> _Tail:
        ends: dict[int, int] = {}
        if found.pieces and found.pieces[-1].builder is not None:
            ends[found.pieces[-1].segment.use] = found.pieces[-1].end_block
        await self._accept()
        kept = {piece.segment.use for piece in found.pieces}
        spare = self._pool.give_back([s.use for s in found.unused if s.use not in kept])
        self._pool.free.extend(spare)  # nothing of the log lies in them: the copies may go there
        copies = await self._copy_tail(found.tail)
        stale = [
            s for s in self._pool.segments() if s.use not in kept and s not in [c.segment for c in copies]
        ]
        first = self._state.horizon.address // self._pool.segment_blocks
        freed = self._pool.give_back([s.use for s in stale if s.use >= first])
        freed |= self._pool.give_back([s.use for s in stale if s.use < first])
        unused = {index: 0 for index in spare if index in self._pool.free}  # the manifest must not call them used
        self._pool.ready.clear()
        pieces = found.pieces + [
            Piece(c.segment, c.builder.freeze(), c.next_block, c.chain_before, c.builder) for c in copies
        ]
        await self._host.work.call_sync(self._seal, pieces[:-1] if copies else pieces)
        end = found.end
        mark = Mark(end.position, 0, end.chain, end.write, end.time_ns)
        await self._recorder.record(
            (EditKind.ENDS, pack_pairs(ends)), (EditKind.USES, pack_pairs(freed | unused)),
            (EditKind.DURABLE, pack_mark(mark)),
        )  # fmt: skip
        self._pool.release(freed)
        last = copies[-1] if copies else None
        return _Tail(pieces, end, last.segment if last else None, last.next_block if last else 0)

    def _seal(self, pieces: list[Piece]) -> None:
        """Footers for pieces that lack one, or whose footer speaks of more than was kept."""
        volume, stated = self._state.volume, (self._stated.durable, self._stated.edit)
        for piece in pieces:
            if piece.builder is None:
                continue
            chains = (piece.chain_before, chain_behind(last_of(piece, volume).transfer))
            write_footer(piece.segment, volume, piece.builder, piece.end_block, chains, stated)
            piece.segment.file.datasync()

    async def _accept(self) -> None:
        """The log has been found to agree with the manifest: only now may the manifest's number grow."""
        try:
            await self._with_room(lambda: self._host.work.call_sync(self._recorder.manifest.renew))
        except OSError as error:
            raise self._no_room("its manifest", error) from error
        self._stated.edit = self._recorder.manifest.number

    async def _with_room(self, step: Callable[[], Awaitable[Result]]) -> Result:
        """With no room, once more with the room that was kept back."""
        try:
            return await step()
        except OSError as error:
            if error.errno != errno.ENOSPC or not await self._host.work.call(self._reserve.take):
                raise
            return await step()

    async def _copy_tail(self, tail: list[Found]) -> list[TailCopy]:
        stated = (self._stated.durable, self._stated.edit, self._stated.horizon)
        copies: list[TailCopy] = []
        for found in tail:
            if not copies or not copies[-1].fits(found):
                if copies:
                    await self._host.work.call_sync(copies[-1].segment.file.datasync)
                try:
                    segment = await self._with_room(self._pool.fresh)
                except OSError as error:
                    raise self._no_room("the end of its log", error) from error
                copies.append(TailCopy(segment, self._state.volume, stated))
            await self._host.work.call(copies[-1].add, found)
        if copies:
            await self._host.work.call_sync(copies[-1].segment.file.datasync)
        return copies

    # The maps

    async def _core(self, tail: _Tail) -> Core:
        try:
            return await self._mapped(tail)
        except OverlayFull:
            cut = await self._first_base(tail)
        try:
            return await self._mapped(tail)
        except OverlayFull:
            pieces = [(p.segment, p.columns) for p in tail.pieces]
            raise too_small(self._options.map_memory_bytes, pieces, cut) from None

    async def _first_base(self, tail: _Tail) -> int:
        """What does not fit in memory goes into a base map, as far as there are points; the base's cut."""
        maker = FirstBase(self._host, self._log, self._maps, [(p.segment, p.columns) for p in tail.pieces])
        base = self._base(self._state)
        try:
            edit = self._recorder.manifest.number
            name, cut = await self._with_room(lambda: maker.make(self._state, base, edit))
        except OSError as error:
            raise self._no_room("a map", error) from error
        finally:
            if base is not None:
                base.close()
        if name is not None:
            await self._recorder.record((EditKind.BASE_MAP, name.encode()))
            self._events.tell("the live map did not fit in its memory and was merged into its base")
        return cut

    async def _mapped(self, tail: _Tail) -> Core:
        """The live map filled; OverlayFull if it does not fit."""
        with ExitStack() as held:
            core = await self._filled(tail, held)
            self._held.push(held.pop_all())
            return core

    async def _filled(self, tail: _Tail, held: ExitStack) -> Core:
        state, options = self._state, self._options
        self._stated.durable = tail.end.position
        seed = int.from_bytes(self._host.entropy.token(8), "little")
        overlay = Overlay(options.map_memory_bytes, seed)
        sums = Sums.open(self._directory, state.volume, state.horizon.pages_generation)
        held.callback(sums.close)
        base = self._base(state)
        if base is not None:
            held.callback(base.close)
        live = LiveMap(overlay, sums, state.horizon.address, base, state.horizon.address)
        known = [e.number for e in state.epochs] + [_newest_epoch(p.columns) for p in tail.pieces]
        number = 1 + max(known, default=0)
        reign = self._host.entropy.token(16)
        appender = Appender(state.volume, reign, number, tail.end, self._stated, self._host.clock.wall_ns)
        commit = Commit(self._host.work, lambda: appender.whole, tail.end.position)
        core = self._assemble(appender, commit, live, self._image, sums)
        upto = state.agreed.position if state.role == Role.SECONDARY and not options.promote else None
        last = await replay(core, [(p.segment, p.columns) for p in tail.pieces], state.horizon, upto)
        core.last.number, core.last.root = last.number, last.root
        core.last.partial_blocks, core.last.partial_digests = last.partial_blocks, last.partial_digests
        self._resume(core, tail, state)
        return core

    def _base(self, state: State) -> MapFile | None:
        """The base map, unless there is none or the horizon has passed it; a broken one is made again."""
        if not state.base_map or not self._maps.exists(state.base_map):
            return None
        try:
            base = MapFile.open(self._maps.open(state.base_map, write=False), state.volume)
        except Damaged as error:
            self._events.tell(f"the map {state.base_map} is damaged and is made anew: {error.cause}")
            return None
        if base.meta.address <= state.horizon.address:
            base.close()
            return None
        return base

    def _assemble(self, appender: Appender, commit: Commit, live: LiveMap, image: File, sums: Sums) -> Core:
        host, state, pool = self._host, self._state, self._pool
        store = Store(pool, image)
        source = LiveSource(live)
        reader = Reader(store, source, host.work)
        partials = Partials(source.base_of, reader.version_now)
        source.partials, source.reader = partials, reader
        writer = Writer(appender, pool, commit, live, partials)
        self._recorder.on_failure = commit.poison
        admission = Admission(pool, writer.holds)
        core = Core(
            host, self._options, self._directory, self._log, self._maps, state.volume, state.name,
            state.horizon.size, self._recorder, self._reserve, pool, appender, commit, live, partials, writer,
            store, reader, sums, [], LastPoint(), self._events, admission, [(0, state.horizon.size)],
        )  # fmt: skip
        source.core = core
        core.unsynced_bytes_max = self._reserve.unsynced_max(self._options.unsynced_bytes_max)
        core.base_name = state.base_map if live.base is not None else ""
        writer.partial_word = source.note_partial
        return core

    def _resume(self, core: Core, tail: _Tail, state: State) -> None:
        appender = core.appender
        if state.clean is None and state.role == Role.PRIMARY:
            appender.write = max(appender.write, state.reserved)
        if tail.segment is not None:
            builder = tail.pieces[-1].builder
            assert builder is not None
            appender.segment, appender.next_block, appender.columns = tail.segment, tail.next_block, builder
            appender.chain_before = tail.pieces[-1].chain_before

    async def _begin_epoch(self, core: Core) -> None:
        """The epoch is durable before its first write: in the manifest first, then as a fact in the log."""
        appender = core.appender
        number, reign = appender.epoch, appender.reign
        epoch = Epoch(number, reign, appender.position, appender.write)
        reserved = max(self._state.reserved, appender.write) + RESERVE_STEP
        await self._recorder.record(
            *self._primary_edits(), (EditKind.EPOCH, pack_epoch(epoch)), (EditKind.RESERVE, pack_number(reserved)),
            (EditKind.CLEAN, pack_mark(None)), *self._budget_edits(),
        )  # fmt: skip
        core.writer.on_seal = Sealer(core).seal
        core.commit.on_durable = Durables(core).moved
        if not core.writer.holds(4, 0):
            core.pool.ready.appendleft(await self._first_segment())  # it is the oldest: uses must ascend
        core.writer.emit(facts.draft(facts.epoch_begun(number, reign)))
        await core.commit.wait_durable(appender.position)

    def _primary_edits(self) -> list[tuple[EditKind, bytes]]:
        """What makes it a primary that was none; a copy's own mark, where an older version made none."""
        edits: list[tuple[EditKind, bytes]] = []
        if self._state.role == Role.SECONDARY:
            edits.append((EditKind.ROLE, bytes([Role.PRIMARY])))
        if self._state.node == bytes(16):
            edits.append((EditKind.NODE, self._host.entropy.token(16)))
        return edits

    async def _first_segment(self) -> Segment:
        try:
            return await self._with_room(self._pool.fresh)
        except OSError as error:
            raise self._no_room("a segment of the log", error) from error

    def _no_room(self, what: str, error: OSError) -> RevolumeError:
        """An opening writes a little; where it can't, nothing has changed."""
        cause = f"Opening {self._directory.path} needs to write {what}: {error.strerror}."
        if error.errno == errno.ENOSPC:
            return NoSpace("no-space", cause, "Free some room on the disk and open it again; nothing is lost.")
        return RevolumeError("not-opened", cause, "Look at the disk, then open it again; nothing is lost.")

    def _volume(self, core: Core) -> Volume:
        cutter = Cutter(core)
        core.partials.on_due = cutter.request
        return Volume(core, cutter, Folder(core))

    def _sweep_maps(self) -> None:
        """Maps of views that a crash left behind, and bases that were replaced."""
        for name in self._maps.names():
            if name != self._state.base_map:
                self._maps.remove(name)


def _newest_epoch(columns: Columns) -> int:
    return int(columns.rows["epoch"].max()) if len(columns.rows) else 0


def _point_of(h: Horizon) -> Point:
    """The point that the image holds."""
    root = (h.root_low, h.root_high)
    return Point(h.point, 0, h.position, h.write, h.time_ns, 0, 0, root, h.chain, 0, h.address, 0)


class LiveSource:
    """The live volume as something to read: the live map, with the partial buffer beside it."""

    core: Core
    partials: Partials
    reader: Reader

    def __init__(self, live: LiveMap) -> None:
        self._live = live
        self.lookup = live.lookup
        self.settle = live.settle

    @property
    def generation(self) -> int:
        """Counts folds and new bases."""
        return self.core.generation

    def base_of(self, block: int) -> tuple[int, int]:
        """What the live map says of a block whose first fragment has just been written."""
        words, digests = self._live.lookup(np.array([block], np.uint64))
        return int(words[0]), int(digests[0])

    def note_partial(self, touched: list[tuple[int, int]]) -> None:
        """These blocks' newest versions lie in the partial buffer, since these transfers."""
        blocks = np.array([block for block, _ in touched], np.uint64)
        words = np.array([PARTIAL << 62 | address for _, address in touched], np.uint64)
        self._live.put(blocks, words, np.zeros(len(blocks), np.uint64))

    def partial(self, block: int) -> bytes | bytearray | None:
        """The content of a block in the partial buffer."""
        partial = self.partials.blocks.get(block)
        return None if partial is None else partial.data

    async def merge_partial(self, block: int) -> None:
        """Read the base of a block in the partial buffer, if that is still to be done."""
        partial = self.partials.blocks.get(block)
        if partial is not None and partial.data is None:
            base = await self.reader.read_version(block, partial.base_word, partial.base_digest)
            partial.merge(base)


class Sealer:
    """Footers of sealed segments, written by a thread."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def seal(self, segment: Segment, appender: Appender) -> None:
        """The appender leaves this segment."""
        core = self._core
        stated = (core.commit.durable, core.manifest.number)
        task = asyncio.create_task(
            self._write(
                segment,
                appender.columns,
                appender.next_block,
                (appender.chain_before, appender.chain),
                stated,
            )
        )
        core.footers.add(task)
        task.add_done_callback(core.footers.discard)

    async def _write(
        self,
        segment: Segment,
        columns: ColumnsBuilder,
        end_block: int,
        chains: tuple[bytes, bytes],
        stated: tuple[int, int],
    ) -> None:
        core = self._core
        try:
            await core.host.work.call(
                write_footer, segment, core.volume_id, columns, end_block, chains, stated
            )
        except OSError as error:
            core.events.tell(f"the footer of segment file {segment.index} was not written: {error.strerror}")


class Durables:
    """What moves when the durable position moves."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def moved(self, position: int) -> None:
        """From now on every header states it."""
        self._core.recorder.stated.durable = position


__all__ = ["open_volume"]
