"""The parts of an open volume put together, and the live map filled out of base map and log (``replay.py``).

What does not fit in the memory given to the map goes into a base map first (``first_base.py``).
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import NamedTuple

from revolume.blocks.overlay import Overlay, OverlayFull
from revolume.chain.mapfile import MapFile
from revolume.errors import Damaged
from revolume.log.appender import Appender
from revolume.log.columns import Columns
from revolume.log.commit import Commit
from revolume.log.tail import highest_write
from revolume.log.writer import Writer
from revolume.volume.admission import Admission
from revolume.volume.core import Core, LastPoint
from revolume.volume.cover import COPIES, Cover
from revolume.volume.ending import Tail
from revolume.volume.first_base import FirstBase, too_small
from revolume.volume.ground import Ground
from revolume.volume.label_clock import ClockStep, LabelClock, SourceClock
from revolume.volume.live import LiveMap
from revolume.volume.live_source import LiveSource
from revolume.volume.lived import LivedTime, reached_ns
from revolume.volume.manifest import EditKind, Role, State
from revolume.volume.partials import Partials
from revolume.volume.reader import Reader, Store
from revolume.volume.replay import read_steps, replay
from revolume.volume.sums import Sums


class _Times(NamedTuple):
    lived: LivedTime
    labels: LabelClock
    source_clock: SourceClock
    steps: list[ClockStep]


class Loading:
    """See the module's text."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def core(self, tail: Tail) -> Core:
        """An open volume's parts, as of the log's end."""
        try:
            return await self._mapped(tail)
        except OverlayFull:
            cut = await self._first_base(tail)
        try:
            return await self._mapped(tail)
        except OverlayFull:
            pieces = tail.columns
            raise too_small(self._ground.options.map_memory_bytes, pieces, cut) from None

    async def _first_base(self, tail: Tail) -> int:
        """What does not fit in memory goes into a base map, as far as there are points; the base's cut."""
        maker = FirstBase(self._ground.host, self._ground.log, self._ground.maps, tail.columns)
        state = self._ground.state
        base = self._base(state)
        try:
            edit = self._ground.recorder.manifest.number
            name, cut = await self._ground.with_room(lambda: maker.make(state, base, edit, self._agreed(state)))
        except OSError as error:
            raise self._ground.no_room("a map", error) from error
        finally:
            if base is not None:
                base.close()
        if name is not None:
            await self._ground.recorder.record((EditKind.BASE_MAP, name.encode()))
            self._ground.events.tell("the live map did not fit in its memory and was merged into its base")
        return cut

    async def _mapped(self, tail: Tail) -> Core:
        """The live map filled; OverlayFull if it does not fit."""
        with ExitStack() as held:
            core = await self._filled(tail, held)
            self._ground.held.push(held.pop_all())
            return core

    async def _filled(self, tail: Tail, held: ExitStack) -> Core:
        state, options = self._ground.state, self._ground.options
        self._ground.stated.durable = tail.end.position
        seed = int.from_bytes(self._ground.host.entropy.token(8), "little")
        overlay = Overlay(options.map_memory_bytes, seed)
        sums = Sums.open(self._ground.directory, state.volume, state.horizon.pages_generation)
        held.callback(sums.close)
        base = self._base(state)
        if base is not None:
            held.callback(base.close)
        live = LiveMap(overlay, sums, state.horizon.address, base, state.horizon.address)
        known = [e.number for e in state.epochs] + [_newest_epoch(p.columns) for p in tail.pieces]
        number = 1 + max(known, default=0)
        reign = self._ground.host.entropy.token(16)
        host = self._ground.host
        steps = await host.work.call(read_steps, state.volume, tail.columns, state.horizon, self._agreed(state))
        times = self._times(tail, steps)
        appender = Appender(
            state.volume, reign, number, tail.end, self._ground.stated, times.labels.now_ns, times.lived.now_ns
        )
        commit = Commit(host.work, lambda: appender.whole, tail.end.position)
        core = self._assemble(appender, commit, live, sums, times)
        last = await replay(core, tail.columns, state.horizon, self._agreed(state))
        core.last.number, core.last.root = last.number, last.root
        core.last.partial_blocks, core.last.partial_digests = last.partial_blocks, last.partial_digests
        self._resume(core, tail, state)
        return core

    def _agreed(self, state: State) -> int | None:
        """The position of the last record that a mirror has agreed to, if it is opened as one."""
        secondary = state.role == Role.SECONDARY and not self._ground.options.promote
        return state.agreed.position if secondary else None

    def _base(self, state: State) -> MapFile | None:
        """The base map, unless there is none or the horizon has passed it; a broken one is made again."""
        if not state.base_map or not self._ground.maps.exists(state.base_map):
            return None
        try:
            base = MapFile.open(self._ground.maps.open(state.base_map, write=False), state.volume)
        except Damaged as error:
            self._ground.events.tell(f"the map {state.base_map} is damaged and is made anew: {error.cause}")
            return None
        if base.meta.address <= state.horizon.address:
            base.close()
            return None
        return base

    def _times(self, tail: Tail, steps: list[ClockStep]) -> _Times:
        clock, mark, newest_ns = self._ground.host.clock, self._ground.state.clock, tail.end.time_ns
        lived_ns = max(mark.lived_ns, reached_ns(columns for _, columns in tail.columns))
        labels = LabelClock.opened(clock, mark, steps, newest_ns)
        return _Times(LivedTime(clock, lived_ns), labels, SourceClock(clock, newest_ns), steps)

    def _assemble(self, appender: Appender, commit: Commit, live: LiveMap, sums: Sums, times: _Times) -> Core:
        ground = self._ground
        host, state, pool = ground.host, ground.state, ground.pool
        store = Store(pool, ground.image)
        source = LiveSource(live)
        reader = Reader(store, source, host.work)
        partials = Partials(source.base_of, reader.version_now)
        source.partials, source.reader = partials, reader
        writer = Writer(appender, pool, commit, live, partials)
        ground.recorder.on_failure = commit.poison
        cover = Cover(ground.directory, ground.reserve, commit, copies=not ground.log.in_place())
        if cover.copies:
            ground.events.tell(COPIES)
        appender.find_room = ground.reserve.take
        admission = Admission(pool, writer.holds)
        admission.covered = cover.covers
        core = Core(
            host, ground.options, ground.directory, ground.log, ground.maps, state.volume, state.name,
            state.horizon.size, ground.recorder, ground.reserve, pool, appender, commit, live, partials, writer,
            store, reader, sums, [], LastPoint(), ground.events, admission, [(0, state.horizon.size)], cover,
            *times,
        )  # fmt: skip
        source.core = core
        core.unsynced_bytes_max = ground.reserve.unsynced_max(ground.options.unsynced_bytes_max)
        core.base_name = state.base_map if live.base is not None else ""
        writer.partial_word = source.note_partial
        return core

    def _resume(self, core: Core, tail: Tail, state: State) -> None:
        appender = core.appender
        points = [point.write for point in core.points]  # older versions gave them numbers that no write has
        appender.written = max([state.horizon.write, *points, *(highest_write(p.columns) for p in tail.pieces)])
        if state.clean is None:  # footers that a life before this one wrote may be in memory alone
            core.sealed = {piece.segment.use: piece.segment for piece in tail.pieces}
        if state.clean is None and state.role == Role.PRIMARY:
            appender.write = max(appender.write, state.reserved)
        elif state.role == Role.SECONDARY and self._ground.options.promote:
            appender.write = max(appender.write, _newest_stated(core, state))
        if tail.segment is not None:
            builder = tail.pieces[-1].builder
            assert builder is not None
            core.pool.go_on_in(tail.segment)
            appender.segment, appender.next_block, appender.columns = tail.segment, tail.next_block, builder
            appender.chain_before = tail.pieces[-1].chain_before


def _newest_stated(core: Core, state: State) -> int:
    """The newest write number that a mirror's log names anywhere. After an unclean stop a source goes on
    above what it had reserved; until it is written to, only its points and epoch say so: they go on from there."""
    return max([0, *(epoch.write for epoch in state.epochs), *(point.write for point in core.points)])


def _newest_epoch(columns: Columns) -> int:
    return int(columns.rows["epoch"].max()) if len(columns.rows) else 0
