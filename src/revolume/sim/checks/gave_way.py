"""No client's write is refused while a reader of the past could have given way to it.

Found out beside ``volume/holding.py``, not with it: a reader could have gone if a fold up to some point would then
have freed a segment, with everything kept that never gives way; or if it holds room of its own where the disk is
short.
"""

from __future__ import annotations

from revolume.volume.core import Core
from revolume.volume.holding import HoldKind


def check_refused(core: Core, who: str) -> list[str]:
    """At the moment of a refusal."""
    return [f"{who}: a write was refused, and {name} could have given way" for name in _could_go(core)]


def _could_go(core: Core) -> list[str]:
    blocks = core.pool.segment_blocks
    begin = core.horizon.address // blocks
    kept = [snapshot.write for snapshot in core.manifest.state.snapshots]
    kept += [lease.write for lease in core.leases.values() if lease.kind == HoldKind.KEPT]
    upto = min(kept, default=1 << 63)
    useful = [p.write for p in core.points if p.address // blocks > begin and p.write <= upto]
    readers = [each for each in core.leases.values() if each.kind in (HoldKind.VIEW, HoldKind.OVERLAY)]
    return [
        each.holder
        for each in readers
        if any(each.write < write for write in useful) or (core.pool.disk_short and each.bytes())
    ]
