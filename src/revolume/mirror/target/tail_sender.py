"""The end of a mirror's log, sent to a primary that opens after an unclean stop: answered writes may lie only
there.

The primary names where its own log ends. If that transfer is in ours, the same by epoch, reign id and chain
checksum, everything behind it follows as EPOCH and LOG frames, then TAIL_END, and the link is closed.
"""

from __future__ import annotations

from revolume.errors import Refused
from revolume.mirror.counters import Counters
from revolume.mirror.decide import identity
from revolume.mirror.frames import Type
from revolume.mirror.link import Link
from revolume.mirror.messages import TAIL_END, Fetch, Identity, TailBegin, pack_tail
from revolume.mirror.parts import Secondary
from revolume.mirror.pump import Pump
from revolume.volume.end import End


class Tail:
    """See the module's text."""

    def __init__(self, link: Link, secondary: Secondary, node: bytes) -> None:
        self._link = link
        self._node = node
        self._secondary = secondary
        self._end = secondary.end
        self._feed = secondary.feed
        self._pump: Pump | None = None

    async def begin(self, fetch: Fetch) -> None:
        """Answer, and start to send. Refused: it is not the same log."""
        theirs, ours = fetch.end, self._feed.end
        whole = await self._feed.identity_at(ours)
        if whole is None:
            raise Refused("log-gone", "The end of this mirror's log is not in its log.", "Run 'revolume check'.")
        self._end = End(ours, *whole, self._secondary.end.write, self._secondary.end.time_ns)
        if theirs.position > ours:  # it has more than we have: nothing to send, and nothing to compare
            self._begin()
            self._finish()
            return
        found = await self._feed.identity_at(theirs.position)
        if found is None or Identity(*found) != identity(theirs):
            raise Refused(
                "diverged",
                f"The log that ends at {theirs.position} is not the one that this mirror holds.",
                "Look at both before one of them is opened.",
            )
        self._begin()
        if theirs.position == ours:
            self._finish()
            return
        self._pump = Pump(self._link, self._feed, theirs, Counters(), upto=ours, advanced=self._advanced)
        self._pump.pump()

    def _begin(self) -> None:
        begin = TailBegin(self._end, self._node, short=bool(self._secondary.bound.owes))
        self._link.send_control(Type.TAIL, pack_tail(begin))

    def pump(self) -> None:
        """The link takes more."""
        if self._pump is not None:
            self._pump.pump()

    def _advanced(self) -> None:
        if self._pump is not None and self._pump.caught_up:
            self._finish()

    def _finish(self) -> None:
        self._link.send_control(Type.TAIL_END, TAIL_END.pack(self._end.position, self._end.chain))
