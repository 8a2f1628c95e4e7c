"""For how long a mirror may take itself for in sync although it hears nothing: the lease that its source grants.

It counts from the moment at which this node asked, by the clock that has gone further since (``host/clock.py``).
It is in memory alone: a process that starts anew has none.
"""

from __future__ import annotations

from typing import Final

from revolume.host.clock import Clock, Elapsed
from revolume.mirror.copy_protocols import TargetVolume
from revolume.mirror.link import Link
from revolume.mirror.wire.frames import Type
from revolume.mirror.wire.session_messages import pack_lease_ask, unpack_lease

ASK_S_MAX: Final = 1.0
ASKED_MAX: Final = 8


class InSyncLease:
    """Of one node's copy; it outlives the sessions with its source."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._question = 0
        self._asked: dict[int, Elapsed] = {}
        self._since: Elapsed | None = None
        self._lease_ms = 0

    def ask(self) -> int:
        """The number of a question that is sent now."""
        self._question += 1
        self._asked[self._question] = Elapsed(self._clock)
        while len(self._asked) > ASKED_MAX:
            del self._asked[next(iter(self._asked))]
        return self._question

    def granted(self, question: int, lease_ms: int) -> None:
        """The source has answered that question. What it answers to another one is of no use."""
        since = self._asked.pop(question, None)
        if since is not None:
            self._since, self._lease_ms = since, lease_ms

    def drop(self) -> None:
        """This copy is another one from now on."""
        self._asked.clear()
        self._since = None

    @property
    def left_s(self) -> float:
        """Seconds; 0: it has run out, or there was none."""
        return 0.0 if self._since is None else max(0.0, self._lease_ms / 1e3 - self._since.ns / 1e9)


class LeaseHolder:
    """The target's side of one session: it asks for as long as leases are offered."""

    def __init__(self, link: Link, lease: InSyncLease, volume: TargetVolume) -> None:
        self._link = link
        self._lease = lease
        self._volume = volume
        self._offered_ms = 0
        self._asking = False

    def told(self, body: memoryview) -> None:
        """LEASE has come."""
        question, lease_ms = unpack_lease(body)
        if question:
            self._lease.granted(question, lease_ms)
            return
        self._offered_ms = lease_ms
        if lease_ms and not self._asking:
            self._asking = True
            self._link.spawn(self._ask())

    async def _ask(self) -> None:
        while self._offered_ms:
            question = pack_lease_ask(self._lease.ask(), self._volume.bound.may_be_detached)
            self._link.send_control(Type.LEASE_ASK, question)
            await self._link.host.clock.sleep(min(ASK_S_MAX, self._offered_ms / 3e3))
        self._asking = False
