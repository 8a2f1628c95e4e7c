"""Facts: transfers that change no block. They travel to every mirror in the log's order.

Body: H kind, then
    1 EPOCH              Q number, 16s reign id
    2 SNAPSHOT           Q write, Q point, Q time, name in UTF-8
    3 DROP_SNAPSHOT      name in UTF-8
   16 CLOCK_STEP         Q label time that it would have been, Q label time from here on
   32 MEMBER             a copy of the volume, or what has changed of it: ``member_record.py``
   33 MEMBER_GONE        name in UTF-8
   34 RESYNC_POINT       a point at which a member stands, or that it has passed: ``resync_point.py``
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from enum import IntEnum

from revolume.log.format.transfer import Kind
from revolume.log.write.appender import Draft
from revolume.volume.metadata.manifest_state import Member, PinnedSnapshot
from revolume.volume.metadata.member_record import pack_membership, unpack_membership
from revolume.volume.metadata.resync_point import ResyncPoint, pack_resync_point, unpack_resync_point

KIND = struct.Struct("<H")
EPOCH = struct.Struct("<Q16s")
SNAPSHOT = struct.Struct("<QQQ")
CLOCK_STEP = struct.Struct("<QQ")


class Fact(IntEnum):
    """What a fact says."""

    EPOCH = 1
    SNAPSHOT = 2
    DROP_SNAPSHOT = 3
    CLOCK_STEP = 16
    MEMBER = 32
    MEMBER_GONE = 33
    RESYNC_POINT = 34


def epoch_begun(number: int, reign: bytes) -> bytes:
    """A volume was opened as primary."""
    return KIND.pack(Fact.EPOCH) + EPOCH.pack(number, reign)


def snapshot_taken(pin: PinnedSnapshot) -> bytes:
    """A moment was named and pinned."""
    return KIND.pack(Fact.SNAPSHOT) + SNAPSHOT.pack(pin.write, pin.point, pin.time_ns) + pin.name.encode()


def snapshot_dropped(name: str) -> bytes:
    """A snapshot was given up."""
    return KIND.pack(Fact.DROP_SNAPSHOT) + name.encode()


def clock_stepped(from_ns: int, to_ns: int) -> bytes:
    """The wall clock was found to have gone elsewhere: labels go on from there."""
    return KIND.pack(Fact.CLOCK_STEP) + CLOCK_STEP.pack(from_ns, to_ns)


def member_stated(member: Member) -> bytes:
    """A copy of the volume is, from here on, what this says."""
    return KIND.pack(Fact.MEMBER) + pack_membership(member)


def member_gone(name: str) -> bytes:
    """A copy was given up."""
    return KIND.pack(Fact.MEMBER_GONE) + name.encode()


def resync_point_stated(resync: ResyncPoint) -> bytes:
    """From here on a member is known to stand at this point, or at a later one."""
    return KIND.pack(Fact.RESYNC_POINT) + pack_resync_point(resync)


def draft(body: bytes) -> Draft:
    """The transfer that carries a fact."""
    return Draft(Kind.FACT, array("Q"), array("Q"), array("Q"), [], 0, 0, 0, body=body)


@dataclass(frozen=True, slots=True)
class EpochBegun:
    """A volume was opened as primary."""

    number: int
    reign: bytes


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """A moment was named and pinned."""

    pin: PinnedSnapshot


@dataclass(frozen=True, slots=True)
class SnapshotDropped:
    """A snapshot was given up."""

    name: str


@dataclass(frozen=True, slots=True)
class ClockStepped:
    """Labels go on at ``to_ns`` where they would have been ``from_ns``."""

    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class MemberStated:
    """A copy of the volume is what this says."""

    member: Member


@dataclass(frozen=True, slots=True)
class MemberGone:
    """A copy was given up."""

    name: str


@dataclass(frozen=True, slots=True)
class ResyncPointStated:
    """A member stands at this point, or at a later one."""

    resync: ResyncPoint


Stated = (
    EpochBegun | SnapshotTaken | SnapshotDropped | ClockStepped | MemberStated | MemberGone | ResyncPointStated
)


def unpack(body: bytes) -> Stated | None:
    """What a fact says; None if it can't be told."""
    try:
        (kind,) = KIND.unpack_from(body)
        rest = body[KIND.size :]
        match kind:
            case Fact.EPOCH:
                return EpochBegun(*EPOCH.unpack(rest))
            case Fact.SNAPSHOT:
                name = rest[SNAPSHOT.size :].decode()
                return SnapshotTaken(PinnedSnapshot(name, *SNAPSHOT.unpack_from(rest)))
            case Fact.DROP_SNAPSHOT:
                return SnapshotDropped(rest.decode())
            case Fact.CLOCK_STEP:
                return ClockStepped(*CLOCK_STEP.unpack(rest))
            case Fact.MEMBER:
                return MemberStated(unpack_membership(rest))
            case Fact.MEMBER_GONE:
                return MemberGone(rest.decode())
            case Fact.RESYNC_POINT:
                return ResyncPointStated(unpack_resync_point(rest))
    except (struct.error, ValueError):
        pass
    return None
