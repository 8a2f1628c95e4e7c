"""What a flipped jump makes of a copy: the edits, and the jobs before them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce

from revolume.blocks.numbers import Address, WriteNumber
from revolume.chain.point import Point
from revolume.volume.jump.apply_job import ApplySpec
from revolume.volume.jump.jump_tables import JumpTables
from revolume.volume.metadata.clock_mark import pack_clock
from revolume.volume.metadata.manifest_edits import (
    EditKind,
    apply,
    pack_agreed,
    pack_mark,
    pack_number,
    pack_pairs,
)
from revolume.volume.metadata.manifest_state import Agreed, Horizon, Jump, Mark, PinnedSnapshot, Rescue, State
from revolume.volume.metadata.member_record import pack_membership
from revolume.volume.metadata.moment_edits import pack_epochs, pack_horizon, pack_snapshot
from revolume.volume.rescue.rescue_owner import owner_of

Edit = tuple[EditKind, bytes]


def held_snapshots(state: State, jump: Jump) -> tuple[PinnedSnapshot, ...]:
    """The snapshots of the volume that this copy has once it has jumped: those that it holds before the common
    point, all that stand there, also under names that it has not heard of yet, and those that stand at the new one
    or will come behind it."""
    point, before = jump.target.point, set(state.snapshots)
    return tuple(
        pin
        for pin in jump.target.snapshots
        if pin.write >= point.write
        or pin.write == state.horizon.write
        or (pin in before and pin.write < state.horizon.write)
    )


def names_here(state: State, jump: Jump, agreed: Point) -> list[Edit]:
    """The snapshots of the volume that stand at the very point at which this copy does, and that it has not heard
    of: it holds them from now on."""
    here = [pin for pin in jump.target.snapshots if (pin.write, pin.point) == (agreed.write, agreed.number)]
    return [edit for pin in here if pin not in state.snapshots for edit in _renamed(pin, EditKind.SNAPSHOT)]


def owner(state: State, jump: Jump) -> Rescue | None:
    """The moment for which what the jump overwrites is rescued; None: nobody needs it. A jump back brings what
    moments before its point had rescued for them already."""
    if jump.target.point.write < state.horizon.write:
        return None
    pinned = [pin.write for pin in held_snapshots(state, jump) if pin.write <= state.horizon.write]
    pinned += [branch.common.write for branch in state.branches]
    pinned += [fork.write for fork in state.forks]
    pinned += [resync.write for resync in state.resync_points]
    pinned += state.retention.lived
    return owner_of(state, Rescue(state.horizon), pinned)


def new_horizon(state: State, jump: Jump) -> Horizon:
    """The point, where the log begins anew: behind every segment that ever was."""
    begin = Address(state.next_use * state.segment_blocks)
    return replace(jump.target.point, address=begin, pages_generation=state.horizon.pages_generation + 1)


def landed(state: State, jump: Jump) -> bool:
    """Whether the image stands at the jump's point already, and the manifest says so."""
    here, there = state.horizon, jump.target.point
    return (here.point, here.write, here.position, here.chain) == (
        there.point, there.write, there.position, there.chain
    )  # fmt: skip


def apply_spec(state: State, jump: Jump, path: str, lossy: bool = False) -> ApplySpec:
    """The job that puts it into the image."""
    horizon = new_horizon(state, jump)
    return ApplySpec(
        path=path,
        volume=state.volume,
        tables=JumpTables.of(jump),
        write=horizon.write,
        address=horizon.address,
        point=horizon.point,
        size=horizon.size,
        pages_generation=horizon.pages_generation,
        lossy=lossy,
    )


def landing_edits(state: State, jump: Jump) -> list[Edit]:
    """All that changes once the image holds the point. A crash may leave the first of them only; the jump goes
    with the last, so the others are then made once more, to the same end."""
    horizon = state.horizon if landed(state, jump) else new_horizon(state, jump)
    mark = Mark(horizon.position, horizon.address, horizon.chain, horizon.write, horizon.time_ns)
    return [
        (EditKind.CLEAN, pack_mark(None)),
        (EditKind.LINEAGE, pack_epochs(jump.target.epochs)),
        *_names(state, jump),
        *_members(state, jump),
        *points_behind(state, horizon.write),
        *_unpinned(state, jump),
        # Another primary has been since this copy was one, if it was: its mirrors are that one's.
        *((EditKind.DROP_MIRROR, mirror.name.encode()) for mirror in state.mirrors),
        (EditKind.CLOCK, pack_clock(replace(state.clock, boot_id=bytes(16)))),
        (EditKind.BASE_MAP, b""),
        (EditKind.DROP_RUNGS, b""),
        (EditKind.USES, pack_pairs(dict.fromkeys(state.uses, 0))),
        (EditKind.DURABLE, pack_mark(mark)),
        (EditKind.AGREED, pack_agreed(Agreed(horizon.point, horizon.position, horizon.write))),
        (EditKind.HORIZON, pack_horizon(horizon)),
        (EditKind.DROP_JUMP, b""),
    ]


def after_landing(state: State) -> State:
    """What an opening would make of this: the same state where no jump is flipped."""
    if state.jumped is None:
        return state
    return reduce(lambda made, edit: apply(made, *edit), landing_edits(state, state.jumped), state)


def _names(state: State, jump: Jump) -> Iterator[Edit]:
    held = held_snapshots(state, jump)
    wanted = {pin.name for pin in jump.target.snapshots}
    for pin in (*state.snapshots, *state.lacking):
        if pin.name not in wanted:
            yield EditKind.DROP_SNAPSHOT, pin.name.encode()
    for pin in jump.target.snapshots:
        if pin in held and pin not in state.snapshots:
            yield from _renamed(pin, EditKind.SNAPSHOT)
        elif pin not in held and pin not in state.lacking:
            yield from _renamed(pin, EditKind.LACKING)
    yield EditKind.NAMES, pack_number(jump.target.names_position)


def _renamed(pin: PinnedSnapshot, kind: EditKind) -> Iterator[Edit]:
    """A name may have been of another moment."""
    yield EditKind.DROP_SNAPSHOT, pin.name.encode()
    yield kind, pack_snapshot(pin)


def _members(state: State, jump: Jump) -> Iterator[Edit]:
    """One that stays keeps its resync point."""
    members = jump.target.members
    if members != state.members:
        names = {member.name for member in members}
        for member in state.members:
            if member.name not in names:
                yield EditKind.DROP_MEMBERSHIP, member.name.encode()
        for member in members:
            yield EditKind.MEMBERSHIP, pack_membership(member)


def _unpinned(state: State, jump: Jump) -> Iterator[Edit]:
    """What was rescued for moments that nobody pins any more: the jump overwrites blocks of theirs as well."""
    if jump.target.point.write >= state.horizon.write and owner(state, jump) is None:
        for rescue in state.rescues:
            yield EditKind.DROP_RESCUE, pack_number(rescue.moment.write)


def points_behind(state: State, write: WriteNumber) -> Iterator[Edit]:
    """A copy that goes back has no resync points behind where it goes to."""
    for resync in state.resync_points:
        if resync.write > write:
            yield EditKind.DROP_RESYNC_POINT, resync.name.encode()
