"""What a service is asked to be: the command line of ``serve`` as one value."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.cli.mirror_to import MirrorTo


@dataclass(frozen=True, slots=True)
class Serving:
    """A volume to serve, and how. ``None`` leaves it to what the volume already has, or to the default."""

    directory: str
    addresses: tuple[str, ...]  # announced; the directory's own socket is served in any case
    name: str | None = None
    size: int | None = None
    cp_interval_s: float | None = None
    keep_s: float | None = None
    budget_bytes: int | None = None
    budget_once: bool = False  # the volume does not remember it
    map_memory_bytes: int | None = None
    segment_bytes: int | None = None
    spare_bytes: int | None = None
    tls_dir: str | None = None
    plaintext_allowed: bool = False
    connections_max: int = 100
    socket_mode: int = 0o600  # of unix sockets that it makes
    control: bool = True  # whether the control socket is served
    mirror_listen: str | None = None  # be a mirror, whose source comes to this address
    source_name: str | None = None  # the name that its source's certificate must have
    mirrors: tuple[MirrorTo, ...] = ()
    overlay_quota_bytes: int | None = None
    on_event: tuple[str, ...] = ()  # a command that is run when something has happened
    alone: bool = False  # don't ask required mirrors for a longer end of the log
