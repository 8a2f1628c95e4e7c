"""The branches of a volume as status shows them."""

from __future__ import annotations

from revolume.volume.metadata.manifest_state import State
from revolume.volume.state.status import BranchMomentStatus, BranchStatus


def branch_statuses(state: State) -> tuple[BranchStatus, ...]:
    """Oldest first."""
    rescued = state.rescued_bytes()
    return tuple(
        BranchStatus(
            name=branch.name,
            write=branch.common.write,
            point=branch.common.point,
            end_write=branch.write,
            time_ns=branch.time_ns,
            size=branch.size,
            writes=branch.writes,
            blocks=branch.blocks,
            bytes=branch.bytes,
            rescued_bytes=rescued.get(branch.common.write, 0),
            made_ns=branch.made_ns,
            snapshots=branch.snapshots,
            moments=tuple(
                BranchMomentStatus(each.name, each.write, each.point, each.time_ns, each.size, each.blocks)
                for each in branch.moments
            ),
        )
        for branch in state.branches
    )
