"""The edits of a manifest: how each fact is packed, and what the state is after it.

Bodies are little endian; lists are rows of a fixed size. What each holds says its ``pack_`` function.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum, unique
from functools import reduce
from typing import Any

from revolume.log.format.log_cut import NO_CUT
from revolume.volume.metadata import branch_edits
from revolume.volume.metadata.clock_mark import pack_clock, unpack_clock
from revolume.volume.metadata.clone_edits import clone_edits, cloned
from revolume.volume.metadata.dirty_log import dirtied, pack_dirty, without_dirty
from revolume.volume.metadata.fork import pack_fork, unpack_fork
from revolume.volume.metadata.identity_edit import pack_identity, unpack_identity
from revolume.volume.metadata.jump_edits import pack_jump, unpack_jump
from revolume.volume.metadata.manifest_state import NO_LISTENER, Agreed, Mark, Role, State
from revolume.volume.metadata.member_record import (
    other_members,
    other_points,
    pack_membership,
    unpack_membership,
    with_member,
)
from revolume.volume.metadata.moment_edits import (
    pack_epoch,
    pack_horizon,
    pack_snapshot,
    unnamed,
    unpack_epochs,
    unpack_horizon,
    unpack_snapshot,
)
from revolume.volume.metadata.node_edits import (
    newer_format,
    other_mirrors,
    pack_listener,
    pack_member,
    pack_source,
    unpack_listener,
    unpack_member,
    unpack_mirror,
    unpack_source,
)
from revolume.volume.metadata.rescue_edits import known_lived, pack_rescue, rescued, without_passed, without_rescue
from revolume.volume.metadata.resync_point import pack_resync_point, unpack_resync_point
from revolume.volume.metadata.retention_record import KINDS, retained, retention_edits, without_terms
from revolume.volume.metadata.rung import changed_rungs, pack_rung, rungs_upto
from revolume.volume.metadata.scrub_record import NEVER_SCRUBBED, pack_scrub, unpack_scrub
from revolume.volume.metadata.suspect_edits import suspect_edits, suspected
from revolume.volume.metadata.verified import others_verified, pack_verified, unpack_verified


@unique
class EditKind(IntEnum):
    """The facts."""

    IDENTITY = 1  # name, segment size, size at creation
    EPOCH = 2  # an opening as primary: number, reign id, where it begins
    RESERVE = 3  # write numbers below this may have been given out
    USES = 4  # segment files and their use numbers
    ENDS = 5  # segments closed early: use number, end block
    HORIZON = 6  # the image's moment
    FOLDING = 7  # moments before this write number are retired: a fold to there has begun
    DURABLE = 8  # everything up to this position is on the disk
    CLEAN = 9  # the log ended here in a clean stop; 0 = in use
    SNAPSHOT = 10
    DROP_SNAPSHOT = 11
    BASE_MAP = 12  # the map file that the live map stands on
    STATE_END = 13  # the whole state has been written
    BUDGET = 14  # bytes of log on the disk, as decided at creation or since
    NEXT_USE = 15  # use numbers below this have been given out; every USES counts too
    NODE = 32  # 16 random bytes: this copy among all copies of the volume
    ROLE = 33  # primary or secondary
    AGREED = 34  # the last point that this copy has proved equal to its source's
    BASE = 35  # a mirror being brought up: the image holds the blocks below this; empty = all of it
    MIRROR = 36  # read, not written any more: a mirror whose copy's node is not known
    DROP_MIRROR = 37
    MEMBER = 38  # a mirror of this volume: mode, whether it has joined, what is kept for it, which copy it is
    SOURCE = 39  # a mirror's: the certificate name that its source must show
    OWES = 40  # a mirror's: it had acknowledged the log up to this position, and may hold less
    CLOCK = 48  # what this copy knew of time when it was opened or closed last
    LACKING = 49  # a snapshot of the source that lies before this copy's history began: it is not here
    RESCUE = 51  # what folds have rescued for a pinned moment that the horizon has left
    DROP_RESCUE = 52  # nobody needs what was rescued for that moment
    NAMES = 50  # a mirror's: what the log up to this position says of names is in this state already
    LISTENER = 60  # where this node listens for the nodes of the other copies, and how they reach it
    MEMBERSHIP = 61  # a copy of the volume, as the log states it; MEMBER is what a primary keeps of its mirror
    DROP_MEMBERSHIP = 62
    JUMP = 63  # what has arrived of a jump; flipped: it is this copy's state from then on
    DROP_JUMP = 64  # there is none, or it has become the image
    LINEAGE = 65  # every opening, in place of those known before
    BRANCH = 66  # what this copy wrote alone behind a common point, and has taken back
    DROP_BRANCH = 67
    TOGETHER = 68  # other edits, which stand or fall as one
    FORK = 72  # where this copy was promoted: members that are not seen yet may have gone another way behind it
    DROP_FORK = 73
    YIELDS = 74  # 1: made a mirror by order, it takes back what it wrote alone; empty: a source feeds it by now
    LARGEST = 77  # blocks of the largest transfer that the volume's log may have
    RESYNC_POINT = 75  # a member stands there or later: stated in the log, and at a mirror pinned
    DROP_RESYNC_POINT = 76
    VERIFIED = 80  # when a mirror was last compared with this primary, and how that ended
    CUT = 69  # the log was cut behind a position: what had been stated of it before says nothing of what follows
    HANDED_TO = 70  # a mirror's, which was the primary: the copy to which it has handed over; empty: none
    SUSPECT = 79  # the files of marks: which moments of this copy are suspect, and in which blocks
    SCRUBBED = 78  # how far a scrub of this copy has come, and how the last one ended
    FINDING = 82  # a mirror's: since which point it differs from its source
    DETACHED = 71  # a mirror's: it is no member any more, as the log says at this position
    KEEP_POLICY = 98  # what is kept of the past, and what happens when there is no room for it
    LIVED = 99  # how old points are at which the image stood, which the policy keeps
    GIVEN_UP = 100  # how far the policy's points were given up for want of room
    TERMS = 101  # a snapshot's end by time, and whether it is held
    RESCUE_NUMBERS = 95  # numbers of rescue tables and files below this have been given out
    ELSEWHERE = 96  # other copies know openings up to this number, which are not of this copy's past
    DIRTY = 81  # the dirty region log of a mirror of which nothing else is kept, or that it has none any more
    CLONE = 108  # a clone of this volume, and the point that is pinned for it
    DROP_CLONE = 109
    ORIGIN = 110  # a clone's: the point of another volume over which it lies; empty: it is independent
    RUNG = 105  # a map file of what changed between two points
    DROP_RUNGS = 106


_KINDS = {int(kind): kind for kind in EditKind}
_PAIR = struct.Struct("<QQ")
_MARK = struct.Struct("<QQ16sQQ")
_NUMBER = struct.Struct("<Q")
_AGREED = struct.Struct("<QQQ")


def pack_pairs(pairs: dict[int, int]) -> bytes:
    """USES and ENDS: rows of two numbers."""
    return b"".join(_PAIR.pack(*pair) for pair in pairs.items())


def pack_number(number: int) -> bytes:
    """RESERVE, FOLDING, BUDGET, DETACHED, NEXT_USE, OWES, NAMES, DROP_RESCUE, LARGEST,
    RESCUE_NUMBERS, ELSEWHERE."""
    return _NUMBER.pack(number)


def pack_mark(mark: Mark | None) -> bytes:
    """DURABLE; CLEAN, where an empty body says that the volume is in use."""
    if mark is None:
        return b""
    return _MARK.pack(mark.position, mark.address, mark.chain, mark.write, mark.time_ns)


def pack_agreed(agreed: Agreed) -> bytes:
    """AGREED: point, position, write number."""
    return _AGREED.pack(agreed.point, agreed.position, agreed.write)


def pack_base(blocks: int | None) -> bytes:
    """BASE: blocks that have arrived; empty: all of them."""
    return b"" if blocks is None else _NUMBER.pack(blocks)


_NUMBERS = {
    EditKind.RESERVE: "reserved", EditKind.FOLDING: "folding", EditKind.BUDGET: "budget", EditKind.OWES: "owes",
    EditKind.LARGEST: "largest_blocks", EditKind.DETACHED: "detached", EditKind.NAMES: "names_position",
    EditKind.ELSEWHERE: "elsewhere",
}  # fmt: skip
"""Edits that are one number, which takes the place of the one before."""


def _pairs(body: bytes) -> dict[int, int]:
    return dict(_PAIR.iter_unpack(body))


def _with(state: State, **changes: Any) -> State:
    """As ``dataclasses.replace``, which asks every field by name: an opening applies hundreds of edits."""
    made = object.__new__(State)
    made.__dict__.update(state.__dict__, **changes)
    return made


def apply(state: State, kind: EditKind, body: bytes) -> State:
    """The state after one edit."""
    if kind in _NUMBERS:
        return _with(state, **{_NUMBERS[kind]: _NUMBER.unpack(body)[0]})
    match kind:
        case EditKind.IDENTITY:
            blocks, created, name = unpack_identity(body)
            return _with(state, segment_blocks=blocks, created_ns=created, name=name)
        case EditKind.EPOCH:
            return _with(state, epochs=(*state.epochs, *unpack_epochs(body)))
        case EditKind.USES:
            uses = _pairs(body)
            following = max([state.next_use, *(use + 1 for use in uses.values())])
            return _with(state, uses={**state.uses, **uses}, next_use=following)
        case EditKind.ENDS:
            return _with(state, ends={**state.ends, **_pairs(body)})
        case EditKind.HORIZON:
            horizon = unpack_horizon(body)
            folding = state.folding if state.folding > horizon.write else 0
            made = _with(state, horizon=horizon, folding=folding)
            return _with(made, **without_passed(made))
        case EditKind.DURABLE:
            return _with(state, durable=Mark(*_MARK.unpack(body)))
        case EditKind.CLEAN:
            return _with(state, clean=Mark(*_MARK.unpack(body)) if body else None)
        case EditKind.SNAPSHOT:
            pin = unpack_snapshot(body)
            lacking = unnamed(state.lacking, pin.name.encode())
            return _with(state, snapshots=(*state.snapshots, pin), lacking=lacking)
        case EditKind.DROP_SNAPSHOT:
            snapshots, lacking = unnamed(state.snapshots, body), unnamed(state.lacking, body)
            retention = without_terms(state.retention, body.decode())
            return _with(state, snapshots=snapshots, lacking=lacking, retention=retention)
        case EditKind.BASE_MAP:
            return _with(state, base_map=body.decode())
        case EditKind.NEXT_USE:
            return _with(state, next_use=max(state.next_use, _NUMBER.unpack(body)[0]))
        case _:
            return _apply_mirroring(state, kind, body)


def _apply_mirroring(state: State, kind: EditKind, body: bytes) -> State:
    match kind:
        case EditKind.NODE:
            return _with(state, node=body)
        case EditKind.ROLE:
            return _with(state, role=Role(body[0]))
        case EditKind.AGREED:
            return _with(state, agreed=Agreed(*_AGREED.unpack(body)))
        case EditKind.BASE:
            return _with(state, base=_NUMBER.unpack(body)[0] if body else None)
        case EditKind.SOURCE:
            return _with(state, source_name=unpack_source(body))
        case EditKind.MEMBERSHIP:
            return _with(state, **with_member(state, unpack_membership(body)))
        case EditKind.DROP_MEMBERSHIP:
            gone = body.decode()
            return _with(state, members=other_members(state, gone), resync_points=other_points(state, gone))
        case EditKind.LISTENER:
            return _with(state, listener=unpack_listener(body))
        case EditKind.HANDED_TO:
            return _with(state, handed_to=body.decode())
        case EditKind.CLOCK:
            return _with(state, clock=unpack_clock(body))
        case EditKind.LACKING:
            pin = unpack_snapshot(body)
            return _with(state, lacking=(*unnamed(state.lacking, pin.name.encode()), pin))
        case EditKind.RESCUE:
            rescues, following = rescued(state, body)
            return _with(state, rescues=rescues, next_rescue=following)
        case EditKind.DROP_RESCUE:
            rescues = without_rescue(state, _NUMBER.unpack(body)[0])
            return _with(state, rescues=rescues, retention=known_lived(state, rescues))
        case EditKind.MIRROR | EditKind.MEMBER:
            mirror = unpack_mirror(body) if kind == EditKind.MIRROR else unpack_member(body)
            # One that has not joined is another copy.
            dirty = state.dirty if mirror.joined else without_dirty(state.dirty, mirror.name)
            return _with(state, mirrors=(*other_mirrors(state.mirrors, mirror.name), mirror), dirty=dirty)
        case EditKind.DROP_MIRROR:
            gone = body.decode()
            dirty, verified = without_dirty(state.dirty, gone), others_verified(state.verified, gone)
            return _with(state, mirrors=other_mirrors(state.mirrors, gone), dirty=dirty, verified=verified)
        case _:
            return _apply_resync(state, kind, body)


def _apply_resync(state: State, kind: EditKind, body: bytes) -> State:
    match kind:
        case EditKind.JUMP:
            return _with(state, jump=unpack_jump(body))
        case EditKind.DROP_JUMP:
            return _with(state, jump=None)
        case EditKind.LINEAGE:
            # Another primary has been: what this copy had as one, if it was, is its own no more.
            return _with(state, epochs=unpack_epochs(body), mirrors=(), dirty=(), verified=(), handed_to="")
        case EditKind.BRANCH:
            branches, following = branch_edits.branched(state, body)
            return _with(state, branches=branches, next_rescue=following)
        case EditKind.DROP_BRANCH:
            return _with(state, branches=branch_edits.without_branch(state, body.decode()))
        case EditKind.CUT:
            cut = branch_edits.unpack_cut(body)
            return _with(state, cut=cut, dirty=(), rungs=rungs_upto(state.rungs, cut.position))
        case EditKind.TOGETHER:
            return reduce(_apply_part, branch_edits.unpack_together(body), state)
        case EditKind.YIELDS:
            return _with(state, yields=bool(body))
        case EditKind.FORK:
            return _with(state, forks=(*state.forks, unpack_fork(body)))
        case EditKind.DROP_FORK:
            gone = _NUMBER.unpack(body)[0]
            return _with(state, forks=tuple(fork for fork in state.forks if fork.opening != gone))
        case EditKind.RESYNC_POINT:
            resync = unpack_resync_point(body)
            return _with(state, resync_points=(*other_points(state, resync.name), resync))
        case EditKind.VERIFIED:
            verified = unpack_verified(body)
            return _with(state, verified=(*others_verified(state.verified, verified.name), verified))
        case EditKind.DROP_RESYNC_POINT:
            return _with(state, resync_points=other_points(state, body.decode()))
        case EditKind.SUSPECT | EditKind.FINDING:
            return _with(state, suspect=suspected(state.suspect, kind, body))
        case EditKind.DIRTY:
            return _with(state, dirty=dirtied(state.dirty, body))
        case EditKind.RESCUE_NUMBERS:
            return _with(state, next_rescue=max(state.next_rescue, _NUMBER.unpack(body)[0]))
        case EditKind.SCRUBBED:
            return _with(state, scrub=unpack_scrub(body))
        case EditKind.CLONE | EditKind.DROP_CLONE | EditKind.ORIGIN:
            return _with(state, clones=cloned(state.clones, kind, body))
        case _ if kind in KINDS:
            return _with(state, retention=retained(state.retention, kind, body))
        case EditKind.RUNG | EditKind.DROP_RUNGS:
            return _with(state, rungs=changed_rungs(state.rungs, kind == EditKind.RUNG, body))
        case _:  # STATE_END too: it says nothing
            return state


def _apply_part(state: State, part: tuple[int, bytes]) -> State:
    number, body = part
    if number not in _KINDS:
        raise newer_format(f"The manifest holds an edit of kind {number}, which this version does not know.")
    return apply(state, _KINDS[number], body)


def state_edits(state: State) -> Iterator[tuple[EditKind, bytes]]:
    """The whole state as edits."""
    yield EditKind.IDENTITY, pack_identity(state.segment_blocks, state.created_ns, state.name)
    if state.largest_blocks:
        yield EditKind.LARGEST, pack_number(state.largest_blocks)
    for epoch in state.epochs:
        yield EditKind.EPOCH, pack_epoch(epoch)
    yield EditKind.RESERVE, pack_number(state.reserved)
    yield EditKind.USES, pack_pairs(state.uses)
    yield EditKind.NEXT_USE, pack_number(state.next_use)
    yield EditKind.HORIZON, pack_horizon(state.horizon)
    yield EditKind.ENDS, pack_pairs(state.ends)
    yield EditKind.FOLDING, pack_number(state.folding)
    yield EditKind.DURABLE, pack_mark(state.durable)
    for snapshot in state.snapshots:
        yield EditKind.SNAPSHOT, pack_snapshot(snapshot)
    yield EditKind.BASE_MAP, state.base_map.encode()
    if state.budget:
        yield EditKind.BUDGET, pack_number(state.budget)
    yield EditKind.CLOCK, pack_clock(state.clock)
    yield EditKind.CLEAN, pack_mark(state.clean)
    for rescue in state.rescues:
        yield EditKind.RESCUE, pack_rescue(rescue, state.next_rescue)
    yield from _mirroring_edits(state)
    yield EditKind.STATE_END, b""


def _mirroring_edits(state: State) -> Iterator[tuple[EditKind, bytes]]:
    yield EditKind.NODE, state.node
    yield EditKind.ROLE, bytes([state.role])
    yield EditKind.AGREED, pack_agreed(state.agreed)
    yield EditKind.BASE, pack_base(state.base)
    for snapshot in state.lacking:
        yield EditKind.LACKING, pack_snapshot(snapshot)
    if state.names_position:
        yield EditKind.NAMES, pack_number(state.names_position)
    if state.source_name:
        yield EditKind.SOURCE, pack_source(state.source_name)
    if state.listener != NO_LISTENER:
        yield EditKind.LISTENER, pack_listener(state.listener)
    for branch in state.branches:
        yield EditKind.BRANCH, branch_edits.pack_branch(branch, state.next_rescue)
    if state.cut != NO_CUT:
        yield EditKind.CUT, branch_edits.pack_cut(state.cut)
    if state.jump is not None:
        yield EditKind.JUMP, pack_jump(state.jump)
    if state.yields:
        yield EditKind.YIELDS, b"\x01"
    for fork in state.forks:
        yield EditKind.FORK, pack_fork(fork)
    if state.owes > state.durable.position:
        yield EditKind.OWES, pack_number(state.owes)
    if state.handed_to:
        yield EditKind.HANDED_TO, state.handed_to.encode()
    for mirror in state.mirrors:
        yield EditKind.MEMBER, pack_member(mirror)
    for dirty in state.dirty:
        yield EditKind.DIRTY, pack_dirty(dirty)
    for member in state.members:
        yield EditKind.MEMBERSHIP, pack_membership(member)
    for verified in state.verified:
        yield EditKind.VERIFIED, pack_verified(verified)
    for resync in state.resync_points:
        yield EditKind.RESYNC_POINT, pack_resync_point(resync)
    yield from ((EditKind(number), body) for number, body in suspect_edits(state.suspect))
    yield from ((EditKind(number), body) for number, body in clone_edits(state.clones))
    if state.detached:
        yield EditKind.DETACHED, pack_number(state.detached)
    if state.elsewhere:
        yield EditKind.ELSEWHERE, pack_number(state.elsewhere)
    if state.scrub != NEVER_SCRUBBED:
        yield EditKind.SCRUBBED, pack_scrub(state.scrub)
    yield from ((EditKind(number), body) for number, body in retention_edits(state.retention))
    yield from ((EditKind.RUNG, pack_rung(rung)) for rung in state.rungs)
