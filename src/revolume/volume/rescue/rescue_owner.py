"""For which pinned moment what is overwritten is rescued, and what its manifest edit says afterwards. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from revolume.blocks.numbers import WriteNumber
from revolume.chain.map_file import MapMeta
from revolume.volume.metadata.manifest_state import Rescue, RescueFile, RescueTable, State
from revolume.volume.rescue.rescue_job import Overwriting, Rescued, RescueSpec


def owner_of(state: State, horizon_pinned: Rescue, pinned: Iterable[WriteNumber]) -> Rescue | None:
    """The newest moment that something was rescued for, also where nobody pins it any more and its tables have not
    been given to the next older one yet: what that one has of its own comes before them, and may hold nothing that
    is newer. Where the horizon itself is pinned and nothing was rescued for it yet, ``horizon_pinned``."""
    wanted = set(pinned)
    known = {each.moment.write for each in state.rescues}
    if horizon_pinned.moment.write in wanted - known:
        return horizon_pinned
    return state.rescues[-1] if known & wanted else None


def meta_of(owner: Rescue) -> MapMeta:
    """What its tables are of."""
    return MapMeta(owner.moment.write, owner.moment.address, owner.moment.point)


def rescue_spec(state: State, owner: Rescue, path: str, by: Overwriting, lossy: bool = False) -> RescueSpec:
    """The job that rescues for ``owner`` what ``by`` overwrites in the volume in ``path``."""
    number = state.next_rescue
    last = owner.files[-1] if owner.files else RescueFile(number, 0)
    origin = state.clones.origin
    return RescueSpec(
        path=path,
        volume=state.volume,
        by=by,
        meta=meta_of(owner),
        tables=tuple(table.number for table in owner.tables),
        table=number,
        file=last.number,
        file_blocks=last.blocks,
        lossy=lossy,
        own_below=None if origin is None else origin.own_below,
    )


def with_rescued(owner: Rescue, done: Rescued, number: int) -> Rescue:
    """The moment with what has been rescued for it now."""
    if not done.entries:
        return owner
    tables = (*owner.tables, RescueTable(number, done.entries))
    if not owner.files:
        return replace(owner, tables=tables, files=(RescueFile(number, done.blocks),))
    *before, last = owner.files
    grown = RescueFile(last.number, last.blocks + done.blocks)
    return replace(owner, tables=tables, files=(*before, grown))
