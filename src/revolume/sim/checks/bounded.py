"""Invariant 7: what grows is bounded, also while things go wrong."""

from __future__ import annotations

from revolume.sim.actors.service import PrimaryService

PARTIALS_MAX = 4096 + 256
WAITING_MAX = 4096


def check_bounded(service: PrimaryService, who: str) -> list[str]:
    """Queues and memory of a primary, now."""
    volume = service.volume
    found = {
        "partial blocks": (len(volume.partials), PARTIALS_MAX),
        "unsynced bytes": (volume.log.commit.unsynced_bytes, 3 * volume.unsynced_bytes_max),
        "waiters for a sync": (len(volume.log.commit._waiters), WAITING_MAX),
        "answers that wait for a mirror": (len(service.volume.mirrors._released), WAITING_MAX),
        "leases": (len(volume.holders), 64),
        "stale maps": (len(volume.maps.stale), 64),
    }
    over = {what: value for what, (value, limit) in found.items() if value > limit}
    return [f"{who}: {value} {what}, {found[what][1]} are allowed" for what, value in over.items()]
