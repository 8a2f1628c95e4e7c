"""How a volume is opened: plain values with the defaults that a user gets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from revolume.volume.metadata.former import Former
from revolume.volume.metadata.keep_policy import DEFAULT_POLICY, KeepPolicy, WhenFull
from revolume.volume.metadata.manifest_state import NO_LISTENER, Listener

if TYPE_CHECKING:
    from revolume.volume.image.origin_image import OriginBlocks


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """``size`` creates the volume if the directory is empty, and must otherwise agree with what is there.
    ``budget_bytes``: the log on the disk; None = what was decided before, at creation half of the free space.
    ``keep``: what is kept of the past, ``keep_s`` instead: every write of so many seconds; ``when_full``: what
    happens when there is no room for that; None = as before, at first 24 hours and shrink. Both are recorded in
    the manifest, unless ``budget_once``. ``segment_bytes``: of a new volume's log files; None = as its size asks
    for. ``spare_bytes``: made ready ahead, but no more than the volume's size. ``promote``: a mirror becomes a
    primary. ``mirrors``: the names of those that will be served; a required one that is missing is refused.
    ``overlay_quota_bytes``: what a throw-away overlay may take of the disk; None = a tenth of what is free when it
    is opened. ``reserve_writes``: write numbers that the manifest reserves at a time; a crash skips at most twice
    as many, no batch may have more. ``listener``: of this node, recorded in a copy that is made. ``former``: who
    handed over to the mirror that is promoted. ``seed``: a raw image with which a copy begins that is made; "":
    with zeroes.
    ``rung_versions``: of the shortest stretches of history that get a map of their own."""

    name: str | None = None
    size: int | None = None
    cp_interval_s: float = 5.0
    keep: KeepPolicy | None = None
    keep_s: float | None = None
    when_full: WhenFull | None = None
    budget_bytes: int | None = None
    map_memory_bytes: int = 256 << 20
    segment_bytes: int | None = None
    spare_bytes: int = 1 << 30
    sync_interval_s: float = 1.0
    unsynced_bytes_max: int = 256 << 20
    reserve_bytes: int | None = None
    budget_once: bool = False
    promote: bool = False
    mirrors: tuple[str, ...] = ()
    overlay_quota_bytes: int | None = None
    listener: Listener = NO_LISTENER
    former: Former | None = None
    seed: str = ""
    reserve_writes: int = 1 << 24
    rung_versions: int = 1 << 17
    origin: OriginBlocks | None = None

    def policy_after(self, before: KeepPolicy | None) -> KeepPolicy:
        """What is kept from now on, where it was ``before``."""
        policy = self.keep or before or DEFAULT_POLICY
        if self.keep is None and self.keep_s is not None:
            policy = KeepPolicy(int(self.keep_s * 1000), when_full=policy.when_full)
        return policy if self.when_full is None else replace(policy, when_full=self.when_full)
