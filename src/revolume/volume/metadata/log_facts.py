"""Facts: transfers that change no block. They travel to every mirror in the log's order.

Body: H kind, then
    1 EPOCH              Q number, 16s reign id
    2 SNAPSHOT           Q write, Q point, Q time, name in UTF-8
    3 DROP_SNAPSHOT      name in UTF-8
   16 CLOCK_STEP         Q label time that it would have been, Q label time from here on
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from enum import IntEnum

from revolume.log.appender import Draft
from revolume.log.transfer import Kind
from revolume.volume.manifest import PinnedSnapshot

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


def unpack(body: bytes) -> EpochBegun | SnapshotTaken | SnapshotDropped | ClockStepped | None:
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
    except (struct.error, UnicodeDecodeError):
        pass
    return None
