"""What becomes of a copy's manifest when its log is cut: the edits, and the names. Pure but for reading facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from revolume.blocks.geometry import BLOCK
from revolume.log.format.log_cut import LogCut
from revolume.log.format.transfer import Kind
from revolume.log.read.scan import SegmentReader
from revolume.volume.branches.common_point import CutPlace
from revolume.volume.branches.way_back import Staged, jump_back
from revolume.volume.livemap.point_records import Pieces
from revolume.volume.metadata import log_facts as facts
from revolume.volume.metadata.branch_edits import pack_branch, pack_cut
from revolume.volume.metadata.clock_mark import pack_clock
from revolume.volume.metadata.jump_edits import pack_jump
from revolume.volume.metadata.manifest_edits import EditKind, pack_agreed, pack_mark, pack_number, pack_pairs
from revolume.volume.metadata.manifest_state import Agreed, Branch, PinnedSnapshot, State
from revolume.volume.metadata.moment_edits import pack_epochs, pack_snapshot

Edit = tuple[EditKind, bytes]
NameFact = facts.SnapshotTaken | facts.SnapshotDropped


@dataclass(frozen=True, slots=True)
class Names:
    """``left``: snapshots that are none at the common point. ``back``: those that were dropped behind it, and are
    there again. ``behind``: those of ``left`` that this copy holds, at the common point or behind it."""

    left: tuple[str, ...] = ()
    back: tuple[PinnedSnapshot, ...] = ()
    behind: tuple[PinnedSnapshot, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What is recorded with the cut. ``staged``: the way back, where the image has left the point."""

    branch: Branch | None
    names: Names
    staged: Staged | None = None


def names_at(state: State, pieces: Pieces, place: CutPlace) -> Names:
    """What the facts behind the cut have made of names, undone. A point is named after its record was made: one
    that names the common point itself goes too, and comes again with the log if others have it. A name that was
    dropped there is there again where the log still says of which moment it was."""
    taken: dict[str, PinnedSnapshot] = {}
    first: dict[str, NameFact] = {}
    for position, fact in _name_facts(state, pieces):
        name = fact.pin.name if isinstance(fact, facts.SnapshotTaken) else fact.name
        if position > place.position:
            first.setdefault(name, fact)
        elif isinstance(fact, facts.SnapshotTaken):
            taken[name] = fact.pin
    known = [*state.snapshots, *state.lacking]
    later = {pin.name for pin in known if pin.point >= place.point.point}
    left = tuple(pin.name for pin in known if pin.name in later or pin.name in first)
    dropped = [name for name, fact in first.items() if isinstance(fact, facts.SnapshotDropped) and name in taken]
    behind = tuple(pin for pin in state.snapshots if pin.name in left and pin.write >= place.point.write)
    return Names(left, tuple(taken[name] for name in dropped), behind)


def _name_facts(state: State, pieces: Pieces) -> Iterator[tuple[int, NameFact]]:
    for segment, columns in pieces:
        rows, reader = columns.rows, SegmentReader(segment, state.volume, BLOCK)
        chosen = (rows["kind"] == Kind.FACT) & (rows["position"] > np.uint64(state.names_position))
        for block in rows["block"][chosen].tolist():
            found = reader.at(block)
            fact = facts.unpack(found.transfer.body) if found is not None else None
            if found is not None and isinstance(fact, NameFact):
                yield found.transfer.position, fact


def rewound_edits(state: State, number: int, place: CutPlace, found: Found, base_point: int | None) -> list[Edit]:
    """All that changes with the cut, to be recorded as one. ``number``: of the manifest's last edit.
    ``base_point``: of the live map's base, where that can be used."""
    point, end = place.point, place.end
    edits: list[Edit] = []
    if found.branch is not None:
        edits.append((EditKind.BRANCH, pack_branch(found.branch, max(found.branch.tables) + 1)))
    epochs = (epoch for epoch in state.epochs if epoch.position < point.position)
    edits += [
        (EditKind.LINEAGE, pack_epochs(epochs)),
        (EditKind.AGREED, pack_agreed(Agreed(point.point, end.position, point.write))),
        (EditKind.DURABLE, pack_mark(end)),
        (EditKind.CLEAN, pack_mark(None)),
        (EditKind.USES, pack_pairs(_freed(state, place))),
        (EditKind.CUT, pack_cut(LogCut(number + 1, end.position))),
        (EditKind.NAMES, pack_number(min(state.names_position, end.position))),
        (EditKind.CLOCK, pack_clock(replace(state.clock, boot_id=bytes(16)))),
    ]
    if place.use is not None:
        edits.append((EditKind.ENDS, pack_pairs({place.use: place.end_block})))
    if state.base_map and (base_point is None or base_point > point.point):
        edits.append((EditKind.BASE_MAP, b""))
    if state.owes > end.position:  # whatever it had promised of the log that is gone: what follows was never here
        edits.append((EditKind.OWES, pack_number(end.position + 1)))
    if state.jump is not None:
        edits.append((EditKind.DROP_JUMP, b""))
    edits += [
        (EditKind.DROP_RESCUE, pack_number(each.moment.write))
        for each in state.rescues
        if each.moment.write > point.write
    ]
    edits += [(EditKind.DROP_SNAPSHOT, name.encode()) for name in found.names.left]
    edits += [
        (EditKind.DROP_RESYNC_POINT, each.name.encode())
        for each in state.resync_points
        if each.write > point.write
    ]
    edits += [_named_again(state, pin) for pin in found.names.back]
    return edits


def jumped_edits(state: State, number: int, place: CutPlace, branch: Branch, found: Found) -> list[Edit]:
    """The edits that take a copy back to the point ``place``, which its image has left: the next opening jumps
    back to it by what is staged, and does the rest."""
    assert found.staged is not None
    point, left = place.point, set(found.names.left)
    names = (*(pin for pin in (*state.snapshots, *state.lacking) if pin.name not in left), *found.names.back)
    jump = jump_back(state, point, found.staged, names)
    edits = [
        (EditKind.BRANCH, pack_branch(branch, max(branch.tables) + 1)),
        (EditKind.JUMP, pack_jump(jump)),
        (EditKind.CUT, pack_cut(LogCut(number + 1, point.position))),
        (EditKind.FOLDING, pack_number(0)),
        (EditKind.CLEAN, pack_mark(None)),
    ]
    if state.owes > point.position:
        edits.append((EditKind.OWES, pack_number(point.position + 1)))
    edits += [(EditKind.DROP_RESCUE, pack_number(each.moment.write)) for each in place.rescues]
    edits += [(EditKind.DROP_SNAPSHOT, name.encode()) for name in found.names.left]
    return edits


def _named_again(state: State, pin: PinnedSnapshot) -> Edit:
    held = pin.write >= max(state.horizon.write, state.folding)
    return EditKind.SNAPSHOT if held else EditKind.LACKING, pack_snapshot(pin)


def _freed(state: State, place: CutPlace) -> dict[int, int]:
    """Segments in which nothing is left of the log."""
    first = state.horizon.address // state.segment_blocks
    return {
        index: 0
        for index, use in state.uses.items()
        if use and (use > place.use if place.use is not None else use >= first)
    }
