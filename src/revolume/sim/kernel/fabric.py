"""The network between simulated machines: paths that may be slow, cut one way or both, or bend bytes.

A *path* leads from one machine to another and has a state of its own, so that a cut may be one-way and a partition
of any number of machines is a set of paths. What is under way on a path that is cut waits, as TCP repeats it, and
arrives after the healing; what has waited too long ends its connection (``wire.py``).

A machine that lost its power says nothing to anybody; a process that was killed has its connections reset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.loop import SimLoop
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.trace import Trace

if TYPE_CHECKING:
    from revolume.sim.kernel.network import SimListener
    from revolume.sim.kernel.wire import SimWire

PATIENCE_S = 30.0
"""After so long without an answer a kernel gives a connection up."""


@dataclass(slots=True)
class Path:
    """One direction between two machines."""

    up: bool = True
    cuts: int = 0
    latency_s: float = 0.0002
    bytes_per_s: float = 200e6
    bent: float = 0.0
    """The chance of a wrong byte in a piece."""


class Fabric:
    """All machines' network."""

    def __init__(self, loop: SimLoop, chance: Chance, trace: Trace) -> None:
        self.loop = loop
        self.chance = chance
        self.trace = trace
        self.listeners: dict[str, SimListener] = {}
        self.wires: dict[SimWire, None] = {}
        self.bent_bytes = 0
        self.cuts = 0
        """Of single directions."""
        self.heard: deque[bytes] = deque()
        """What ``overheard`` said on its newest connection, piece by piece."""
        self.overheard = "", ""
        """Which machine, and to which address."""
        self._paths: dict[tuple[str, str], Path] = {}

    def overhear(self, machine: str, address: str) -> None:
        """Listen in to this one from now on."""
        self.overheard = machine, address
        self.heard.clear()

    def path(self, source: str, target: str) -> Path:
        """From one machine to another; within one there is no wire to cut."""
        return self._paths.setdefault((source, target), Path())

    def cut(self, source: str, target: str) -> None:
        """Nothing gets through in this direction."""
        path = self.path(source, target)
        if not path.up:
            return
        path.up = False
        path.cuts += 1
        self.cuts += 1
        self.trace.note("cut", source, target)
        for wire in list(self.wires):
            if {wire.here, wire.there} == {source, target}:
                self.loop.call_later(PATIENCE_S * self.chance.uniform(0.5, 1), wire.lose_patience, path, path.cuts)

    def heal(self, source: str, target: str) -> None:
        """What was under way comes through."""
        path = self.path(source, target)
        if path.up:
            return
        path.up = True
        self.trace.note("heal", source, target)
        for wire in list(self.wires):
            if wire.here == source and wire.there == target:
                wire.flow_again()
            if wire.here == target and wire.there == source:
                wire.credit_again()

    def partition(self, groups: Sequence[Sequence[str]]) -> None:
        """Machines of different groups do not reach each other, of one group they do."""
        group_of = {name: number for number, group in enumerate(groups) for name in group}
        for source in sorted(group_of):
            for target in sorted(group_of):
                if source != target:
                    change = self.heal if group_of[source] == group_of[target] else self.cut
                    change(source, target)

    def process_ended(self, process: Process, *, silently: bool) -> None:
        """Its connections are reset, or, if the power went, its peers will notice some time."""
        for address in [a for a, listener in self.listeners.items() if listener.process is process]:
            del self.listeners[address]
        for wire in [wire for wire in self.wires if wire.process is process]:
            wire.vanish(silently)
