"""Invariant 7: what grows is bounded, also while things go wrong."""

from __future__ import annotations

from revolume.sim.service import PrimaryService

PARTIALS_MAX = 4096 + 256
WAITING_MAX = 4096


def check_bounded(service: PrimaryService, who: str) -> list[str]:
    """Queues and memory of a primary, now."""
    core = service.volume.core
    found = {
        "partial blocks": (len(core.partials), PARTIALS_MAX),
        "unsynced bytes": (core.commit.unsynced_bytes, 3 * core.unsynced_bytes_max),
        "waiters for a sync": (len(core.commit._waiters), WAITING_MAX),
        "answers that wait for a mirror": (len(service.volume.mirrors._released), WAITING_MAX),
        "leases": (len(core.leases), 64),
        "stale maps": (len(core.stale_maps), 64),
    }
    over = {what: value for what, (value, limit) in found.items() if value > limit}
    return [f"{who}: {value} {what}, {found[what][1]} are allowed" for what, value in over.items()]
