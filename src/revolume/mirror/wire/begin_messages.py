"""How the target is brought up to date: BEGIN. No I/O.

BEGIN (source -> target)
     0  H  rule (``catch_up_plan.Rule``)
     2  B  1: the identity at 8 is known, 2: the point at 64 is, 4: the base's start follows, 8: the sizes at 48
           are known, 16: the common point is, 32: since version 7, a dirty region log tells what changed since
     3 5x  zero
     8  Q  epoch     16 16s reign id     32 16s chain checksum: of the transfer in the source's log at the
              position where the target's log ends
    48  Q  bytes of the base     56 Q bytes of log that can't be folded, because of a snapshot
    64  Q  pinned point F: number     72 Q position     80 16s chain checksum
    96     since version 5, which puts what follows 64 bytes farther behind: the common point, at which the target
           stands, and since which the source knows what has changed: Q number, Q position, 16s chain checksum;
           Q position up to which the log belongs to the cut that was made when the link was lost;
           Q bytes of log that the target lacks, Q bytes of the difference; Q zero
    96     start, only of a base or a difference: END of the log at F (the target's log continues it)
   160  Q  number of F     168 Q write of F     176 Q time of F     184 Q size of the volume at F
   192  Q  root, low     200 Q high     208 I epochs     212 I names
   216  Q  position as of which names and members are stated: what the log up to there says of them is in them
   224  I  members     228 I resync points, since version 6; zero before
   232     epochs x (Q number, 16s reign id, Q position, Q write): all that the source knows, until now
           names x (Q write, Q point, Q time, H 1: the copy will hold it, 2: it will once its moment has come,
           which travels before the base; H bytes of the name, the name in UTF-8)
           members x (``volume/metadata/member_record.py``): the copies of the volume
           resync points x (H bytes, ``volume/metadata/resync_point.py``): of members, those that the copy gets
Before version 4 the epochs begin at 224, and there are no members.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from revolume.blocks.numbers import Position, WriteNumber
from revolume.mirror.wire.codec import NO_PIN, NOBODY, Identity, Pin, exact, pack_end, strict, unpack_end
from revolume.mirror.wire.version import COMPARISON, DIFFERENCES, MEMBERS, OURS, RESYNC_POINTS
from revolume.volume.metadata.manifest_state import Member
from revolume.volume.metadata.member_record import membership_at, pack_membership
from revolume.volume.metadata.resync_point import ResyncPoint, pack_resync_point, unpack_resync_point
from revolume.volume.open.log_identity import End

BEGIN: Final = struct.Struct("<HB5xQ16s16sQQQQ16s")
BASE_START: Final = struct.Struct("<64sQQQQQQIIQ")
MEMBER_COUNT: Final = struct.Struct("<II")
POINT_BYTES: Final = struct.Struct("<H")
EPOCH_ENTRY: Final = struct.Struct("<Q16sQQ")
SNAPSHOT_ENTRY: Final = struct.Struct("<QQQHH")

RESYNC: Final = struct.Struct("<QQ16sQQQ8x")

assert RESYNC.size == 64
assert (BEGIN.size, BASE_START.size) == (96, 128)


@dataclass(frozen=True, slots=True)
class BaseNeed:
    """What a base will take at its target, in bytes: the blocks themselves, and the log that a snapshot keeps."""

    base: int
    kept_log: int


@dataclass(frozen=True, slots=True)
class Costs:
    """What it takes to bring a copy up to date, in bytes: by the log that it lacks, and by what has changed since
    the common point (with the log up to the cut, where there is one)."""

    log: int
    difference: int


NO_COSTS: Final = Costs(0, 0)


@dataclass(frozen=True, slots=True)
class Common:
    """A ``point`` that both ends have, at which the target stands. ``cut``: the position up to which the log
    belongs to the cut that was made when the link was lost; 0: the target has that, or there is none. ``regions``:
    which blocks have changed since, only a dirty region log tells."""

    point: Pin
    cut: Position = Position(0)
    costs: Costs = NO_COSTS
    regions: bool = False


@dataclass(frozen=True, slots=True)
class EpochEntry:
    """One opening of the volume as primary, as a new mirror is told of it."""

    number: int
    reign: bytes
    position: Position
    write: WriteNumber


@dataclass(frozen=True, slots=True)
class NamedSnapshot:
    """A snapshot, as a new mirror is told of it. ``held``: the mirror's history reaches back to it. ``follows``:
    it does not, but the snapshot's moment travels by itself, before the base."""

    name: str
    write: WriteNumber
    point: int
    time_ns: int
    held: bool
    follows: bool = False


@dataclass(frozen=True, slots=True)
class BaseStart:
    """What a new mirror begins from: the point F of its base, ``end`` the log's transfer at F's position.
    ``names``: of snapshots, ``members``: the copies of the volume, with all that the log up to ``names_position``
    says of them. ``resync_points``: of members; the copy's history reaches back to them, or their moments travel
    before the base."""

    end: End
    number: int
    write: WriteNumber
    time_ns: int
    size: int
    root: tuple[int, int]
    epochs: tuple[EpochEntry, ...]
    names: tuple[NamedSnapshot, ...] = ()
    names_position: Position = Position(0)
    members: tuple[Member, ...] = ()
    resync_points: tuple[ResyncPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Begin:
    """How the target is brought up to date, with all that the source knew when it decided."""

    rule: int
    at_target_end: Identity | None
    pin: Pin | None
    start: BaseStart | None
    need: BaseNeed | None = None
    common: Common | None = None


_FOUND, _PINNED, _STARTS, _SIZED, _COMMON, _REGIONS = 1, 2, 4, 8, 16, 32
_NO_NEED: Final = BaseNeed(0, 0)


def pack_begin(begin: Begin, version: int = OURS.highest) -> bytes:
    """BEGIN, in a version of the protocol."""
    flags = (
        _FOUND * (begin.at_target_end is not None)
        | _PINNED * (begin.pin is not None)
        | _STARTS * (begin.start is not None)
        | _SIZED * (begin.need is not None)
        | _COMMON * (begin.common is not None)
        | _REGIONS * (version >= COMPARISON and begin.common is not None and begin.common.regions)
    )
    found, pin, need = begin.at_target_end or NOBODY, begin.pin or NO_PIN, begin.need or _NO_NEED
    head = BEGIN.pack(
        begin.rule, flags, found.epoch, found.reign, found.chain, need.base, need.kept_log, pin.number,
        pin.position, pin.chain,
    )  # fmt: skip
    if version >= DIFFERENCES:
        head += _pack_common(begin.common)
    return head if begin.start is None else head + pack_start(begin.start, version)


def _pack_common(common: Common | None) -> bytes:
    if common is None:
        return bytes(RESYNC.size)
    point, costs = common.point, common.costs
    return RESYNC.pack(point.number, point.position, point.chain, common.cut, costs.log, costs.difference)


def pack_start(start: BaseStart, version: int) -> bytes:
    """A base's start, in a version of the protocol; nothing may follow it."""
    head = BASE_START.pack(
        pack_end(start.end), start.number, start.write, start.time_ns, start.size, *start.root,
        len(start.epochs), len(start.names), start.names_position,
    )  # fmt: skip
    epochs = (EPOCH_ENTRY.pack(e.number, e.reign, e.position, e.write) for e in start.epochs)
    names = map(_pack_named, start.names)
    if version < MEMBERS:
        return head + b"".join((*epochs, *names))
    members = map(pack_membership, start.members)
    points = [pack_resync_point(each) for each in start.resync_points] if version >= RESYNC_POINTS else []
    counts = MEMBER_COUNT.pack(len(start.members), len(points))
    sized = (POINT_BYTES.pack(len(point)) + point for point in points)
    return head + counts + b"".join((*epochs, *names, *members, *sized))


def _pack_named(named: NamedSnapshot) -> bytes:
    name = named.name.encode()
    return (
        SNAPSHOT_ENTRY.pack(named.write, named.point, named.time_ns, named.held | named.follows << 1, len(name))
        + name
    )


def unpack_begin(body: memoryview, version: int = OURS.highest) -> Begin:
    """BEGIN, in a version of the protocol."""
    return strict(lambda data: _unpack_begin(data, version))(body)


def _unpack_begin(body: memoryview, version: int) -> Begin:
    rule, flags, epoch, reign, chain, base, kept_log, number, position, pin_chain = BEGIN.unpack_from(body)
    rest, common = body[BEGIN.size :], None
    if version >= DIFFERENCES:
        number_c, position_c, chain_c, cut, log, difference = RESYNC.unpack_from(rest)
        if flags & _COMMON:
            regions = version >= COMPARISON and bool(flags & _REGIONS)
            common = Common(Pin(number_c, position_c, chain_c), cut, Costs(log, difference), regions)
        rest = rest[RESYNC.size :]
    if not flags & _STARTS:
        exact(rest, 0)
    return Begin(
        rule=rule,
        at_target_end=Identity(epoch, reign, chain) if flags & _FOUND else None,
        pin=Pin(number, position, pin_chain) if flags & _PINNED else None,
        start=unpack_start(rest, version) if flags & _STARTS else None,
        need=BaseNeed(base, kept_log) if flags & _SIZED else None,
        common=common,
    )


def unpack_start(body: memoryview, version: int) -> BaseStart:
    """A base's start, which fills ``body``. struct.error, ValueError: it does not."""
    end, number, write, time_ns, size, low, high, count, names, names_position = BASE_START.unpack_from(body)
    begin, member_count, point_count = BASE_START.size, 0, 0
    if version >= MEMBERS:
        member_count, point_count = MEMBER_COUNT.unpack_from(body, begin)
        begin += MEMBER_COUNT.size
    behind = begin + count * EPOCH_ENTRY.size
    if len(body) < behind:
        raise ValueError(f"{len(body)} bytes instead of {behind}")
    epochs = tuple(EpochEntry(*row) for row in EPOCH_ENTRY.iter_unpack(body[begin:behind]))
    named, behind = _unpack_names(body, behind, names)
    rest = bytes(body[behind:])
    members, behind = _unpack_members(rest, member_count)
    points = _unpack_points(rest[behind:], point_count if version >= RESYNC_POINTS else 0)
    return BaseStart(
        end=unpack_end(end),
        number=number,
        write=write,
        time_ns=time_ns,
        size=size,
        root=(low, high),
        epochs=epochs,
        names=named,
        names_position=names_position,
        members=members,
        resync_points=points,
    )


def _unpack_members(data: bytes, count: int) -> tuple[tuple[Member, ...], int]:
    """The members that begin there, and where they end."""
    found, at = list[Member](), 0
    while len(found) < count:
        member, at = membership_at(data, at)
        found.append(member)
    return tuple(found), at


def _unpack_points(data: bytes, count: int) -> tuple[ResyncPoint, ...]:
    """The resync points that fill ``data``."""
    found, at = list[ResyncPoint](), 0
    while len(found) < count:
        (size,) = POINT_BYTES.unpack_from(data, at)
        at += POINT_BYTES.size + size
        found.append(unpack_resync_point(data[at - size : at]))
    if at != len(data):
        raise ValueError(f"{len(data)} bytes instead of {at}")
    return tuple(found)


def _unpack_names(body: memoryview, at: int, count: int) -> tuple[tuple[NamedSnapshot, ...], int]:
    """The names that begin there, and where they end."""
    found = list[NamedSnapshot]()
    while len(found) < count:
        write, point, time_ns, held, size = SNAPSHOT_ENTRY.unpack_from(body, at)
        at += SNAPSHOT_ENTRY.size + size
        name = bytes(body[at - size : at])
        if len(name) != size:
            raise ValueError("a name is cut off")
        found.append(NamedSnapshot(name.decode(), write, point, time_ns, bool(held & 1), bool(held & 2)))
    return tuple(found), at
