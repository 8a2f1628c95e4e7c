"""A transfer as it travels: the LOG frame. No I/O.

What both ends know is not sent: volume, epoch and reign id, the position (one more), the previous chain checksum,
magic, format, sizes, padding. The receiver puts the shared header together again and makes its chain checksum
anew: equal to the one stated, and it is this log's next transfer; different, and it is not, whatever the reason.

LOG: 16 bytes of frame header (``frames.py``), then
     0  B  kind     1 B flags     2 H entries     4 H digests     6 H zero
     8  I  whole blocks of the payload     12 I fragment bytes of the payload     16 I bytes of the body
    20  Q  write number     28 Q time, ns     36 16s chain checksum
    52     entries x Q offset; entries x Q length, the entry's kind in the top byte; digests x Q; body
           payload: blocks x 4096, then the fragments, without padding
LOG_WIDE, when there are more than 65,535 entries or digests
     0  B  kind     1 B flags     2 H zero     4 I entries     8 I digests     12 I blocks     16 I fragment bytes
    20  I  bytes of the body     24 Q write number     32 Q time, ns     40 16s chain checksum     56 as above

One 4 KiB write alone in its transfer is 4,096 + 92 bytes, and 28 more at the next consistency point, for its
reference: 1.03 times what the client wrote.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.format.transfer import SHARED_HEADER_SIZE, Flag, Kind, Transfer, pack_shared_header
from revolume.mirror.wire.frames import FRAME, FRAME_SIZE, ProtocolError, Type
from revolume.volume.open.log_identity import End

COMPACT: Final = struct.Struct("<BBHHHIIIQQ16s")
WIDE: Final = struct.Struct("<BBHIIIIIQQ16s")
OF_PROPER: Final = struct.Struct("<6xBB4xIIIII48xQQ24x16s")
"""Of a shared header: kind, flags, blocks, fragment bytes, entries, digests, body bytes, write, time, chain."""
EPOCH_FIELDS: Final = slice(48, 72)
"""Where a shared header names its epoch: reign id and number."""
COMPACT_SIZE: Final = 52
NARROW_MAX: Final = 0xFFFF

assert COMPACT.size == COMPACT_SIZE
assert WIDE.size == 56
assert OF_PROPER.size == SHARED_HEADER_SIZE

_KINDS: Final = {int(kind): kind for kind in Kind}
_FLAGS: Final = tuple(Flag(bits) for bits in range(4))
_LOG: Final = int(Type.LOG)
_LOG_WIDE: Final = int(Type.LOG_WIDE)


def pack_log(session: int, shared_header: bytes, payload: int) -> bytes:
    """The frame of a transfer, up to its payload of so many bytes."""
    kind, flags, blocks, fragments, entries, digests, body, write, time_ns, chain = OF_PROPER.unpack_from(
        shared_header
    )
    columns = shared_header[SHARED_HEADER_SIZE:]
    if entries <= NARROW_MAX and digests <= NARROW_MAX:
        size = COMPACT_SIZE + len(columns) + payload
        compact = COMPACT.pack(kind, flags, entries, digests, 0, blocks, fragments, body, write, time_ns, chain)
        return FRAME.pack(size, _LOG, 0, 0, session) + compact + columns
    size = WIDE.size + len(columns) + payload
    wide = WIDE.pack(kind, flags, 0, entries, digests, blocks, fragments, body, write, time_ns, chain)
    return FRAME.pack(size, _LOG_WIDE, 0, 0, session) + wide + columns


class LogUnpacker:
    """What both ends know of the log: the next transfer continues it."""

    __slots__ = ("_identity", "chain", "position")

    def __init__(self, volume: bytes, end: End) -> None:
        self._identity = (volume, end.reign, end.epoch)
        self.position = end.position
        self.chain = end.chain

    def begin_epoch(self, epoch: int, reign: bytes) -> None:
        """EPOCH: what follows is of another opening; their numbers only grow."""
        volume, _, before = self._identity
        if epoch <= before:
            raise ProtocolError(f"Epoch {epoch} cannot follow epoch {before}.")
        self._identity = (volume, reign, epoch)

    def unpack(self, frame: memoryview, wide: bool) -> ReceivedTransfer:
        """The transfer in a whole frame; its payload is a view of it."""
        if len(frame) < FRAME_SIZE + (WIDE.size if wide else COMPACT_SIZE):
            raise ProtocolError("A transfer is shorter than its own description.")
        if wide:
            head = WIDE.unpack_from(frame, FRAME_SIZE)
            kind, flags, _, entries, digests, blocks, fragments, body, write, time_ns, stated = head
            first = FRAME_SIZE + WIDE.size
        else:
            head = COMPACT.unpack_from(frame, FRAME_SIZE)
            kind, flags, entries, digests, _, blocks, fragments, body, write, time_ns, stated = head
            first = FRAME_SIZE + COMPACT_SIZE
        behind = first + 16 * entries + 8 * digests + body
        if behind + blocks * BLOCK + fragments != len(frame):
            raise ProtocolError("A transfer's counts do not add up to its frame.")
        if kind not in _KINDS:
            raise ProtocolError(f"A transfer of kind {kind}, which this version does not know.")
        volume, reign, epoch = self._identity
        position: Position = self.position + 1  # type: ignore[assignment]  # no call in every transfer
        previous = self.chain
        shared_header, chain = pack_shared_header(
            kind, flags, blocks, fragments, self._identity, position, write, time_ns, previous,
            bytes(frame[first:behind]), (entries, digests, body),
        )  # fmt: skip
        if chain != stated:
            raise ProtocolError(f"Position {position} is not of the log that this one continues.")
        columns = np.frombuffer(shared_header, "<u8", 2 * entries + digests, SHARED_HEADER_SIZE)
        transfer = Transfer(
            _KINDS[kind], _FLAGS[flags] if flags < 4 else Flag(flags), blocks, fragments, volume, reign, epoch,
            position, write, time_ns, previous, chain, columns[:entries], columns[entries : 2 * entries],
            columns[2 * entries :], shared_header[len(shared_header) - body :], len(shared_header),
        )  # fmt: skip
        self.position = position
        self.chain = chain
        return ReceivedTransfer(transfer, shared_header, frame[behind:])
