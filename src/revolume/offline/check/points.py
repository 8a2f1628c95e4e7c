"""Points, rebuilt the way a mirror builds them: from the references in their records."""

from __future__ import annotations

from collections.abc import Iterator

from revolume.blocks.delta_map import DeltaMap
from revolume.offline.check.root_tracker import RootTracker
from revolume.offline.walk.check_context import CheckContext
from revolume.offline.walk.log_walk import LogRecords
from revolume.offline.walk.point_delta import Parts, own_delta, put_right, received_delta
from revolume.offline.walk.references import TransferIndex
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.metadata.manifest_state import Role, State


def verify_points(sums: BlockDigests, state: State, records: LogRecords, context: CheckContext) -> None:
    """Verify every point after the horizon: its references, its interval digest and its volume root."""
    table, root = TransferIndex(records.pieces), RootTracker(state, sums)
    before = state.horizon.position, state.horizon.write
    for parts in _claimed(state, records):
        last = parts[-1][0]
        mirrored = state.agreed.point
        delta = received_delta(parts, records, table, before) if mirrored else own_delta(parts, table)
        before = last.position, last.write
        context.points += 1
        known = state.suspect.unproved(last.number) or context.periods.within(last.write)
        problem = delta if isinstance(delta, str) else _problem(parts, delta, root, known)
        if problem:
            context.add_problem(f"cp{last.number}", problem)
        if mirrored and not isinstance(delta, str):
            root.put_right(put_right(parts, records, delta))


def _claimed(state: State, records: LogRecords) -> Iterator[Parts]:
    """The parts of each complete record. At a mirror only of points that it has agreed on."""
    parts: Parts = []
    for part, columns, seals in records.facts:
        parts = [*parts, (part, columns)] if part.part else [(part, columns)]
        answers = state.role == Role.PRIMARY or part.number <= state.agreed.point
        if seals and len(parts) == part.parts and state.horizon.point < part.number and answers:
            yield parts


def _problem(parts: Parts, delta: DeltaMap, root: RootTracker, known: bool) -> str:
    """``known``: that the copy differed there has been found, and is said."""
    last = parts[-1][0]
    if delta.interval_digest() != last.digest:
        return "the interval digest of its references is not the one stated"
    followed = root.after(last.number, delta)
    if followed is not None and followed != last.root:
        if known:
            root.restated(last.root)
            return ""
        return "the volume root is not the one stated"
    return ""
