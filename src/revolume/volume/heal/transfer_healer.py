"""Damaged headers and fragments of the log, healed: what a sibling has of the same transfer, written again in
place.

Both ends of a link store the same transfers. Everything of one that is no whole block, its shared header (a
point's record is one) and its fragments, is asked for by its position, looked at against everything that is known
of it here (``stated_transfer.py``), and rewritten while the segment's file is kept from any other use. The node
header is this node's own, and made anew where it is damaged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

from revolume.blocks.digest import fragment_digest
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.log.format.columns import Columns
from revolume.log.format.segment import Segment, segment_name
from revolume.log.format.transfer import Kind, Transfer
from revolume.log.read.scan import SegmentReader
from revolume.volume.heal.log_places import columns_of, opened_columns
from revolume.volume.heal.rewriting import Outcome, Rewrite, rewrite
from revolume.volume.heal.siblings import Sibling, Siblings
from revolume.volume.heal.stated_transfer import StatedTransfer, stated_transfer
from revolume.volume.heal.transfer_slice import SLICE_MAX, WantedSlice
from revolume.volume.open_log import OpenLog
from revolume.volume.state.events import EventKind, Events
from revolume.volume.uncancelled_tasks import UncancelledTasks

POINT_DAMAGED: Final = "point-damaged"
"""The code of Damaged where a point's record can't be read."""
Result = TypeVar("Result")


class TransferHealer:
    """Of one open volume, primary or mirror."""

    def __init__(
        self,
        *,
        log_directory: Directory,
        log: OpenLog,
        siblings: Siblings,
        events: Events,
        tasks: UncancelledTasks,
    ) -> None:
        self._directory = log_directory
        self._log = log
        self._siblings = siblings
        self._events = events
        self._tasks = tasks

    async def heal(self, addresses: Iterable[Address]) -> set[Address]:
        """Put headers and fragments right of the transfers that begin at these addresses, durably; those where
        that was not possible. One whose segment has been recycled needs nothing."""
        ordered = sorted(set(addresses))  # each that is right again says what the next one continues
        return {each for each in ordered if not await self._tasks.finish(self._healed(each))}

    async def with_records(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """What ``work`` returns, which reads records of points. If one of them is damaged and can be healed, it is
        done once more."""
        try:
            return await work()
        except Damaged as error:
            if error.code != POINT_DAMAGED or not await self._heal_records():
                raise
        return await work()

    async def _heal_records(self) -> bool:
        """Look at every record in the log; whether one that was damaged is right again."""
        await self._log.footers.written()
        begin, end = self._log.manifest.state.horizon.address, self._log.appender.address
        segments = self._log.segments_between(begin, end)
        damaged = await self._log.work.call(self._damaged_records, segments, opened_columns(self._log), begin)
        return len(await self.heal(damaged)) < len(damaged)

    def _damaged_records(
        self, segments: Sequence[Segment], opened: Columns | None, begin: Address
    ) -> list[Address]:
        found: list[Address] = []
        for segment in segments:
            columns = columns_of(self._log, segment, opened)
            rows = columns.rows if columns is not None else None
            reader = SegmentReader(segment, self._log.volume_id, BLOCK)
            blocks = [] if rows is None else rows["block"][rows["kind"] == Kind.POINT].tolist()
            found += [
                Address(segment.base + block)
                for block in blocks
                if segment.base + block >= begin and not _readable(reader, block)
            ]
        return found

    async def _healed(self, address: Address) -> bool:
        await self._log.footers.written()
        segment = self._log.pool.by_use.get(address // self._log.pool.segment_blocks)
        if segment is None:
            return True
        opened, chain = opened_columns(self._log), self._log.appender.chain
        stated = await self._log.work.call(self._stated, segment, opened, chain, address)
        return stated is not None and await self._header(stated) and await self._fragments(stated)

    def _stated(
        self, segment: Segment, opened: Columns | None, chain: bytes, address: Address
    ) -> StatedTransfer | None:
        """``chain``: of the last transfer in ``opened``."""
        columns, end = columns_of(self._log, segment, opened), self._log.manifest.state.ends.get(segment.use)
        if columns is None:
            return None
        at_end = chain if columns is opened else b""
        try:
            return stated_transfer(segment, columns, address, self._log.volume_id, end, at_end)
        except OSError:
            return None

    async def _header(self, stated: StatedTransfer) -> bool:
        if await self._log.work.call(_transfer, stated) is not None:
            return True
        for sibling in self._siblings.attached():
            shared_header = await _asked(sibling, stated, 0, stated.header_bytes)
            transfer = stated.transfer_in(shared_header)
            if transfer is not None:
                content = await self._log.work.call(_header_with, stated, transfer, shared_header)
                return await self._written(stated, stated.block * BLOCK, content, f"header, from {sibling.name}")
        return False

    async def _fragments(self, stated: StatedTransfer) -> bool:
        transfer = await self._log.work.call(_transfer, stated)
        if transfer is None:
            return False
        if await self._log.work.call(_fragments_hold, stated, transfer):
            return True
        for sibling in self._siblings.attached():
            content = await _asked(sibling, stated, transfer.shared_header_size, stated.fragment_bytes)
            if stated.fragments_hold(transfer, content):
                padded = content + bytes(-len(content) % BLOCK)
                what = f"fragments, from {sibling.name}"
                return await self._written(stated, stated.fragments_offset, padded, what)
        return False

    async def _written(self, stated: StatedTransfer, offset: int, content: bytes, what: str) -> bool:
        """``content``, whole blocks, is in the segment's file, and the disk gives it back."""
        blocks = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
        rewrites = [Rewrite(offset + at * BLOCK, each, fragment_digest(each)) for at, each in enumerate(blocks)]
        try:
            with self._log.repairs.repairing(Address(stated.segment.base + stated.block)) as segment:
                name = segment_name(segment.index)
                became = await rewrite(self._log.work, self._directory, name, rewrites)
        except KeyError:
            return True  # recycled: nothing needs it any more
        except OSError as error:
            told = f"log/{segment_name(stated.segment.index)}: a transfer can't be rewritten: {error.strerror}"
            self._events.tell(told, EventKind.TROUBLE)
            return False
        if Outcome.WRONG in became:
            return False
        self._events.tell(f"healed position {stated.position} of the log: {what}", EventKind.HEALED)
        return True


def _readable(reader: SegmentReader, block: int) -> bool:
    try:
        return reader.at(block) is not None
    except OSError:
        return False


async def _asked(sibling: Sibling, stated: StatedTransfer, offset: int, size: int) -> bytes:
    """As many of the bytes as the sibling gives of a transfer's shared header and fragments."""
    content = b""
    while len(content) < size:
        wanted = WantedSlice(stated.position, offset + len(content), min(SLICE_MAX, size - len(content)))
        piece = await sibling.ask_slice(wanted)
        content += piece or b""
        if piece is None or len(piece) < wanted.size:
            break
    return content


def _transfer(stated: StatedTransfer) -> Transfer | None:
    """The one on the disk, if its header is whole."""
    try:
        found = stated.found()
    except OSError:
        return None
    return None if found is None else found.transfer


def _header_with(stated: StatedTransfer, transfer: Transfer, shared_header: bytes) -> bytes:
    return stated.header_with(transfer, shared_header)


def _fragments_hold(stated: StatedTransfer, transfer: Transfer) -> bool:
    try:
        return stated.fragments_hold(transfer, stated.fragments())
    except OSError:
        return False
