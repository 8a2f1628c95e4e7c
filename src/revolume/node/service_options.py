"""What a service is asked to be, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from revolume.history.moments import SPAN_SECONDS_MAX
from revolume.node.mirror_to import MirrorTo
from revolume.pace.limits import UNLIMITED, BulkLimits
from revolume.volume.metadata.keep_policy import KeepPolicy, WhenFull
from revolume.volume.metadata.manifest_state import Listener
from revolume.volume.open.options import OpenOptions

if TYPE_CHECKING:
    from revolume.nbd.bounds.limits import Limits

_ALL_ROOM: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """A volume to serve, and how. ``None`` leaves it to what the volume already has, or to the default."""

    directory: str
    addresses: tuple[str, ...]  # announced; the directory's own socket is served in any case
    name: str | None = None
    size: int | None = None
    cp_interval_s: float | None = None
    keep: KeepPolicy | None = None
    keep_s: float | None = None  # every write of so long, instead of a policy
    when_full: WhenFull | None = None
    budget_bytes: int | None = None
    budget_once: bool = False  # the volume does not remember it
    map_memory_bytes: int | None = None
    segment_bytes: int | None = None
    spare_bytes: int | None = None
    overlay_quota_bytes: int | None = None
    rung_versions: int | None = None
    limits: Limits | None = None  # what NBD clients may take
    tls_dir: str | None = None
    plaintext_allowed: bool = False
    plain_links_allowed: bool = False  # links to other machines without TLS; nobody but a simulation may want that
    control: bool = True  # whether the control socket is served
    mirror_listen: str | None = None  # other nodes come to this address: a mirror's source, the other copies
    advertise: str | None = None  # the address by which they know this node; "": the one where it listens
    seed: str | None = None  # a raw image that a mirror's copy begins with
    source_name: str | None = None  # the name that its source's certificate must have
    mirrors: tuple[MirrorTo, ...] = ()
    bulk: BulkLimits = UNLIMITED  # for what is sent to mirrors in bulk
    verify_period_s: float = 0.0  # 0: no mirror is verified by itself, unless it finds that it differs
    scrub_period_s: float | None = 30 * 86400.0  # 0: none begins by itself; None: none goes on by itself either
    alone: bool = False  # don't ask required mirrors for a longer end of the log
    as_recorded: bool = True  # in the role, with the mirrors, and where it listens, as the directory says


def history_preserving(directory: str, addresses: tuple[str, ...] = (), **more: Any) -> ServiceOptions:
    """For an opening that lets no history go, whatever the volume's usual options are, and prepares little."""
    return ServiceOptions(
        directory, addresses, keep_s=SPAN_SECONDS_MAX, budget_bytes=_ALL_ROOM, budget_once=True, spare_bytes=0,
        control=False, as_recorded=False, scrub_period_s=None, **more,
    )  # fmt: skip


def open_options(options: ServiceOptions, **more: Any) -> OpenOptions:
    """What was asked for; the volume's own defaults for the rest."""
    names = (
        "name", "size", "cp_interval_s", "keep", "keep_s", "when_full", "budget_bytes", "budget_once",
        "map_memory_bytes", "segment_bytes", "spare_bytes", "overlay_quota_bytes", "rung_versions", "seed",
    )  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    return OpenOptions(**{name: value for name, value in given.items() if value is not None}, **more)


def listener_of(options: ServiceOptions) -> Listener:
    """Where other nodes find this one, as its manifest has it."""
    return Listener(options.mirror_listen or "", options.advertise or "")
