"""The end of a mirror's log for a primary that opens, and what a mirror says to who only asks. No I/O.

FETCH (a primary -> its mirror): send the end of your log. EXAMINE (anybody -> a mirror): say what you have;
nobody is cut off for it, and WELCOME is the answer
     0  H  highest protocol version     2 B zero     3 B lowest protocol version     4 4x zero
     8 16s volume id     24 16s node id of who asks     40 END of its log
   104 16s node id of the copy that is expected to answer, zero: any
TAIL       0 END of the mirror's log     64 H protocol version chosen     66 B 1: it holds less than it had
           acknowledged as durable     67 5x zero     72 16s node id of the mirror
           its frame carries the session id
TAIL_END   0 Q position     8 16s chain checksum: of the last transfer sent
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from revolume.blocks.numbers import Position
from revolume.mirror.wire.codec import pack_end, strict, unpack_end
from revolume.mirror.wire.version import OURS, Versions, check_chosen, common, stated
from revolume.volume.open.log_identity import End

FETCH: Final = struct.Struct("<HBB4x16s16s64s16s")
TAIL: Final = struct.Struct("<64sHB5x16s")
TAIL_END: Final = struct.Struct("<Q16s")

assert (FETCH.size, TAIL.size) == (120, 88)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Who asks for a longer tail (or, in EXAMINE, what there is), and where its own log ends. ``expected``: the
    node id of the copy that shall answer, zero for any."""

    volume: bytes
    node: bytes
    end: End
    expected: bytes = bytes(16)
    versions: Versions = OURS


@dataclass(frozen=True, slots=True)
class TailBegin:
    """Where the mirror's log ends, and which copy it is. ``short``: it holds less than it had acknowledged as
    durable, so that its end proves nothing."""

    end: End
    node: bytes
    short: bool = False
    version: int = OURS.highest


def pack_fetch(fetch: Fetch) -> bytes:
    """FETCH, EXAMINE."""
    versions = fetch.versions
    return FETCH.pack(
        versions.highest, 0, versions.lowest, fetch.volume, fetch.node, pack_end(fetch.end), fetch.expected
    )


@strict
def unpack_fetch(body: memoryview) -> Fetch:
    """FETCH, EXAMINE. RevolumeError: there is no version that both ends speak."""
    versions = stated(body)
    common(versions)
    _, _, _, volume, node, end, expected = FETCH.unpack(body)
    return Fetch(volume, node, unpack_end(end), expected, versions)


def pack_tail(begin: TailBegin) -> bytes:
    """TAIL."""
    return TAIL.pack(pack_end(begin.end), begin.version, begin.short, begin.node)


@strict
def unpack_tail(body: memoryview) -> TailBegin:
    """TAIL. RevolumeError: this node does not speak the version that was chosen."""
    end, version, short, node = TAIL.unpack(body)
    check_chosen(version)
    return TailBegin(unpack_end(end), node, bool(short), version)


def pack_tail_end(position: Position, chain: bytes) -> bytes:
    """TAIL_END: position and chain checksum of the last transfer."""
    return TAIL_END.pack(position, chain)


@strict
def unpack_tail_end(body: memoryview) -> tuple[Position, bytes]:
    """TAIL_END: position and chain checksum of the last transfer."""
    position, chain = TAIL_END.unpack(body)
    return position, chain
