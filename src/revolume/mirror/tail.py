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
from revolume.mirror.messages import TAIL_END, Fetch, Identity, pack_end
from revolume.mirror.parts import Secondary
from revolume.mirror.pump import Pump


class Tail:
    """See the module's text."""

    def __init__(self, link: Link, secondary: Secondary) -> None:
        self._link = link
        self._end = secondary.end
        self._feed = secondary.feed
        self._pump: Pump | None = None

    async def begin(self, fetch: Fetch) -> None:
        """Answer, and start to send. Refused: it is not the same log."""
        theirs = fetch.end
        if theirs.position < self._end.position:
            found = await self._feed.identity_at(theirs.position)
        else:
            found = (self._end.epoch, self._end.reign, self._end.chain)
        if theirs.position > self._end.position:  # it has more than we have, and its own word for it
            self._link.send_control(Type.TAIL, pack_end(self._end))
            self._finish()
            return
        if found is None or Identity(*found) != identity(theirs):
            raise Refused(
                "diverged",
                f"The log that ends at {theirs.position} is not the one that this mirror holds.",
                "Look at both before one of them is opened.",
            )
        self._link.send_control(Type.TAIL, pack_end(self._end))
        end = self._end.position
        if theirs.position == end:
            self._finish()
            return
        self._pump = Pump(self._link, self._feed, theirs, Counters(), upto=end, advanced=self._advanced)
        self._pump.pump()

    def pump(self) -> None:
        """The link takes more."""
        if self._pump is not None:
            self._pump.pump()

    def _advanced(self) -> None:
        if self._pump is not None and self._pump.caught_up:
            self._finish()

    def _finish(self) -> None:
        self._link.send_control(Type.TAIL_END, TAIL_END.pack(self._end.position, self._end.chain))
