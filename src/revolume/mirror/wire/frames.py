"""The frame: what everything on a mirror link travels in. Bytes in, bytes out; no I/O.

    0  I  bytes of the body
    4  B  type
    5  B  flags of the type
    6  H  zero
    8  Q  session id, drawn by the target; 0 in HELLO, FETCH, EXAMINE, EXAMINED, MOMENTS_ASK, MOMENTS,
          RECALL, and in a REFUSED that answers them
   16     body

A *control* body ends with the XXH3-64 of everything before it in the frame, the header included. So does the
control part of BASE and BLOCKS, behind which their payload follows; what protects that are the digests in the
control part. LOG frames carry no checksum of their own: the transfer's chain checksum, made anew by the
receiver, covers more than this frame.

A header is believed as little as its peer: the type must be one that is expected now, and its length within
what that type may have, before a byte is allocated for it. All numbers are little endian.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from xxhash import xxh3_64_intdigest

from revolume.errors import RevolumeError
from revolume.host.disk import Buffer

FRAME: Final = struct.Struct("<IBBHQ")
FRAME_SIZE: Final = 16
CHECK: Final = struct.Struct("<Q")
CHECK_SIZE: Final = 8

assert FRAME.size == FRAME_SIZE


class Type(IntEnum):
    """What a frame is. The source sends those marked >, the target those marked <, = both."""

    HELLO = 1  # > who wants to mirror what
    WELCOME = 2  # < what the target has
    REFUSED = 3  # = why not; the connection ends
    BEGIN = 4  # > how it is brought up to date
    PING = 5  # = nothing else to say
    LOG = 16  # > one transfer
    LOG_WIDE = 17  # > one transfer with more than 65,535 entries or digests
    EPOCH = 18  # > the next transfers are of this epoch
    SYNC = 19  # > make this position durable
    POSITIONS = 20  # < how far the target is
    LEASE = 21  # > for how long the target may take itself for in sync
    LEASE_ASK = 22  # < may it still?
    HANDOVER = 24  # > be the primary from now on
    HANDED_OVER = 25  # < it will be
    REQUEST_BLOCKS = 32  # < blocks that the target asks for whole
    BLOCKS = 33  # > those blocks
    BASE = 48  # > blocks of the base
    BASE_AT = 49  # < the base is stored up to here
    BASE_END = 50  # > that was all of it
    BASE_DONE = 51  # < and it is right
    MOMENT = 52  # > blocks of a pinned moment before the base
    MOMENT_AT = 53  # < so many of those frames are stored
    SUSPECT = 104  # > which moments of the target are suspect
    DIVERGED = 106  # < its volume root was not the source's
    SUSPECT_AT = 105  # < those marks are durable
    FETCH = 64  # a primary that opens asks for a longer tail of its log
    TAIL = 65  # it follows, as EPOCH and LOG
    TAIL_END = 66  # that was all of it
    EXAMINE = 67  # anybody asks a node what it is and has
    EXAMINED = 68  # the answer; a WELCOME where one of the two speaks no version from 4 on
    HEAL_ASK = 80  # = blocks that are damaged at the end that asks
    HEALED = 81  # = those of them that the other end has
    COMPARE_OPEN = 88  # > hold this point open, to be compared
    COMPARE_OPENED = 89  # < it is open, or why not
    COMPARE_ASK = 90  # > sums or digests of some of its blocks
    COMPARED = 91  # < those
    FIXUP = 92  # > blocks that put the copy right
    FIXUP_AT = 93  # > the point to which they belong
    FIXED = 94  # < they are part of it
    COMPARE_END = 95  # > nothing more is asked of that point
    MOMENTS_ASK = 112  # anybody asks a node which moments it holds
    MOMENTS = 113  # those
    RECALL = 114  # anybody asks a node to hold a moment open
    RECALLED = 115  # it is open; COMPARE_ASK and RECALL_BLOCKS may follow
    RECALL_BLOCKS = 116  # blocks of that moment that who asked lacks
    RECALLED_BLOCKS = 117  # those blocks


class ProtocolError(RevolumeError):
    """A peer that does not keep to the protocol. Nothing that it sent in this frame was used."""

    def __init__(self, cause: str) -> None:
        super().__init__("link-broken", cause)


def control(kind: int, session: int, body: Buffer = b"", *, payload: int = 0, flags: int = 0) -> bytes:
    """A frame up to its checksum; ``payload`` bytes follow."""
    header = FRAME.pack(len(body) + CHECK_SIZE + payload, kind, flags, 0, session)
    sealed = header + body
    return sealed + CHECK.pack(xxh3_64_intdigest(sealed))


def body_of(frame: memoryview, size: int | None = None) -> memoryview:
    """The control body of a whole frame, without its checksum, which holds. ``size``: of the body, where a
    payload follows; otherwise it fills the frame."""
    end = len(frame) - CHECK_SIZE if size is None else FRAME_SIZE + size
    if not FRAME_SIZE <= end <= len(frame) - CHECK_SIZE:
        raise ProtocolError("A frame is shorter than what it says that it holds.")
    if xxh3_64_intdigest(frame[:end]) != CHECK.unpack_from(frame, end)[0]:
        raise ProtocolError("A frame's checksum does not hold.")
    return frame[FRAME_SIZE:end]


def name_of(kind: int) -> str:
    """For sentences."""
    return Type(kind).name if kind in _TYPES else f"of type {kind}"


_TYPES: Final = frozenset(Type)
