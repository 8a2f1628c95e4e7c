"""A peer that only asks: what this node is and has, which moments it holds, for one of them. Nobody is cut off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from revolume.host import Host
from revolume.mirror.copy_protocols import RecalledMoment
from revolume.mirror.link import Link
from revolume.mirror.target.recall_server import RecallServer
from revolume.mirror.wire.examine_messages import Examined, as_welcome, pack_examined
from revolume.mirror.wire.frames import Type, body_of
from revolume.mirror.wire.greeting_messages import pack_welcome
from revolume.mirror.wire.recall_messages import (
    Moments,
    Recall,
    pack_moments,
    unpack_moments_ask,
    unpack_recall,
)
from revolume.mirror.wire.tail_messages import Fetch, unpack_fetch
from revolume.mirror.wire.version import MEMBERS


class Inquiry:
    """Of one session. ``examined``, ``moments`` and ``moment`` are the server's word on what may be told;
    ``recalling`` is called when a moment is open, before that is said."""

    def __init__(
        self,
        link: Link,
        *,
        examined: Callable[[Fetch], Awaitable[Examined]],
        moments: Callable[[Fetch], Awaitable[Moments]],
        moment: Callable[[Recall], Awaitable[RecalledMoment]],
        recalling: Callable[[], None],
    ) -> None:
        self._link = link
        self._examined = examined
        self._moments = moments
        self._moment = moment
        self._recalling = recalling
        self._recall: RecallServer | None = None
        self.begun = False

    def begin(self, kind: Type, frame: memoryview) -> None:
        """EXAMINE, MOMENTS_ASK or RECALL, in the place of a greeting; nothing is received meanwhile."""
        self.begun = True
        match kind:
            case Type.EXAMINE:
                self._link.spawn(self._examine(unpack_fetch(body_of(frame))))
            case Type.MOMENTS_ASK:
                self._link.spawn(self._tell_moments(unpack_moments_ask(body_of(frame))))
            case _:
                self._link.spawn(self._hold_moment(unpack_recall(body_of(frame))))

    def frame(self, kind: Type, frame: memoryview) -> None:
        """A question about the moment that is open."""
        assert self._recall is not None
        self._recall.frame(kind, body_of(frame))

    async def _examine(self, asked: Fetch) -> None:
        found = await self._examined(asked)
        if found.version >= MEMBERS:
            self._link.send_control(Type.EXAMINED, pack_examined(found))
        else:
            self._link.session = draw_session(self._link.host)
            self._link.send_control(Type.WELCOME, pack_welcome(as_welcome(found)))
        await self._link.close()

    async def _tell_moments(self, asker: Fetch) -> None:
        self._link.send_control(Type.MOMENTS, pack_moments(await self._moments(asker)))
        await self._link.close()

    async def _hold_moment(self, asked: Recall) -> None:
        self._recall = RecallServer(self._link, await self._moment(asked))
        self._recalling()
        self._link.session = draw_session(self._link.host)
        self._link.welcome()
        self._recall.begin()
        self._link.go_on()

    def ended(self) -> None:
        """The session is over."""
        if self._recall is not None:
            self._recall.ended()


def draw_session(host: Host) -> int:
    """A session id that nobody guesses; never 0."""
    return int.from_bytes(host.entropy.token(8), "little") or 1
