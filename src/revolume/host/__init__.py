"""What the project uses of the machine: clock, random numbers, disk, threads and helper process, network.

Nothing outside this room reads a clock, opens a file or a socket, or draws a random number; it is given
a ``Host`` and asks that. So a whole cluster can run in one process, in virtual time, from one seed.

Each is a protocol in a file of its own (``disk.py``); the real one is in ``real/`` (``real/disk.py``).
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
    """One machine, real or simulated."""

    clock: Clock
    entropy: Entropy
    disk: Disk
    work: Work
    network: Network


def real_host(*, socket_mode: int = 0o600) -> Host:
    """This machine. ``socket_mode``: of unix sockets that are listened on. ``work.close()`` when done."""
    from revolume.host.clock import RealClock
    from revolume.host.entropy import RealEntropy
    from revolume.host.real.disk import RealDisk
    from revolume.host.real.network import RealNetwork
    from revolume.host.real.work import RealWork

    return Host(RealClock(), RealEntropy(), RealDisk(), RealWork(), RealNetwork(socket_mode=socket_mode))
