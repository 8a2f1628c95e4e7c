"""One mirror, at its source: it is connected to for as long as the source runs, and each connection is a session.

After a loss it is tried again soon, and less often while nothing gets through; a refusal says that somebody has to
do something, so it is tried rarely, and its sentence is the mirror's status. No sentence is told twice in a row.
``Progress`` holds the state.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Final

from revolume.blocks.numbers import Position, WriteNumber
from revolume.errors import Refused, RevolumeError, TimedOut
from revolume.host import Host
from revolume.host.clock import within
from revolume.host.error_text import error_text
from revolume.host.network import Wire
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.catch_up_plan import CatchUpPlan, Rule
from revolume.mirror.mirror_status import MirrorStatus
from revolume.mirror.source.comparison import Comparison
from revolume.mirror.source.handing_over import Handed
from revolume.mirror.source.progress import Phase, Progress
from revolume.mirror.source.progress_status import progress_status
from revolume.mirror.source.source_session import SourceSession
from revolume.mirror.storage_protocols import SourceVolume
from revolume.mirror.wire.greeting_messages import Welcome
from revolume.mirror.wire.handover_messages import Handover
from revolume.mirror.wire.version import COMPARISON
from revolume.pace.pacer import Pacer
from revolume.volume.members.mirror import Mirror
from revolume.volume.metadata.manifest_state import PinnedSnapshot
from revolume.volume.open.tail_catch_up import ANOTHER_PRIMARY
from revolume.volume.state.events import EventKind

BACKOFF_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
REFUSED_SECONDS: Final = 5.0
GAVE_WAY_SECONDS: Final = (2.0, 15.0, 60.0, 300.0)
"""After the log had no room for what a base needs: one that is begun anew reads and sends all of it again."""
CONNECT_SECONDS: Final = 10.0
OF_A_RIVAL: Final = frozenset({
    ANOTHER_PRIMARY, "is-primary", "second-source",
    *(rule.label for rule in (Rule.STALE_EPOCH, Rule.RIVAL_EPOCH, Rule.DIVERGED, Rule.TARGET_AHEAD)),
})  # fmt: skip
"""Refusals after which another node may be primary."""


class MirrorSource:
    """The links to one mirror, one after the other. ``address`` is where it is, ``node`` this node's id,
    ``context`` for TLS. ``tell`` takes sentences; ``note`` takes them with their kind, in its place."""

    def __init__(
        self,
        host: Host,
        volume: SourceVolume,
        mirror: Mirror,
        address: str,
        node: bytes,
        context: ssl.SSLContext | None,
        tell: Callable[[str], None],
        note: Callable[[str, EventKind], None] | None = None,
        pacer: Pacer | None = None,
    ) -> None:
        self._host = host
        self._volume = volume
        self._mirror = mirror
        self.address = address
        self._node = node
        self._context = context
        self._note = note or (lambda sentence, kind: tell(sentence))
        self._told = ""
        self._told_kind: EventKind | None = None
        self._pausing: asyncio.Task[None] | None = None
        self._session: SourceSession | None = None
        self._task: asyncio.Task[None] | None = None
        self.progress = Progress(mirror, volume.feed, f"Connecting to {address}.", self._now_ns, pacer)

    @property
    def _now_ns(self) -> int:
        return self._host.clock.monotonic_ns()

    def start(self) -> None:
        """Connect, and go on doing so."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End in order: what was sent arrives."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._session is not None:
            await self._session.link.close()
            await self._session.link.finished()

    async def again(self) -> None:
        """Whatever was agreed on with the node at the address holds no more: greet it anew, at once."""
        if self._session is not None:
            await self._session.link.close()
        if self._pausing is not None:
            self._pausing.cancel()

    async def _run(self) -> None:
        while True:
            self.progress.begin_attempt(self._now_ns)
            try:
                wire = await self._connect()
            except (OSError, RevolumeError) as error:
                sentence = f"Mirror {self._mirror.name} at {self.address} cannot be reached: {error_text(error)}"
                self.progress.attempt_failed(sentence, self._now_ns)
                if self._told_kind is not EventKind.MIRROR_LOST:  # that it is lost is told, and why
                    self._tell_once(sentence, EventKind.MIRROR_LOST)
            else:
                await self._mirror_until_lost(wire)
            self._pausing = asyncio.ensure_future(self._host.clock.sleep(self._pause_seconds()))
            try:
                await asyncio.wait([self._pausing])
            finally:
                self._pausing.cancel()

    async def _connect(self) -> Wire:
        peer = self._mirror.peer or None
        connecting = self._host.network.connect(self.address, tls=self._context, server_hostname=peer)
        try:
            return await within(self._host.clock, CONNECT_SECONDS, connecting)
        except TimeoutError:
            raise ConnectionError(f"no answer within {CONNECT_SECONDS:.0f} seconds") from None

    async def _mirror_until_lost(self, wire: Wire) -> None:
        """One session, until it ends."""
        progress = self.progress
        session = SourceSession(self._host, wire, self._volume, progress, self._node, self._planned)
        self._session = session
        session.start()
        reason = await session.ended_because
        if progress.phase is Phase.JOINED and not session.goes_on:
            await self._volume.differences.link_lost(self._mirror)
        await session.link.finished()
        self._session = None
        if session.goes_on and session.link.refusal is None:
            progress.become_disconnected(session.goes_on, self._now_ns)
            self._note(f"Mirror {self._mirror.name}: {session.goes_on}", EventKind.NOTE)
        else:
            self._note_end(session, reason)

    def _note_end(self, session: SourceSession, reason: str) -> None:
        """It ended otherwise than because it had done what it began for."""
        progress = self.progress
        base_gone = progress.phase is Phase.SENDING_BASE and self._volume.base_point(self._mirror) is None
        refused = session.link.refusal is not None
        ours = progress.plan is not None and progress.plan.rule.refuses
        self._mirror.rival = self._mirror.rival or _of_a_rival(session)
        verb = "is refused" if ours else "refuses" if refused else "is lost"
        sentence = f"Mirror {self._mirror.name} at {self.address} {verb}: {reason}"
        if refused:
            progress.become_refused(sentence, self._now_ns)
        else:
            progress.become_disconnected(sentence, self._now_ns)
        if base_gone:
            self._note_base_gone()
        if not session.handing_over.is_taken:
            self._tell_once(sentence, EventKind.MIRROR_REFUSED if refused or ours else EventKind.MIRROR_LOST)

    def _planned(self, plan: CatchUpPlan, base_plan: BasePlan | None, welcome: Welcome) -> None:
        if plan.rule.refuses:
            return
        if base_plan is not None:
            self._note(base_plan.sentence(self._mirror.name, welcome.room), EventKind.NOTE)
        mirror = f"Mirror {self._mirror.name} at {self.address}"
        sentence = f"{mirror}: connected, rule {plan.rule.label}. {plan.reason}"
        self.progress.sentence = sentence
        self._tell_once(sentence, EventKind.MIRROR_BACK)

    def _tell_once(self, sentence: str, kind: EventKind) -> None:
        if sentence != self._told:
            self._told, self._told_kind = sentence, kind
            self._note(sentence, kind)

    def _note_base_gone(self) -> None:
        """The base gave way to the log. (A lost link is not that: the base goes on where it was.)"""
        count = self.progress.base_gave_way()
        again = "" if count == 1 else f" for the {count}. time in a row"
        self._note(
            f"The base of mirror {self._mirror.name} gave way to the log{again}: it is begun anew in about "
            f"{_gave_way_seconds(count):.0f} s.",
            EventKind.TROUBLE,
        )

    def _pause_seconds(self) -> float:
        """Before the next attempt; a quarter of it is left to chance, so that many mirrors do not come at once."""
        step = min(max(self.progress.failures - 1, 0), len(BACKOFF_SECONDS) - 1)
        seconds = REFUSED_SECONDS if self.progress.refused else BACKOFF_SECONDS[step]
        if self.progress.bases_given_way:
            seconds = max(seconds, _gave_way_seconds(self.progress.bases_given_way))
        return seconds * (0.75 + self._host.entropy.token(1)[0] / 1024)

    async def speaks(self, seconds: float) -> bool:
        """Whether something that it says now is heard within so many seconds; what was heard before does not
        count."""
        session, clock = self._session, self._host.clock
        if session is None:
            return False
        heard, until_ns = session.link.bytes_in, clock.monotonic_ns() + int(seconds * 1e9)
        while session.link.open and session.link.bytes_in == heard and clock.monotonic_ns() < until_ns:
            await clock.sleep(0.01)
        return session.link.open and session.link.bytes_in != heard

    def comparison(self) -> Comparison:
        """The present session's. TimedOut: the mirror is not connected, and for how long; Refused: its release
        can't be compared, or it has not joined."""
        session, name = self._session, self._mirror.name
        if session is None or not self.progress.connected:
            seconds = (self._now_ns - self.progress.lost_ns) // 10**9
            raise TimedOut(
                "mirror-unreachable", f"Mirror {name} at {self.address} has not been reached for {seconds} s.",
                "Bring it back, and verify it then.",
            )  # fmt: skip
        if self.progress.phase is not Phase.JOINED:
            raise Refused(
                "mirror-not-joined", f"Mirror {name} is being brought up to date: {self.progress.sentence}",
                "Verify it when it has joined.",
            )  # fmt: skip
        if session.comparison.version < COMPARISON:
            raise Refused(
                "mirror-older", f"The release of Revolume at mirror {name} can't compare.",
                "Install the newer one there.",
            )  # fmt: skip
        return session.comparison

    # Handing over

    async def hand_over(self, handover: Handover, seconds: float) -> Handed:
        """The mirror is to be the primary; what came of it within so many seconds."""
        session = self._session
        if session is None or self.progress.phase is not Phase.JOINED:
            return Handed.NOT_ASKED
        try:
            return await within(self._host.clock, seconds, session.handing_over.hand_over(handover))
        except TimeoutError:
            return Handed.SILENT

    # Status

    def status(
        self,
        position: Position = Position(0),
        snapshots: Sequence[PinnedSnapshot] = (),
        oldest: WriteNumber = WriteNumber(0),
    ) -> MirrorStatus:
        """Plain values, now. ``position``: the last that was appended here; ``snapshots``: the volume's, and
        ``oldest`` the first write that it retains."""
        return progress_status(
            self.progress,
            address=self.address,
            position=position,
            snapshots=snapshots,
            oldest=oldest,
            kept=self._volume.kept_status(self._mirror),
            now_ns=self._now_ns,
            boot_ns=self._host.clock.boot_ns(),
        )

    @property
    def connected(self) -> bool:
        """It is being mirrored to, or brought up to date."""
        return self.progress.connected

    @property
    def heard(self) -> bool:
        """It is being mirrored to, and has said something lately."""
        return self._session is not None and self.progress.connected and not self._session.link.silent


def _gave_way_seconds(count: int) -> float:
    return GAVE_WAY_SECONDS[min(count, len(GAVE_WAY_SECONDS)) - 1]


def _of_a_rival(session: SourceSession) -> bool:
    """Whether it was refused as one is by a copy that may have had another primary since."""
    refusal, plan = session.link.refusal, session.progress.plan
    said = refusal is not None and refusal.code in OF_A_RIVAL
    return said or (plan is not None and plan.rule.label in OF_A_RIVAL)
