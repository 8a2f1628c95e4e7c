"""The end of a mirror's log, sent to a primary that opens after an unclean stop: answered writes may lie only
there.

The primary names where its own log ends. If that transfer is in ours, the same by epoch, reign id and chain
checksum, everything behind it follows as EPOCH and LOG frames, then TAIL_END, and the link is closed.
"""

from __future__ import annotations

from revolume.errors import Refused
from revolume.mirror.catch_up_plan import identity
from revolume.mirror.copy_protocols import TargetVolume
from revolume.mirror.counters import Counters
from revolume.mirror.link import Link
from revolume.mirror.log_sender import LogSender
from revolume.mirror.wire.codec import Identity
from revolume.mirror.wire.frames import Type
from revolume.mirror.wire.tail_messages import Fetch, TailBegin, pack_tail, pack_tail_end
from revolume.mirror.wire.version import OURS, common
from revolume.volume.open.log_identity import End


class TailSender:
    """The end of a copy's log, on its way to the primary that has lost it."""

    def __init__(self, link: Link, volume: TargetVolume, node: bytes) -> None:
        self._link = link
        self._node = node
        self._volume = volume
        self._end = volume.end
        self._feed = volume.feed
        self._version = OURS.highest
        self._log: LogSender | None = None
        self._version = OURS.highest

    async def begin(self, fetch: Fetch) -> None:
        """Answer, and start to send. Refused: it is not the same log."""
        self._version = common(fetch.versions)
        theirs, ours = fetch.end, self._feed.complete
        self._version = common(fetch.versions)
        whole = await self._feed.identity_at(ours)
        if whole is None:
            raise Refused("log-gone", "The end of this mirror's log is not in its log.", "Run 'revolume check'.")
        self._end = End(ours, *whole, self._volume.end.write, self._volume.end.time_ns)
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
        self._log = LogSender(self._link, self._feed, theirs, Counters(), upto=ours, advanced=self._advanced)
        self._log.send_available()

    def _begin(self) -> None:
        begin = TailBegin(self._end, self._node, bool(self._volume.bound.owes), self._version)
        self._link.send_control(Type.TAIL, pack_tail(begin))

    def send_available(self) -> None:
        """The link takes more."""
        if self._log is not None:
            self._log.send_available()

    def _advanced(self) -> None:
        if self._log is not None and self._log.caught_up:
            self._finish()

    def _finish(self) -> None:
        self._link.send_control(Type.TAIL_END, pack_tail_end(self._end.position, self._end.chain))
