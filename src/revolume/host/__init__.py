"""The seams to the machine: clock, chance, disk, threads and helper, network.

Nothing outside this room reads a clock, opens a file or a socket, or draws a random number; it is handed
a ``Host`` and asks that. So a whole cluster can run in one process, in virtual time, from one seed.

Each seam is a protocol in a file of its own (``disk.py``); the real one is beside it (``real_disk.py``).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revolume.host.clock import Clock
    from revolume.host.disk import Buffer, Directory, Disk, File
    from revolume.host.entropy import Entropy
    from revolume.host.network import Listener, Network, Peer, Receiver, Wire
    from revolume.host.work import JobFailed, Work

_HOMES = {
    "Buffer": "disk",
    "Clock": "clock",
    "Directory": "disk",
    "Disk": "disk",
    "Entropy": "entropy",
    "File": "disk",
    "JobFailed": "work",
    "Listener": "network",
    "Network": "network",
    "Peer": "network",
    "Receiver": "network",
    "Wire": "network",
    "Work": "work",
}
__all__ = [
    "Buffer",
    "Clock",
    "Directory",
    "Disk",
    "Entropy",
    "File",
    "Host",
    "JobFailed",
    "Listener",
    "Network",
    "Peer",
    "Receiver",
    "Wire",
    "Work",
    "real_host",
]


def __getattr__(name: str) -> Any:
    """Imported when they are asked for: a verb that only asks a running volume needs none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"revolume.host.{_HOMES[name]}"), name)


@dataclass(frozen=True, slots=True)
class Host:
    clock: Clock
    entropy: Entropy
    disk: Disk
    work: Work
    network: Network


def real_host(*, socket_mode: int = 0o600) -> Host:
    """This machine. ``socket_mode``: of unix sockets that are listened on. ``work.close()`` when done."""
    from revolume.host.clock import RealClock
    from revolume.host.entropy import RealEntropy
    from revolume.host.real_disk import RealDisk
    from revolume.host.real_network import RealNetwork
    from revolume.host.real_work import RealWork

    return Host(RealClock(), RealEntropy(), RealDisk(), RealWork(), RealNetwork(socket_mode=socket_mode))
