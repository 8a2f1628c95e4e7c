"""What may be referred to: the transfers that one mirror was sent.

A reference names a transfer in which a block travelled earlier, so it means something only to a mirror that was
sent that transfer. The log travels in order and without gaps: what a mirror was sent is everything up to one
position, which each mirror's ``LogSender`` keeps. A point's record leaves for it only if all transfers that it
names lie at or below that position.

(The record of the point at which a mirror's log begins names transfers that are older than that log: their blocks
travelled with the base, and the mirror compares the record with the base instead of resolving it.)
"""

from __future__ import annotations

from revolume.blocks.numbers import Position
from revolume.chain.point import named_positions
from revolume.errors import RevolumeError
from revolume.log.format.transfer import SHARED_HEADER_SIZE, Kind
from revolume.mirror.counters import COLUMNS

_POINT = int(Kind.POINT)


def check_references(shared_header: bytes, sent: Position) -> None:
    """Before a transfer goes to a mirror that was sent everything up to position ``sent``: RevolumeError if it is
    a point's record that refers to something else."""
    if shared_header[6] != _POINT:
        return
    entries, digests = COLUMNS.unpack_from(shared_header)
    positions = named_positions(memoryview(shared_header)[SHARED_HEADER_SIZE + 16 * entries + 8 * digests :])
    if len(positions) and int(positions.max()) > sent:
        raise RevolumeError(
            "reference-not-sent",
            f"A point refers to the transfer at position {int(positions.max())}, and this mirror was sent the "
            f"log up to position {sent}.",
            "Run 'revolume check' on the stopped volume.",
        )


__all__ = ["check_references"]
