"""Bugs planted into how a lost mirror is detached, and what it may take itself for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from revolume.mirror.target import in_sync_lease
from revolume.sim.campaigns.plant import Plant
from revolume.volume.members import lost_mirrors
from revolume.volume.members import mirror as mirror_record


async def _at_once(*_: Any) -> None:
    return None


async def _detached_in_memory(self: lost_mirrors.LostMirrors, mirror: mirror_record.Mirror) -> None:
    """A mirror is detached, and answers go on without it; neither manifest nor log says so."""
    lost = replace(mirror.state.on_lost, detached_ns=1, counts=True)
    mirror.lease.stopped, mirror.state = True, replace(mirror.state, on_lost=lost)
    mirror.settle()
    self._mirrors._release()


LEASE_PLANTS: Final = (
    Plant("answer-before-lease-ran-out", "answers go on without a mirror that still holds its lease", "lease", 30,
          ((mirror_record.GrantedLease, "ran_out", _at_once),), "lost", told="promoted: ", first=5),
    Plant("detach-not-durable", "a mirror is detached by deadline in memory alone", "lease", 20,
          ((lost_mirrors.LostMirrors, "_detach", _detached_in_memory),), "lost",
          told="not detached on the primary's disk"),
    Plant("lease-never-ends", "a mirror that had a lease once takes itself for in sync", "lease", 30,
          ((in_sync_lease.InSyncLease, "left_s", property(lambda self: float(self._since is not None))),), "lost",
          told="promoted: "),
)  # fmt: skip
