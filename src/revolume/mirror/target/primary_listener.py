"""A primary's listener: it says what it is and has to whoever asks, and is nobody's mirror."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import NoReturn

from revolume.errors import Refused
from revolume.host import Host
from revolume.host.network import Wire
from revolume.mirror.catch_up_plan import CatchUpPlan
from revolume.mirror.copy_protocols import TargetVolume
from revolume.mirror.held_moments import HeldMoment, listed_moments, open_moment
from revolume.mirror.target.copy_directory import refuse_other_volume
from revolume.mirror.target.in_sync_lease import InSyncLease
from revolume.mirror.target.link_listener import LinkListener
from revolume.mirror.target.target_session import TargetSession
from revolume.mirror.volume_examination import examine_volume
from revolume.mirror.wire.examine_messages import Examined, Standing
from revolume.mirror.wire.greeting_messages import Hello, Welcome
from revolume.mirror.wire.recall_messages import Moments, Recall
from revolume.mirror.wire.tail_messages import Fetch
from revolume.mirror.wire.version import common
from revolume.volume.metadata.former import Former
from revolume.volume.open.log_identity import End
from revolume.volume.open.tail_catch_up import ANOTHER_PRIMARY
from revolume.volume.primary import Volume

ITSELF = "mirror-is-itself"


class PrimaryListener:
    """Of the primary ``volume``, whose log ends at ``end()``; a ``target_session.Admission``."""

    def __init__(
        self,
        host: Host,
        volume: Volume,
        end: Callable[[], End],
        context: ssl.SSLContext | None,
        tell: Callable[[str], None],
    ) -> None:
        self._host = host
        self._volume = volume
        self._end = end
        self.tell = tell
        self._told = ""
        self.lease = InSyncLease(host.clock)  # it is nobody's mirror, and holds none
        self._listener = LinkListener(host, context, tell, self._session)
        self.listen = self._listener.listen
        self.stop = self._listener.stop

    def _session(self, wire: Wire) -> TargetSession:
        return TargetSession(self._host, wire, None, self)

    @property
    def _here(self) -> str:
        return f"This node is the primary of {self._volume.name}, in opening {self._volume.epoch}"

    async def admit(self, session: TargetSession, hello: Hello) -> Welcome:
        """Refused."""
        if hello.node == self._volume.manifest.state.node:
            raise Refused(ITSELF, "This node itself answers at that address.", "Name the address of another node.")
        raise Refused(
            "is-primary", f"{self._here}: it is nobody's mirror.",
            "If another node has become primary meanwhile, serve that one; else name the address of a mirror.",
        )  # fmt: skip

    async def admit_fetch(self, session: TargetSession, fetch: Fetch) -> TargetVolume:
        """Refused."""
        if fetch.volume != self._volume.volume_id:
            raise Refused("other-volume", f"{self._here}, and has nothing of that volume.", "Name its mirror.")
        raise Refused(
            ANOTHER_PRIMARY, f"{self._here}: it has taken over.",
            "Serve the one that is the primary; make this one its mirror with 'revolume demote DIR'.",
        )  # fmt: skip

    async def admit_examine(self, session: TargetSession, asked: Fetch) -> Examined:
        """What it is and has."""
        volume, last = self._volume, self._volume.retained.newest
        horizon = volume.folder.horizon
        agreed = (last.number, last.position) if last is not None else (horizon.point, horizon.position)
        return await examine_volume(
            volume, asked, standing=Standing.PRIMARY, end=self._end(), agreed=agreed, whole=True,
            why_not=f"{volume.name} is a primary already.",
        )  # fmt: skip

    async def admit_moments(self, session: TargetSession, asker: Fetch) -> Moments:
        """The moments that it holds."""
        return listed_moments(self._volume, common(asker.versions))

    async def admit_recall(self, session: TargetSession, asked: Recall) -> HeldMoment:
        """One of them. Refused: it is another volume's, or suspect."""
        refuse_other_volume(self._volume.volume_id, self._volume.name, asked.asker)
        return await open_moment(self._volume, asked, primary=True, fed=True)

    def handed_over(self, session: TargetSession, former: Former) -> NoReturn:
        """Nobody is admitted, so nobody hands over."""
        raise AssertionError("a primary is nobody's mirror")

    async def begun(self, session: TargetSession, hello: Hello, plan: CatchUpPlan) -> NoReturn:
        """Nobody is admitted, so nothing begins."""
        raise AssertionError("a primary is nobody's mirror")

    async def whole(self, session: TargetSession) -> NoReturn:
        """Nobody is admitted."""
        raise AssertionError("a primary is nobody's mirror")

    def ended(self, session: TargetSession, reason: str) -> None:
        """``target_session.Admission``. Who is refused comes again and again, and is told of once."""
        self._listener.ended(session)
        if session.link.refusal is not None and self._told != reason:
            self._told = reason
            self.tell(f"The connection {session.link.peer.address} is refused: {reason}")
