"""Who wants to mirror what, and what the target has: HELLO and WELCOME. No I/O.

HELLO (source -> target)
     0  H  highest protocol version     2 B mode, 1 sync, 2 async     3 B lowest protocol version (``version.py``)
     4  I  blocks of a segment     8 I blocks of the volume's largest transfer, at least 16
    12  H  bytes of the volume's name     14 H bytes of the mirror's name
    16 16s volume id     32 16s node id     48 16s reign id of this opening     64 Q its epoch
    72  Q  size of the volume     80 Q oldest position: what lies at or before it is gone from the log
    88     END
   152 16s node id of the copy that this mirror is, zero if it is not known
   168  Q  durable position that this copy has acknowledged     176 B 1: a copy has joined as this mirror
   177  B  what is preferred, 0 either, 1 the log, 2 fewer bytes     178 H points, at most 64
   180  B  1: the copy may take back what it wrote alone     181 3x zero
   184     the volume's name, the mirror's name, UTF-8
           points x (Q number, Q position, 16s chain checksum): since which the source knows what has changed

WELCOME (target -> source); its frame carries the session id that holds from here on. It also answers EXAMINE
     0  H  protocol version chosen     2 B state, 0 empty, 1 base going on, 2 whole
     3  B  1: the identity at 168 is known     4 I blocks of a segment
     8  Q  highest epoch known     16 16s its reign id     32 16s node id
    48 16s volume id, zero if empty     64 END     128 Q durable position
   136  Q  agreed point     144 Q its position     152 Q volume root, low     160 Q high
   168  Q  epoch     176 16s reign id     192 16s chain checksum: of the transfer in the target's log at the
              position where the source's log ends
   208  Q  base: number of its point     216 Q its position     224 16s its chain checksum
   240  Q  base: first block that is not there
   248  Q  budget of its log, bytes     256 Q bytes that its log takes now     264 Q bytes free on its disk,
              of a whole copy for a difference: what is partly here of one counts as free
   272  H  bytes of the address at which it says that other nodes reach it
   274  B  1: the point at 208 is that of a difference that is partly here, 2: it was made a mirror by order, and
              takes back what it wrote alone, 4: it is seeded, 8: it differs from its source     275 x zero
   276  I  points, at most 64
   280     the address, UTF-8
           points x (Q number, Q position, 16s chain checksum): at which it stood, the agreed one first, then those
           of the HELLO that it has too
Before version 4 it ends at 272; before version 5 there are no points, and what is at 274 is zero.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position
from revolume.mirror.wire.codec import (
    NO_PIN,
    NOBODY,
    PIN,
    PINS_MAX,
    Identity,
    Pin,
    exact,
    pack_end,
    pack_pins,
    strict,
    unpack_end,
    unpack_pins,
)
from revolume.mirror.wire.version import (
    COMPARISON,
    DIFFERENCES,
    MEMBERS,
    OURS,
    SOURCE,
    Versions,
    check_chosen,
    common,
    stated,
)
from revolume.volume.metadata import layout
from revolume.volume.metadata.resync_order import Prefer
from revolume.volume.open.log_identity import End

HELLO: Final = struct.Struct("<HBBIIHH16s16s16sQQQ64s16sQBBHB3x")
WELCOME: Final = struct.Struct("<HBBIQ16s16s16s64sQQQQQQ16s16sQQ16sQQQQ")
_VERSION: Final = struct.Struct("<H")
_TAIL: Final = struct.Struct("<HBxI")
_STAGED, _YIELDS, _SEEDED, _DIFFERS = 1, 2, 4, 8
ADDRESS_BYTES_MAX: Final = 1024
WELCOME_BYTES_MAX: Final = WELCOME.size + _TAIL.size + ADDRESS_BYTES_MAX + PINS_MAX * PIN.size
LEAST_LARGEST: Final = layout.MIN_SEGMENT_BYTES // BLOCK
HELLO_BYTES_MAX: Final = 4096 + PINS_MAX * PIN.size

assert (HELLO.size, WELCOME.size) == (184, 272)


class TargetState(IntEnum):
    """What a target has of the volume."""

    EMPTY = 0
    BASE = 1
    WHOLE = 2


@dataclass(frozen=True, slots=True)
class Hello:
    """Who wants to mirror what, and where its log stands. ``segment_blocks``: of the source's log;
    ``largest_blocks``: of the volume's largest transfer, which is the same at every node."""

    mode: int
    segment_blocks: int
    largest_blocks: int
    volume: bytes
    node: bytes
    reign: bytes
    epoch: int
    size: int
    oldest: Position
    end: End
    name: str
    mirror: str
    expected: bytes = bytes(16)
    """Node id of the copy that the mirror is; zero: it is not known."""
    acknowledged: Position = Position(0)
    """A position that this copy has acknowledged as durable."""
    joined: bool = False
    """A copy has joined as this mirror: no other takes its place without an order."""
    prefer: Prefer = Prefer.EITHER
    """Where the log and a difference would both do."""
    points: tuple[Pin, ...] = ()
    """Since which the source knows what has changed, newest first."""
    take_back: bool = False
    """By order: the copy may take back what it wrote alone."""
    versions: Versions = SOURCE
    """Of the protocol, that the source speaks."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a target has room for, in bytes: its log's budget, what its log takes now, what is free on its disk;
    in a whole copy: for a difference, the part of it that is there included."""

    budget: int
    log: int
    free: int


NO_ROOM: Final = Room(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the target has."""

    state: TargetState
    segment_blocks: int
    known_epoch: int
    known_reign: bytes
    node: bytes
    volume: bytes
    end: End
    durable: Position
    agreed_point: int
    agreed_position: Position
    agreed_root: tuple[int, int]
    at_source_end: Identity | None
    base: Pin | None
    """The point of what is partly here: a base in state BASE, a difference in state WHOLE."""
    next_block: int
    room: Room = NO_ROOM
    advertised: str = ""
    """The address at which it says that other nodes reach it; "" for the one where the source does."""
    points: tuple[Pin, ...] = ()
    """At which it stood: the agreed one first, then those of the HELLO that it has too."""
    yields: bool = False
    """It was made a mirror by order: it takes back what it wrote alone."""
    version: int = OURS.highest
    """Of the protocol, that the target has chosen."""
    seeded: bool = False
    """Its image has something already, or will, with which the base is compared."""
    differs: bool = False
    """It was found to differ from its source, in blocks that nobody knows."""


def pack_hello(hello: Hello) -> bytes:
    """HELLO."""
    name, mirror, versions = hello.name.encode(), hello.mirror.encode(), hello.versions
    return (
        HELLO.pack(
            versions.highest, hello.mode, versions.lowest, hello.segment_blocks, hello.largest_blocks, len(name),
            len(mirror), hello.volume, hello.node, hello.reign, hello.epoch, hello.size, hello.oldest,
            pack_end(hello.end), hello.expected, hello.acknowledged, hello.joined, hello.prefer,
            len(hello.points), hello.take_back,
        )
        + name
        + mirror
        + pack_pins(hello.points)
    )  # fmt: skip


@strict
def unpack_hello(body: memoryview) -> Hello:
    """HELLO. RevolumeError: there is no version that both ends speak."""
    versions = stated(body)
    common(versions)
    (
        _, mode, _, segment_blocks, largest, name_size, mirror_size,
        volume, node, reign, epoch, size, oldest, end, expected, acknowledged, joined, prefer, points, orders,
    ) = HELLO.unpack_from(body)  # fmt: skip
    names_end = HELLO.size + name_size + mirror_size
    exact(body, names_end + points * PIN.size)
    if mode not in (1, 2):
        raise ValueError(f"{mode} is not a mode")
    if largest < LEAST_LARGEST:
        raise ValueError(f"transfers of {largest} blocks at most")
    names = bytes(body[HELLO.size : names_end])
    name, mirror = names[:name_size].decode(), names[name_size:].decode()
    if not (name + mirror).isprintable() or not name or not mirror:
        raise ValueError("a name that nobody can read")
    return Hello(
        mode=mode,
        segment_blocks=segment_blocks,
        largest_blocks=largest,
        volume=volume,
        node=node,
        reign=reign,
        epoch=epoch,
        size=size,
        oldest=oldest,
        end=unpack_end(end),
        name=name,
        mirror=mirror,
        expected=expected,
        acknowledged=acknowledged,
        joined=bool(joined & 1),
        prefer=Prefer(prefer),
        points=unpack_pins(body[names_end:]),
        take_back=bool(orders & 1),
        versions=versions,
    )


def pack_welcome(w: Welcome) -> bytes:
    """WELCOME."""
    found = w.at_source_end or NOBODY
    base = w.base or NO_PIN
    body = WELCOME.pack(
        w.version, w.state, w.at_source_end is not None, w.segment_blocks, w.known_epoch, w.known_reign,
        w.node, w.volume, pack_end(w.end), w.durable, w.agreed_point, w.agreed_position, *w.agreed_root,
        found.epoch, found.reign, found.chain, base.number, base.position, base.chain, w.next_block,
        w.room.budget, w.room.log, w.room.free,
    )  # fmt: skip
    if w.version < MEMBERS:
        return body
    advertised = w.advertised.encode()
    if w.version < DIFFERENCES:
        return body + _TAIL.pack(len(advertised), 0, 0) + advertised
    flags = _STAGED * (w.state == TargetState.WHOLE and w.base is not None) | _YIELDS * w.yields
    if w.version >= COMPARISON:
        flags |= _SEEDED * w.seeded | _DIFFERS * w.differs
    return body + _TAIL.pack(len(advertised), flags, len(w.points)) + advertised + pack_pins(w.points)


@strict
def unpack_welcome(body: memoryview) -> Welcome:
    """WELCOME. RevolumeError: this node does not speak the version that was chosen."""
    (version,) = _VERSION.unpack_from(body)
    check_chosen(version)
    advertised, flags, points = _unpack_tail(body[WELCOME.size :], version)
    (
        _, state, known, segment_blocks, epoch, reign, node, volume, end, durable, point, position, low, high,
        found_epoch, found_reign, found_chain, base, base_position, base_chain, next_block, *room,
    ) = WELCOME.unpack_from(body)  # fmt: skip
    return Welcome(
        state=TargetState(state),
        segment_blocks=segment_blocks,
        known_epoch=epoch,
        known_reign=reign,
        node=node,
        volume=volume,
        end=unpack_end(end),
        durable=durable,
        agreed_point=point,
        agreed_position=position,
        agreed_root=(low, high),
        at_source_end=Identity(found_epoch, found_reign, found_chain) if known & 1 else None,
        base=Pin(base, base_position, base_chain) if state == TargetState.BASE or flags & _STAGED else None,
        next_block=next_block,
        room=Room(*room),
        advertised=advertised,
        points=points,
        yields=bool(flags & _YIELDS),
        seeded=version >= COMPARISON and bool(flags & _SEEDED),
        differs=version >= COMPARISON and bool(flags & _DIFFERS),
        version=version,
    )


def _unpack_tail(body: memoryview, version: int) -> tuple[str, int, tuple[Pin, ...]]:
    """The address, the flags, the points."""
    if version < MEMBERS:
        exact(body, 0)
        return "", 0, ()
    size, flags, count = _TAIL.unpack_from(body)
    behind = _TAIL.size + size
    exact(body, behind + count * PIN.size)
    advertised = bytes(body[_TAIL.size : behind]).decode()
    if not advertised.isprintable():
        raise ValueError("an address that nobody can read")
    return advertised, flags, unpack_pins(body[behind:])
