"""The end of a volume's log, made ready to be appended to.

After a clean stop it is where the stop said, or the volume is damaged. After an unclean one
``log/read/recovery.py`` says what stands; everything beyond the durable position is copied into a fresh segment
and synced, since the page cache may show what the disk does not have, and the manifest learns of it before
anything is served.
"""

from __future__ import annotations

from dataclasses import dataclass

from revolume.blocks.numbers import Address, Position
from revolume.errors import Damaged
from revolume.log.format.columns import Columns
from revolume.log.format.segment import Segment, write_footer
from revolume.log.read.recovery import (
    Recovered,
    RecoveredSegment,
    TailCopy,
    last_of,
    recover,
    recover_what_stands,
    stated_durable,
    stated_edit,
)
from revolume.log.read.scan import FoundTransfer, chain_behind
from revolume.log.write.appender import LogEnd
from revolume.volume.metadata.manifest import judge_end
from revolume.volume.metadata.manifest_edits import EditKind, pack_mark, pack_pairs
from revolume.volume.metadata.manifest_state import Mark, Role
from revolume.volume.open.open_context import Ground
from revolume.volume.state.events import EventKind

LOST_RECORDS = (
    "the log is damaged behind position {}, although it was closed at {}: every write is there, but the newest "
    "consistency points can't be named"
)


@dataclass(slots=True)
class Tail:
    """The log's end, ready to be appended to."""

    pieces: list[RecoveredSegment]
    end: LogEnd
    segment: Segment | None
    next_block: int

    @property
    def columns(self) -> list[tuple[Segment, Columns]]:
        """The log's segments with their columns."""
        return [(piece.segment, piece.columns) for piece in self.pieces]


class Ending:
    """Makes the log's end ready, once for each opening."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def ready(self) -> Tail:
        """The log's end."""
        state = self._ground.state
        assert state.jumped is None, "a jump is finished before the log is looked at"
        self._ground.pool.adopt(state.uses, state.next_use)
        blocks = self._ground.pool.segment_blocks
        edit = await self._ground.host.work.call(stated_edit, self._ground.log, blocks, state.volume)
        judge_end(self._ground.manifest.number, edit)
        if state.clean is None:
            return await self._unclean_tail()
        try:
            tail = await self._ground.host.work.call(self._clean_tail, state.clean)
        except Damaged:
            found = await self._ground.host.work.call(self._without_records, state.clean)
            if found is None:
                raise
            told = LOST_RECORDS.format(found.end.position, state.clean.position)
            self._ground.events.tell(told, EventKind.DAMAGE)
            return await self._rewritten(found)
        await self._ground.accept()
        return tail

    def _horizon_end(self) -> LogEnd:
        h = self._ground.state.horizon
        return LogEnd(h.position, h.chain, h.write, h.time_ns)

    def _log_segments(self) -> list[Segment]:
        first = self._ground.state.horizon.address // self._ground.pool.segment_blocks
        return [s for s in self._ground.pool.segments() if s.use >= first]

    def _clean_tail(self, mark: Mark) -> Tail:
        """The log as a clean stop left it; Damaged if it isn't."""
        self._ground.header.durable = mark.position  # footers that are written now say so
        last_use = mark.address // self._ground.pool.segment_blocks
        used = [s for s in self._log_segments() if s.use <= last_use]
        for segment in self._ground.pool.segments():
            if segment.use > last_use:
                self._ground.pool.ready.append(segment)
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
        goes_on = last is not None and last.segment.use == last_use and last_use not in self._ground.state.ends
        if goes_on and last is not None and last.builder is not None:
            return Tail(found.pieces, end, last.segment, last.end_block)
        return Tail(found.pieces, end, None, 0)

    def _without_records(self, mark: Mark) -> Recovered | None:
        """The log up to damage at its very end, if all that lies behind it is of history: records of points, and
        facts that the manifest has too. It opens as it would after an unclean stop. None: a write is missing, or a
        mirror may have what is missing."""
        state = self._ground.state
        if state.role != Role.PRIMARY or state.mirrors:
            return None
        segments = self._log_segments()
        stated, _ = stated_durable(segments, state.volume, state.cut)
        durable = max(stated, state.horizon.position)
        found = recover_what_stands(
            segments, state.volume, self._horizon_end(), state.horizon.address, durable, state.ends
        )
        if found.end.write != mark.write:
            return None
        self._ground.header.durable = min(durable, found.end.position)  # of what stands
        return found

    def _recover(self, segments: list[Segment], durable: Position) -> Recovered:
        state = self._ground.state
        return recover(segments, state.volume, self._horizon_end(), state.horizon.address, durable, state.ends)

    async def _unclean_tail(self) -> Tail:
        """The log after a crash: torn end cut, unsynced tail copied to a fresh segment and synced."""
        host, state = self._ground.host, self._ground.state
        segments = self._log_segments()
        durable, edit = await host.work.call(stated_durable, segments, state.volume, state.cut)
        judge_end(self._ground.manifest.number, edit)
        durable = max(durable, state.durable.position, state.horizon.position)
        found = await host.work.call(self._recover, segments, durable)
        # What is written now may be all that a second crash leaves: none of it speaks of half a write.
        self._ground.header.durable = found.complete_position(state.horizon.position)
        if state.epochs and (found.pieces or found.tail):  # a new one has nothing to recover
            self._ground.events.tell(
                f"recovered after an unclean stop: {len(found.tail)} transfers beyond position {durable} kept"
            )
        return await self._rewritten(found)

    async def _rewritten(self, found: Recovered) -> Tail:
        ground, pool = self._ground, self._ground.pool
        ends: dict[int, int] = {}
        if found.pieces:  # its footer may be this recovery's second attempt: headers go on behind it all the same
            ends[found.pieces[-1].segment.use] = found.pieces[-1].end_block
        await ground.accept()
        kept = {piece.segment.use for piece in found.pieces}
        spare = pool.give_back([s.use for s in found.unused if s.use not in kept])
        pool.free.extend(spare)  # nothing of the log lies in them: the copies may go there
        copies = await self._copy_tail(found.tail)
        stale = [s for s in pool.segments() if s.use not in kept and s not in [c.segment for c in copies]]
        first = ground.state.horizon.address // pool.segment_blocks
        freed = pool.give_back([s.use for s in stale if s.use >= first])
        freed |= pool.give_back([s.use for s in stale if s.use < first])
        unused = {index: 0 for index in spare if index in pool.free}  # the manifest must not call them used
        pool.ready.clear()
        pieces = found.pieces + [
            RecoveredSegment(c.segment, c.builder.freeze(), c.next_block, c.chain_before, c.builder)
            for c in copies
        ]
        await ground.host.work.call_sync(self._seal, pieces[:-1] if copies else pieces)
        end = found.end
        mark = Mark(end.position, Address(0), end.chain, end.write, end.time_ns)
        await ground.manifest.record(
            (EditKind.ENDS, pack_pairs(ends)), (EditKind.USES, pack_pairs(freed | unused)),
            (EditKind.DURABLE, pack_mark(mark)),
        )  # fmt: skip
        pool.release(freed)
        last = copies[-1] if copies else None
        return Tail(pieces, end, last.segment if last else None, last.next_block if last else 0)

    def _seal(self, pieces: list[RecoveredSegment]) -> None:
        """Footers for pieces that lack one, or whose footer speaks of more than was kept."""
        volume, stated = self._ground.state.volume, (self._ground.header.durable, self._ground.header.edit)
        for piece in pieces:
            if piece.builder is None:
                continue
            chains = (piece.chain_before, chain_behind(last_of(piece, volume).transfer))
            write_footer(piece.segment, volume, piece.builder, piece.end_block, chains, stated)
            piece.segment.file.datasync()

    async def _copy_tail(self, tail: list[FoundTransfer]) -> list[TailCopy]:
        stated = (self._ground.header.durable, self._ground.header.edit, self._ground.header.horizon)
        copies: list[TailCopy] = []
        for found in tail:
            if not copies or not copies[-1].fits(found):
                if copies:
                    await self._ground.host.work.call_sync(copies[-1].segment.file.datasync)
                try:
                    segment = await self._ground.with_room(lambda: self._ground.pool.fresh(written=False))
                except OSError as error:
                    raise self._ground.no_room("the end of its log", error) from error
                copies.append(TailCopy(segment, self._ground.state.volume, stated))
            await self._ground.host.work.call(copies[-1].add, found)
        if copies:
            await self._ground.host.work.call_sync(copies[-1].segment.file.datasync)
        return copies
