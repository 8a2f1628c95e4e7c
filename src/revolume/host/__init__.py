"""The seams to the machine: clock, chance, disk, threads and helper, network.

Nothing outside this room reads a clock, opens a file or a socket, or draws a random number; it is handed
a ``Host`` and asks that. So a whole cluster can run in one process, in virtual time, from one seed.

Each seam is a protocol in a file of its own (``disk.py``); the real one is beside it (``real_disk.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from revolume.host.clock import Clock, RealClock
from revolume.host.disk import Buffer, Directory, Disk, File
from revolume.host.entropy import Entropy, RealEntropy
from revolume.host.network import Listener, Network, Peer, Receiver, Wire
from revolume.host.real_disk import RealDisk
from revolume.host.real_network import RealNetwork
from revolume.host.real_work import RealWork
from revolume.host.work import JobFailed, Work

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


@dataclass(frozen=True, slots=True)
class Host:
    clock: Clock
    entropy: Entropy
    disk: Disk
    work: Work
    network: Network


def real_host() -> Host:
    """This machine. ``work.close()`` when done."""
    return Host(RealClock(), RealEntropy(), RealDisk(), RealWork(), RealNetwork())
