"""Pinned moments that the horizon has reached or left: single points of the past, with nothing around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.log.format.columns import LIVED_NS
from revolume.volume.branches.names import branch_moment
from revolume.volume.members.base_start import point_of
from revolume.volume.members.kept_points import lost_name, standing
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_state import PinnedSnapshot, State
from revolume.volume.state.status import Snapshot


def isolated_points(state: State, pinned: Iterable[WriteNumber], oldest: WriteNumber) -> list[Point]:
    """The points of the pinned moments before the ``oldest`` write of the history that is whole, oldest first."""
    known = {each.moment.write: each.moment for each in state.rescues}
    known[state.horizon.write] = state.horizon
    return [point_of(known[write]) for write in sorted(set(pinned) & known.keys()) if write < oldest]


def listed_snapshots(
    state: State, newest: WriteNumber, cuts: Mapping[str, Kept] | None = None, lived_ms: int | None = None
) -> list[Snapshot]:
    """The named moments, oldest first: snapshots, the moments at which links to mirrors were lost,
    branches, and moments within them. A mirror is told of names before their moments have come: those behind its
    ``newest`` write are not here yet. ``cuts``: those, by mirror; None: as they are recorded.
    ``lived_ms``: this copy's lived time; None: of its last opening or end."""
    rescued = state.rescued_bytes()
    if cuts is None:
        recorded = {mirror.name: standing(state, mirror.cut) for mirror in state.mirrors}
        cuts = {name: cut for name, cut in recorded.items() if cut is not None}
    listed = [
        _named(state, pin, rescued.get(pin.write, 0), lived_ms)
        for pin in state.snapshots
        if pin.write <= newest
    ]
    listed += [
        Snapshot(lost_name(name), cut.write, cut.point, cut.time_ns, rescued.get(cut.write, 0), f"mirror {name}")
        for name, cut in cuts.items()
    ]
    listed += [
        Snapshot(
            branch_moment(branch.name), branch.common.write, branch.common.point, branch.time_ns,
            rescued.get(branch.common.write, 0) + branch.bytes, f"branch {branch.name}", branch.name,
        )
        for branch in state.branches
    ]  # fmt: skip
    listed += [
        Snapshot(
            branch_moment(branch.name, moment.name), branch.common.write, branch.common.point, moment.time_ns,
            holder=f"branch {branch.name}", branch=branch.name, branch_moment=moment.name,
        )
        for branch in state.branches
        for moment in branch.moments
    ]  # fmt: skip
    return sorted(listed, key=lambda each: each.write)


def _named(state: State, pin: PinnedSnapshot, rescued_bytes: int, lived_ms: int | None) -> Snapshot:
    terms, now_ms = state.retention.terms_of(pin.name), state.clock.lived_ns // LIVED_NS
    left_ms = terms.expires_ms - (now_ms if lived_ms is None else lived_ms)
    left_s = max(0.0, left_ms / 1000) if terms.expires_ms else None
    return Snapshot(
        pin.name, pin.write, pin.point, pin.time_ns, rescued_bytes, expires_in_s=left_s, held=terms.held
    )
