"""Storing transfers that another node made: checked, as they are, behind what is here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from revolume.blocks.numbers import Address, Position
from revolume.errors import Refused
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.format.transfer import Kind
from revolume.log.read.scan import payload_agrees
from revolume.log.write.appender import fits_segment
from revolume.log.write.operations import WouldBlock
from revolume.volume.clocks.label_clock import SourceClock
from revolume.volume.open.log_identity import End
from revolume.volume.open_log import OpenLog
from revolume.volume.space.admission import Admission
from revolume.volume.space.copy_on_write import Cover

SHIPPED = frozenset({Kind.WRITES, Kind.POINT, Kind.RESTORE, Kind.FACT})


def bad_transfer(what: str) -> Refused:
    """What a source sent can't be taken."""
    return Refused("bad-transfer", f"What the source sent is refused: {what}.", "Look at the source's log.")


class ReceivedLog:
    """The log of a copy. More than ``unsynced_bytes_max`` starts a sync. ``on_record`` is told kind, position and
    address of each part of a point and each fact that is stored."""

    def __init__(
        self,
        log: OpenLog,
        *,
        admission: Admission,
        cover: Cover,
        source_clock: SourceClock,
        unsynced_bytes_max: int,
        on_record: Callable[[Kind, Position, Address], None] = lambda kind, position, address: None,
    ) -> None:
        self._log = log
        self._admission = admission
        self._cover = cover
        self._source_clock = source_clock
        self._unsynced_bytes_max = unsynced_bytes_max
        self._on_record = on_record

    @property
    def received(self) -> Position:
        """Complete, and in the log file."""
        return self._log.appender.complete_position

    @property
    def end(self) -> End:
        """The last transfer here: what the source goes on behind. (It may be part of a write; ``received`` is what
        is complete.)"""
        at = self._log.appender
        return End(
            position=at.position,
            epoch=at.epoch,
            reign=at.reign,
            chain=at.chain,
            write=at.write,
            time_ns=at.time_ns,
        )

    def keep(self, carried: Sequence[ReceivedTransfer]) -> Position:
        """Store transfers that follow on each other and on what is here; the position that is received now.
        WouldBlock: wait for ``room``, nothing was stored. Refused: they are not what they should be."""
        commit, writer, appender = self._log.commit, self._log.writer, self._log.appender
        if commit.failure is not None:
            raise commit.failure
        self._judge(carried)
        need = self.need(carried)
        if not writer.holds(need, 0) or not self._cover.covers(need, True):
            raise WouldBlock
        addresses = writer.append_received(carried)
        self._source_clock.heard(appender.time_ns)
        for each, payload in zip(carried, addresses, strict=True):
            transfer = each.transfer
            if transfer.kind in (Kind.POINT, Kind.FACT):
                self._on_record(transfer.kind, transfer.position, Address(payload - transfer.header_blocks))
        if commit.unsynced_bytes > self._unsynced_bytes_max:
            commit.start()
        return appender.complete_position

    @staticmethod
    def need(carried: Sequence[ReceivedTransfer]) -> int:
        """Blocks that these take at most, headers and the footers' growth counted."""
        return 2 + sum(c.transfer.total_blocks + c.transfer.shared_header_size // 4096 + 1 for c in carried)

    async def room(self, blocks: int) -> None:
        """Wait until so many blocks would be admitted. NoSpace: they won't be."""
        await self._admission.wait(blocks, True)

    def _judge(self, carried: Sequence[ReceivedTransfer]) -> None:
        """Refused unless every payload is what its header says, every transfer fits a segment here and is no
        larger than one of this volume may be, and epochs only grow."""
        largest = self._log.manifest.state.largest_transfer
        epoch = self._log.appender.epoch, self._log.appender.reign
        for each in carried:
            transfer = each.transfer
            if (transfer.epoch, transfer.reign) != epoch and transfer.epoch <= epoch[0]:
                raise bad_transfer(f"the transfer at position {transfer.position} is of an epoch that is over")
            epoch = transfer.epoch, transfer.reign
            if transfer.volume != self._log.volume_id or transfer.kind not in SHIPPED:
                raise bad_transfer(f"the transfer at position {transfer.position} is not one of this volume's log")
            if not fits_segment(transfer, self._log.pool.segment_blocks):
                raise Refused(
                    "segments-too-small",
                    f"The transfer at position {transfer.position} takes {transfer.total_blocks} blocks, more "
                    "than a segment here.",
                    "Make the mirror anew with a larger --segment-size.",
                )
            if not fits_segment(transfer, largest):
                raise bad_transfer(
                    f"the transfer at position {transfer.position} takes {transfer.total_blocks} blocks, and the "
                    f"volume's largest {largest}"
                )
            view = memoryview(each.payload)
            if len(view) != transfer.payload_bytes or not payload_agrees(transfer, view):
                where = f"the transfer at position {transfer.position}"
                raise bad_transfer(f"the content of {where} fails its digests")
