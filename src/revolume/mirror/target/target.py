"""A target: it listens for the source of its volume, and lets one in at a time.

One stream per volume. The *same* node that comes again (it restarted, or lost the connection before we noticed)
replaces its old session: what that had already sent is stored, then it is cut off, and only then is it said how
far we are. Another node is refused while the old one is alive, and always if its epoch is not newer than all that
is known here. So is what calls itself the same node in another opening while the first is still heard: somebody
has started a copy of its directory.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

from revolume.errors import Refused
from revolume.host import Host
from revolume.host.network import Wire
from revolume.mirror.catch_up_plan import CatchUpPlan, Rule, refuse_by_greeting
from revolume.mirror.copy_protocols import CopyDirectory, RecalledMoment, TargetVolume
from revolume.mirror.link import finish_uncancelled
from revolume.mirror.target.bound_peer import bind, refuse_other
from revolume.mirror.target.copy_description import describe_copy
from revolume.mirror.target.in_sync_lease import InSyncLease
from revolume.mirror.target.link_listener import LinkListener
from revolume.mirror.target.target_session import TargetSession
from revolume.mirror.wire.examine_messages import Examined
from revolume.mirror.wire.greeting_messages import Hello, Welcome
from revolume.mirror.wire.recall_messages import Moments, Recall
from revolume.mirror.wire.tail_messages import Fetch
from revolume.mirror.wire.version import common
from revolume.volume.metadata.former import Former
from revolume.volume.open.tail_catch_up import ANOTHER_PRIMARY

HEARD_SECONDS: Final = 3.0
"""A source that lives is heard within this time; it says something every second or two."""
LOOK_SECONDS: Final = 0.1
NODE_TWICE: Final = "node-twice"


class Target:
    """Listens for the source of the volume in ``directory``. ``context`` for TLS; ``tell`` takes sentences for the
    event log; ``source_name``: the name that a source's certificate must have, "" for the one that the copy is
    bound to."""

    def __init__(
        self,
        host: Host,
        directory: CopyDirectory,
        context: ssl.SSLContext | None,
        tell: Callable[[str], None],
        source_name: str = "",
    ) -> None:
        self._host = host
        self._directory = directory
        self.tell = tell
        self._source_name = source_name
        self._told = ""
        self._listener = LinkListener(host, context, tell, self._session)
        self.listen, self.accept, self.stop = self._listener.listen, self._listener.accept, self._listener.stop
        self._turn = asyncio.Lock()
        self._taking_over = False
        self.on_handover: Callable[[Former], None] | None = None
        """Makes this node the primary; None: nobody does."""
        self.current: TargetSession | None = None
        self._latest: TargetSession | None = None
        self.lease = InSyncLease(host.clock)
        self._leased_by: tuple[int, bytes] | None = None
        self.state = "waiting for its source"
        self.removed = ""
        """Why a source has refused this copy as its mirror, since this node was started; "" once one has not."""
        self.refusals = 0
        """Connections that were refused, since this node was started."""
        self.since_ns = host.clock.wall_ns()
        """Since when it is in this state."""

    def _session(self, wire: Wire) -> TargetSession:
        return TargetSession(self._host, wire, self._directory, self)

    # Admission

    async def admit(self, session: TargetSession, hello: Hello) -> Welcome:
        """``target_session.Admission``."""
        self._refuse_others()
        self._refuse_other_certificate(session)
        async with self._turn:
            await finish_uncancelled(self._directory.open_again())
            self._refuse_second(hello.node, hello.volume)
            await self._refuse_copy((hello.epoch, hello.reign))
            reason = refuse_by_greeting(hello, await describe_copy(self._directory, hello))
            if reason is not None:  # told before anybody is fenced for it
                self._note_removed(hello, reason)
                raise Refused(reason.rule.label, reason.reason, reason.hint)
            await self._fence()
            await self._truncate_incomplete(hello)
            if self._directory.secondary is not None:
                await self._directory.secondary.settle_base()
                await self._directory.secondary.settle_jump()
            self.current = self._latest = session
            return await describe_copy(self._directory, hello)

    async def admit_fetch(self, session: TargetSession, fetch: Fetch) -> TargetVolume:
        """``target_session.Admission``."""
        self._refuse_others()
        self._refuse_other_certificate(session)
        async with self._turn:
            await finish_uncancelled(self._directory.open_again())
            self._refuse_superseded(fetch)
            self._refuse_second(fetch.node, fetch.volume)
            await self._refuse_copy(None)
            await self._fence()
            secondary = self._directory.secondary
            if secondary is None or secondary.volume_id != fetch.volume:
                raise Refused("other-volume", "This mirror holds nothing of that volume.", "Name its directory.")
            if fetch.expected not in (bytes(16), self._directory.node):
                raise Refused(
                    Rule.MEMBER_REPLACED.label, "The node that answers holds another copy of the volume than the "
                    "one that is asked for its log.", "Bring that copy back.",
                )  # fmt: skip
            return secondary

    async def admit_examine(self, session: TargetSession, asked: Fetch) -> Examined:
        """``target_session.Admission``."""
        self._refuse_others()
        async with self._turn:
            await finish_uncancelled(self._directory.open_again())
            return await self._directory.examined(asked)

    async def admit_moments(self, session: TargetSession, asker: Fetch) -> Moments:
        """``target_session.Admission``."""
        await self._asked_only(session)
        return self._directory.moments(common(asker.versions))

    async def admit_recall(self, session: TargetSession, asked: Recall) -> RecalledMoment:
        """``target_session.Admission``."""
        await self._asked_only(session)
        return await self._directory.open_moment(asked, self.current is not None)

    async def _asked_only(self, session: TargetSession) -> None:
        """The copy is open, for a peer that may read the volume: whose certificate its source's would have. While
        a moment is opened its source is not kept waiting."""
        self._refuse_others()
        self._refuse_other_certificate(session)
        async with self._turn:
            await finish_uncancelled(self._directory.open_again())

    def _refuse_other_certificate(self, session: TargetSession) -> None:
        secondary = self._directory.secondary
        wanted = self._source_name or (secondary.bound.source_name if secondary is not None else "")
        refuse_other(session.link.peer, wanted)

    def _refuse_superseded(self, fetch: Fetch) -> None:
        """Refused if another node feeds us that volume: that one is its primary now."""
        source = self.current.hello if self.current is not None else None
        if source is not None and source.volume == fetch.volume and source.node != fetch.node:
            raise Refused(
                ANOTHER_PRIMARY, f"This mirror is fed by another node, {source.name} in opening {source.epoch}.",
                "Serve the one that is the primary; make this one its mirror with 'revolume demote DIR'.",
            )  # fmt: skip

    def _refuse_second(self, node: bytes, volume: bytes) -> None:
        current = self.current
        if current is None or current.hello is None:
            return
        if (current.hello.node, current.hello.volume) != (node, volume):
            raise Refused(
                "second-source",
                f"This mirror is fed by another source, {current.hello.name} from {current.link.peer.address}.",
                "Stop that one first, or wait until it is known to be gone.",
            )

    async def _refuse_copy(self, opening: tuple[int, bytes] | None) -> None:
        """Refused if the session that is to be replaced is of another opening (``None``: of one that is to come)
        and its source still speaks: two processes have the same node's directory."""
        current = self.current
        if current is None or current.hello is None or (current.hello.epoch, current.hello.reign) == opening:
            return
        if await self._still_speaks(current):
            raise Refused(
                NODE_TWICE,
                f"This mirror is fed by the same node already, {current.hello.name} from "
                f"{current.link.peer.address}, which is heard: one of the two runs on a copied directory.",
                "Stop one of them; if the other was stopped just now, try again in a moment.",
            )

    async def _still_speaks(self, session: TargetSession) -> bool:
        """What had been sent before does not count."""
        clock, link = self._host.clock, session.link
        link.drain()
        heard, since = link.bytes_in, clock.monotonic_ns()
        while link.open and link.bytes_in == heard and clock.monotonic_ns() - since < HEARD_SECONDS * 1e9:
            await clock.sleep(LOOK_SECONDS)
        return link.open and link.bytes_in != heard

    async def _fence(self) -> None:
        """The session before: what it has sent is stored, what it sends from now on is not. One that has ended may
        still be storing."""
        old, self.current = self.current, None
        if old is not None:
            old.link.drain()
            old.link.break_off("It was replaced by a newer session of the same source.")
        if self._latest is not None:
            await self._latest.link.finished()
            self._latest = None

    async def _truncate_incomplete(self, hello: Hello) -> None:
        """Part of a write was the last that came of another opening: that source may not have it any more, and
        has gone on otherwise. Nothing was promised of it; if it is still there it is sent again."""
        secondary = self._directory.secondary
        if secondary is None or secondary.end.position == secondary.received:
            return
        if (hello.volume, hello.epoch) != (secondary.volume_id, secondary.end.epoch):
            await finish_uncancelled(self._directory.truncate_incomplete())

    def handed_over(self, session: TargetSession, former: Former) -> Callable[[], None]:
        """``target_session.Admission``."""
        take_over = self.on_handover
        if take_over is None or session is not self.current:
            raise Refused("handover-refused", "This node can't take over.", "Promote it with 'revolume promote'.")
        self._taking_over = True
        return partial(take_over, former)

    def _note_removed(self, hello: Hello, reason: CatchUpPlan) -> None:
        """A source of another volume that comes to this address says nothing of this copy."""
        copy = self._directory.secondary
        own = copy is not None and copy.base is None and copy.volume_id == hello.volume
        if reason.rule == Rule.MEMBER_REPLACED and own:
            self.removed = f"Its source does not count on it: {reason.reason}"

    def _refuse_others(self) -> None:
        if self._taking_over:
            raise Refused("taking-over", "This node is becoming the primary.", "Try again in a moment.")

    async def begun(self, session: TargetSession, hello: Hello, plan: CatchUpPlan) -> None:
        """``target_session.Admission``."""
        self._told = self.removed = ""
        if plan.rule == Rule.BASE or self._leased_by != (hello.epoch, hello.reign):
            self.lease.drop()
        self._leased_by = hello.epoch, hello.reign
        self.state = "mirroring"
        self.since_ns = self._host.clock.wall_ns()
        source = f"Source {session.link.peer.address} of {hello.name}"
        self.tell(f"{source}: connected, rule {plan.rule.label}. {plan.reason}")
        secondary = self._directory.secondary
        if secondary is not None and secondary.base is None:
            await self.whole(session)

    async def whole(self, session: TargetSession) -> None:
        """``target_session.Admission``."""
        secondary = self._directory.secondary
        assert secondary is not None
        if name := await bind(session.link.peer, secondary):
            self.tell(f"This mirror is bound to the source whose certificate names {name}.")

    def ended(self, session: TargetSession, reason: str) -> None:
        """``target_session.Admission``."""
        self._listener.ended(session)
        if session.examines:
            return
        refused = session.link.refusal is not None
        self.refusals += refused
        if self.current is session:
            self.current = None
        if self.current is None:
            self.state = f"waiting for its source: {reason}"
            self.since_ns = self._host.clock.wall_ns()
        if refused and self._told == reason:  # a source that is refused comes again and again
            return
        self._told = reason if refused else ""
        who = "source" if session.hello is not None else "connection"
        how = "is refused" if refused else "is gone"
        self.tell(f"The {who} {session.link.peer.address} {how}: {reason}")
