"""Which volume is open, where its files lie, and the machine it runs on: values that never change while it is."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.host import Host
from revolume.host.disk import Directory
from revolume.volume.open.options import OpenOptions


@dataclass(frozen=True, slots=True)
class VolumeContext:
    """Identity and seams of an open volume. ``volume_id``: 128 random bits, the same on every node. The
    directories are the volume's own, its log's and its map files'; they are closed with the volume."""

    host: Host
    options: OpenOptions
    volume_id: bytes
    name: str
    directory: Directory
    log_directory: Directory
    maps_directory: Directory
