"""What a node is and has, for whoever asks: EXAMINED, the answer to EXAMINE. No I/O.

EXAMINED (any node that listens -> who asks); nobody is cut off for it, and the connection is closed behind it
     0  H  protocol version chosen     2 B standing, 0 empty, 1 primary, 2 secondary
     3  B  1: the identity at 128 is known, 2: it is a whole copy     4 I blocks of a segment
     8 16s node id     24 16s volume id, zero if empty     40 END of its log     104 Q durable position
   112  Q  agreed point (a primary's: its last one)     120 Q its position
   128  Q  epoch     136 16s reign id     152 16s chain checksum: of the transfer in its log at the position where
              the asker's log ends
   168  I  openings     172 I points     176 I members     180 H bytes of the name     182 H bytes of why it can't
              be promoted     184 H bytes of the address at which it says that other nodes reach it     186 6x zero
   192     openings x (Q number, 16s reign id, Q position, Q write): all that it knows, oldest first
           points x (Q number, Q position, Q write, Q epoch, Q digest, Q root low, Q root high): its newest, newest
              first
           members x (``volume/metadata/member_record.py``)
           name, why it can't be promoted, address, UTF-8
A node that speaks an earlier version than 4 of the protocol answers with a WELCOME instead.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from revolume.blocks.numbers import Position, WriteNumber
from revolume.mirror.wire.begin_messages import EPOCH_ENTRY, EpochEntry
from revolume.mirror.wire.codec import NOBODY, Identity, pack_end, strict, unpack_end
from revolume.mirror.wire.greeting_messages import TargetState, Welcome
from revolume.mirror.wire.version import OURS, check_chosen
from revolume.volume.metadata.manifest_state import Member
from revolume.volume.metadata.member_record import membership_at, pack_membership
from revolume.volume.open.log_identity import End

EXAMINED: Final = struct.Struct("<HBBI16s16s64sQQQQ16s16sIIIHHH6x")
POINT_ENTRY: Final = struct.Struct("<7Q")
POINTS_MAX: Final = 16
"""So many points are told at most."""
TEXT_BYTES_MAX: Final = 1024
EXAMINED_BYTES_MAX: Final = 4 << 20
_FOUND, _WHOLE = 1, 2

assert (EXAMINED.size, POINT_ENTRY.size) == (192, 56)


class Standing(IntEnum):
    """What a node is for the volume."""

    EMPTY = 0
    PRIMARY = 1
    SECONDARY = 2


@dataclass(frozen=True, slots=True)
class PointEntry:
    """A sealed point. The same number and digest in the same opening is the same state of the volume."""

    number: int
    position: Position
    write: WriteNumber
    epoch: int
    digest: int
    root: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Examined:
    """``whole``: it has all of the volume. ``why_not``: why it can't be promoted, "" if it can. ``address``: where
    it says that other nodes reach it, "" if it says nothing."""

    standing: Standing
    whole: bool
    node: bytes
    volume: bytes
    end: End
    durable: Position
    agreed_point: int
    agreed_position: Position
    at_asked_end: Identity | None
    segment_blocks: int
    name: str = ""
    why_not: str = ""
    address: str = ""
    epochs: tuple[EpochEntry, ...] = ()
    points: tuple[PointEntry, ...] = ()
    members: tuple[Member, ...] = ()
    version: int = OURS.highest


def of_welcome(welcome: Welcome) -> Examined:
    """What a node that speaks an earlier version than 4 has said of itself."""
    empty = welcome.state == TargetState.EMPTY
    return Examined(
        standing=Standing.EMPTY if empty else Standing.SECONDARY,
        whole=welcome.state == TargetState.WHOLE,
        node=welcome.node,
        volume=welcome.volume,
        end=welcome.end,
        durable=welcome.durable,
        agreed_point=welcome.agreed_point,
        agreed_position=welcome.agreed_position,
        at_asked_end=welcome.at_source_end,
        segment_blocks=welcome.segment_blocks,
        why_not="" if welcome.state == TargetState.WHOLE else "It is not a whole copy.",
        address=welcome.advertised,
        version=welcome.version,
    )


def as_welcome(e: Examined) -> Welcome:
    """For an asker that speaks an earlier version than 4."""
    whole = TargetState.WHOLE if e.whole else TargetState.EMPTY
    newest = e.epochs[-1] if e.epochs else EpochEntry(0, bytes(16), Position(0), WriteNumber(0))
    return Welcome(
        state=whole,
        segment_blocks=e.segment_blocks,
        known_epoch=max(newest.number, e.end.epoch),
        known_reign=newest.reign if newest.number >= e.end.epoch else e.end.reign,
        node=e.node,
        volume=e.volume if e.whole else bytes(16),
        end=e.end,
        durable=e.durable,
        agreed_point=e.agreed_point,
        agreed_position=e.agreed_position,
        agreed_root=e.points[0].root if e.points else (0, 0),
        at_source_end=e.at_asked_end,
        base=None,
        next_block=0,
        version=e.version,
    )


def pack_examined(e: Examined) -> bytes:
    """EXAMINED; texts that are too long are cut."""
    found = e.at_asked_end or NOBODY
    texts = [text.encode()[:TEXT_BYTES_MAX] for text in (e.name, e.why_not, e.address)]
    flags = _FOUND * (e.at_asked_end is not None) | _WHOLE * e.whole
    head = EXAMINED.pack(
        e.version, e.standing, flags, e.segment_blocks, e.node, e.volume, pack_end(e.end), e.durable,
        e.agreed_point, e.agreed_position, found.epoch, found.reign, found.chain, len(e.epochs), len(e.points),
        len(e.members), *map(len, texts),
    )  # fmt: skip
    epochs = (EPOCH_ENTRY.pack(o.number, o.reign, o.position, o.write) for o in e.epochs)
    points = (POINT_ENTRY.pack(p.number, p.position, p.write, p.epoch, p.digest, *p.root) for p in e.points)
    return head + b"".join((*epochs, *points, *map(pack_membership, e.members), *texts))


@strict
def unpack_examined(body: memoryview) -> Examined:
    """EXAMINED. RevolumeError: this node does not speak the version that was chosen."""
    (
        version, standing, flags, segment_blocks, node, volume, end, durable, point, position, epoch, reign, chain,
        epochs, points, members, *sizes,
    ) = EXAMINED.unpack_from(body)  # fmt: skip
    check_chosen(version)
    data, at = bytes(body), EXAMINED.size
    behind = at + epochs * EPOCH_ENTRY.size
    points_end = behind + points * POINT_ENTRY.size
    if points_end > len(data):
        raise ValueError(f"{len(data)} bytes instead of {points_end}")
    known, text_at = _members(data, points_end, members)
    name, why_not, address = _texts(data, text_at, sizes)
    return Examined(
        standing=Standing(standing),
        whole=bool(flags & _WHOLE),
        node=node,
        volume=volume,
        end=unpack_end(end),
        durable=durable,
        agreed_point=point,
        agreed_position=position,
        at_asked_end=Identity(epoch, reign, chain) if flags & _FOUND else None,
        segment_blocks=segment_blocks,
        name=name,
        why_not=why_not,
        address=address,
        epochs=tuple(EpochEntry(*row) for row in EPOCH_ENTRY.iter_unpack(data[at:behind])),
        points=tuple(_point(row) for row in POINT_ENTRY.iter_unpack(data[behind:points_end])),
        members=known,
        version=version,
    )


def _point(row: tuple[int, ...]) -> PointEntry:
    number, position, write, epoch, digest, low, high = row
    return PointEntry(number, Position(position), WriteNumber(write), epoch, digest, (low, high))


def _members(data: bytes, at: int, count: int) -> tuple[tuple[Member, ...], int]:
    """The members that begin there, and where they end."""
    found = list[Member]()
    while len(found) < count:
        member, at = membership_at(data, at)
        found.append(member)
    return tuple(found), at


def _texts(data: bytes, at: int, sizes: list[int]) -> list[str]:
    """Texts of these sizes that fill the rest."""
    found = list[str]()
    for size in sizes:
        found.append(data[at : at + size].decode(errors="replace"))
        at += size
    if at != len(data) or not "".join(found).isprintable():
        raise ValueError("texts that nobody can read")
    return found
