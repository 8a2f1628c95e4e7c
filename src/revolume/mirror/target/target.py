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
from typing import Final

from revolume.errors import Refused
from revolume.host import Host
from revolume.host.network import Listener, Wire
from revolume.host.words import spoken
from revolume.mirror.bound_peer import bind, refuse_other
from revolume.mirror.decide import Decision, Rule, unfit
from revolume.mirror.link import unbroken
from revolume.mirror.messages import (
    NOWHERE,
    Fetch,
    Hello,
    Identity,
    Pin,
    TargetState,
    Welcome,
)
from revolume.mirror.parts import Secondary, Shelf
from revolume.mirror.target_session import TargetSession
from revolume.volume.longer_tail import ANOTHER_PRIMARY

STRANGERS_MAX: Final = 16
"""Connections that have not said who they are. One more, and the oldest has to go: a source says it at once."""
HEARD_SECONDS: Final = 3.0
"""A source that lives is heard within this time; it says something every second or two."""
LOOK_SECONDS: Final = 0.1
NODE_TWICE: Final = "node-twice"


class Target:
    """See the module's text. ``tell`` takes sentences for the event log."""

    def __init__(
        self,
        host: Host,
        shelf: Shelf,
        context: ssl.SSLContext | None,
        tell: Callable[[str], None],
        source_name: str = "",
    ) -> None:
        self._host = host
        self._shelf = shelf
        self._context = context
        self._tell = tell
        self._source_name = source_name
        self._told = ""
        self._listeners: list[Listener] = []
        self._sessions: dict[TargetSession, None] = {}
        self._handshakes: dict[asyncio.Task[None], None] = {}
        self._turn = asyncio.Lock()
        self.current: TargetSession | None = None
        self.state = "waiting for its source"
        self.refusals = 0
        """Connections that were refused, since this node was started."""
        self.since_ns = host.clock.wall_ns()
        """Since when it is in this state."""

    async def listen(self, address: str) -> list[str]:
        """Take connections at an address; the addresses as bound."""
        listener = await self._host.network.listen(address, self.accept)
        self._listeners.append(listener)
        return listener.addresses

    def accept(self, wire: Wire) -> None:
        """A connection. Encrypted from its first byte, if that is asked for at all."""
        strangers = [session for session in self._sessions if _is_stranger(session)]
        if len(self._handshakes) + len(strangers) >= STRANGERS_MAX:
            self._show_out(strangers)
        if self._context is None:
            self._welcome(wire)
        else:
            task = asyncio.get_running_loop().create_task(self._secure(wire, self._context))
            self._handshakes[task] = None
            task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    def _show_out(self, strangers: list[TargetSession]) -> None:
        """The one that has stood there longest; rather one that has no certificate yet."""
        if self._handshakes:
            oldest = next(iter(self._handshakes))
            self._handshakes.pop(oldest)
            oldest.cancel()
        else:
            strangers[0].link.break_off("It said nothing, and others came.")

    async def _secure(self, wire: Wire, context: ssl.SSLContext) -> None:
        try:
            await wire.start_tls(context)
        except asyncio.CancelledError:
            wire.abort()
            raise
        except OSError as error:
            self._tell(f"A connection from {wire.peer.address} could not be secured: {spoken(error)}")
            return
        self._welcome(wire)

    def _welcome(self, wire: Wire) -> None:
        session = TargetSession(self._host, wire, self._shelf, self)
        self._sessions[session] = None
        session.start()

    # Admission

    async def admit(self, session: TargetSession, hello: Hello) -> Welcome:
        """See ``target_session.Admission``."""
        self._refuse_other_certificate(session)
        async with self._turn:
            self._refuse_second(hello.node, hello.volume)
            await self._refuse_copy((hello.epoch, hello.reign))
            reason = unfit(hello, await self._describe(hello))
            if reason is not None:  # told before anybody is fenced for it
                raise Refused(reason.rule.spoken, reason.reason, reason.hint)
            await self._fence()
            await self._drop_half(hello)
            if self._shelf.secondary is not None:
                await self._shelf.secondary.settle_base()
            self.current = session
            return await self._describe(hello)

    async def admit_fetch(self, session: TargetSession, fetch: Fetch) -> Secondary:
        """See ``target_session.Admission``."""
        self._refuse_other_certificate(session)
        async with self._turn:
            self._refuse_superseded(fetch)
            self._refuse_second(fetch.node, fetch.volume)
            await self._refuse_copy(None)
            await self._fence()
            secondary = self._shelf.secondary
            if secondary is None or secondary.volume_id != fetch.volume:
                raise Refused("other-volume", "This mirror holds nothing of that volume.", "Name its directory.")
            if fetch.expected not in (bytes(16), self._shelf.node):
                raise Refused(
                    Rule.MEMBER_REPLACED.spoken, "The node that answers holds another copy of the volume than the "
                    "one that is asked for its log.", "Bring that copy back.",
                )  # fmt: skip
            return secondary

    async def admit_examine(self, session: TargetSession, asked: Fetch) -> Welcome:
        """See ``target_session.Admission``."""
        async with self._turn:
            return await self._describe(asked)

    def _refuse_other_certificate(self, session: TargetSession) -> None:
        secondary = self._shelf.secondary
        wanted = self._source_name or (secondary.bound.source_name if secondary is not None else "")
        refuse_other(session.link.peer, wanted)

    def _refuse_superseded(self, fetch: Fetch) -> None:
        """Refused if another node feeds us that volume: that one is its primary now."""
        source = self.current.hello if self.current is not None else None
        if source is not None and source.volume == fetch.volume and source.node != fetch.node:
            raise Refused(
                ANOTHER_PRIMARY, f"This mirror is fed by another node, {source.name} in opening {source.epoch}.",
                "Serve the one that is the primary; make this one its mirror, in an empty directory.",
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

    def _known_epoch(self) -> tuple[int, bytes]:
        """The newest opening of which a transfer has been stored here, or that was named when the base began:
        what a source merely says of itself otherwise is nothing that is known."""
        secondary = self._shelf.secondary
        return (NOWHERE.epoch, NOWHERE.reign) if secondary is None else secondary.known_epoch

    async def _fence(self) -> None:
        """The session before: what it has sent is stored, what it sends from now on is not."""
        old, self.current = self.current, None
        if old is None:
            return
        old.link.drain()
        old.link.break_off("It was replaced by a newer session of the same source.")
        await old.link.finished()

    async def _drop_half(self, hello: Hello) -> None:
        """Part of a write was the last that came of another opening: that source may not have it any more, and
        has gone on otherwise. Nothing was promised of it; if it is still there it is sent again."""
        secondary = self._shelf.secondary
        if secondary is None or secondary.end.position == secondary.received:
            return
        if (hello.volume, hello.epoch) != (secondary.volume_id, secondary.end.epoch):
            await unbroken(self._shelf.drop_half())

    async def _describe(self, hello: Hello | Fetch) -> Welcome:
        secondary = self._shelf.secondary
        epoch, reign = self._known_epoch()
        if secondary is None:
            if isinstance(hello, Hello):
                self._shelf.fit(hello.segment_blocks)
            return Welcome(
                TargetState.EMPTY, self._shelf.segment_blocks, epoch, reign, self._shelf.node, bytes(16),
                NOWHERE, 0, 0, 0, (0, 0), None, None, 0, self._shelf.room(),
            )  # fmt: skip
        found = None
        if hello.volume == secondary.volume_id:
            found = await secondary.feed.identity_at(hello.end.position)
        agreed, base = secondary.agreed, secondary.base
        return Welcome(
            TargetState.WHOLE if base is None else TargetState.BASE,
            secondary.segment_blocks, epoch, reign, self._shelf.node, secondary.volume_id,
            secondary.end, secondary.durable,
            agreed.number if agreed else 0, agreed.position if agreed else 0, agreed.root if agreed else (0, 0),
            Identity(*found) if found else None,
            Pin(base.point, base.position, base.chain) if base else None,
            base.next_block if base else 0, self._shelf.room(),
        )  # fmt: skip

    async def begun(self, session: TargetSession, hello: Hello, decision: Decision) -> None:
        """See ``target_session.Admission``."""
        self._told = ""
        self.state = "mirroring"
        self.since_ns = self._host.clock.wall_ns()
        self._tell(
            f"Source {session.link.peer.address} of {hello.name}: {decision.rule.spoken}. {decision.reason}"
        )
        secondary = self._shelf.secondary
        if secondary is not None and secondary.base is None:
            await self.whole(session)

    async def whole(self, session: TargetSession) -> None:
        """See ``target_session.Admission``."""
        secondary = self._shelf.secondary
        assert secondary is not None
        if name := await bind(session.link.peer, secondary):
            self._tell(f"This mirror is bound to the source whose certificate names {name}.")

    def ended(self, session: TargetSession, reason: str) -> None:
        """See ``target_session.Admission``."""
        self._sessions.pop(session, None)
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
        self._tell(f"The {who} {session.link.peer.address} {how}: {reason}")

    async def stop(self) -> None:
        """Take no more, close what is there."""
        for listener in self._listeners:
            listener.close()
        for task in list(self._handshakes):
            task.cancel()
        for session in list(self._sessions):
            await session.link.close()
            await session.link.finished()
        for listener in self._listeners:
            await listener.wait_closed()


def _is_stranger(session: TargetSession) -> bool:
    """It has not said who it is; who has, with HELLO or FETCH, is given a session id."""
    return session.link.open and session.hello is None and not session.link.session
