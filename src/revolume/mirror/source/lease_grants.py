"""The source's side of the in-sync lease of one session: the mirror asks again and again, and is answered while it
is in sync.

The target counts from the moment at which it asked, which is before the answer was sent: so what it holds ends, by
its clocks, no later than what is noted here (``GrantedLease``), however long the answer was under way.
"""

from __future__ import annotations

from revolume.mirror.link import Link
from revolume.mirror.source.progress import Phase, Progress, is_level
from revolume.mirror.wire.frames import Type
from revolume.mirror.wire.session_messages import pack_lease, unpack_lease_ask
from revolume.volume.members.mirror import Mirror


class LeaseGrants:
    """Of one session."""

    def __init__(self, link: Link, mirror: Mirror) -> None:
        self._link = link
        self._mirror = mirror
        self._offered_ms = 0
        self._begun = False

    def follow(self, progress: Progress, now_ns: int) -> None:
        """It has said how far it is. From when it has joined it is fed, and may be in sync."""
        if progress.phase is Phase.JOINED and not self._begun:
            self._begin()
        if self._mirror.detached and is_level(progress, now_ns):
            self._mirror.on_level()

    def _begin(self) -> None:
        self._begun = self._mirror.fed = True
        self._mirror.rival = False
        self._mirror.lease.offer = self.offer
        self.offer()

    def offer(self) -> None:
        """Tell the mirror for how long a lease would be, where that has changed."""
        lease_ms = self._mirror.state.on_lost.lease_ms
        if lease_ms != self._offered_ms and self._link.open:
            self._offered_ms = lease_ms
            self._link.send_control(Type.LEASE, pack_lease(0, lease_ms))

    def asked(self, body: memoryview) -> None:
        """The mirror may hold it for a while from when it asked, if it is in sync."""
        question, knows = unpack_lease_ask(body)
        mirror = self._mirror
        if not knows or not self._begun:
            return
        mirror.lease.on_told()
        lease_ms = mirror.state.on_lost.lease_ms
        if mirror.may_have_lease and self._link.open:
            mirror.lease.granted(self._link.host.clock.boot_ns(), lease_ms)
            self._link.send_control(Type.LEASE, pack_lease(question, lease_ms))

    def end(self) -> None:
        """The session is over: nothing is offered or granted any more."""
        if self._mirror.lease.offer == self.offer:
            self._mirror.lease.offer = lambda: None
            self._mirror.fed = False
