"""A running primary hands over to one of its mirrors, and becomes a mirror of that one.

    refused     while the mirror, or another one on which answers rest, is not there and near the end
    held        clients' writes wait, in no log; a last point is made, and the mirrors come to the log's end
    ended       nothing is appended any more, by nobody; the mirrors have all of it, durably, and agree
    demoted     the directory is a mirror's, durably, and says to whom it hands over: nobody is the primary now
    HANDOVER    the mirror has everything, says so (HANDED_OVER), and is promoted
    a mirror    clients' connections end, without an answer to what was held; it is served as a mirror, to which
                the new primary connects

Until *demoted* this is the primary, which goes on if anything is in the way. Behind it, a mirror that has refused,
or was not asked, knows of nothing: this node is promoted again. One that has not answered may have been promoted,
so this node stays a mirror: ``status`` says what to do, and ``promote`` asks that mirror first. So there is at no
time more than one primary, and what was answered is in both logs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from revolume.api.schemas import SwitchedSchema
from revolume.errors import Refused, TimedOut
from revolume.host.clock import within
from revolume.mirror.mirror_status import MirrorState, MirrorStatus
from revolume.mirror.source.handing_over import Handed
from revolume.mirror.source.mirror_source import MirrorSource
from revolume.mirror.wire.handover_messages import Handover
from revolume.mirror.wording import size_words
from revolume.node.demotion import as_mirror
from revolume.node.primary_role import PrimaryRole, open_promoted
from revolume.node.role import Role
from revolume.node.role_changes import GRACE_S, RoleChanges
from revolume.node.secondary_role import SecondaryRole, open_secondary_role
from revolume.node.service_options import ServiceOptions, listener_of
from revolume.volume.members.membership import reached_at
from revolume.volume.members.mirror import Mirror
from revolume.volume.metadata.verified import VerifyOutcome
from revolume.volume.open.demote import demote_open

BEHIND_BYTES_MAX: Final = 8 << 20
"""Writes are held while a mirror catches up: one that lacks more than this is waited for by whoever asks."""
HEARD_S: Final = 3.0
LEVEL_S: Final = 10.0
ANSWER_S: Final = 10.0
CONNECT_S: Final = 15.0
"""Within this time the new primary is expected to connect; it is one whether it does or not."""
AWAY: Final = "is away: nothing is heard of it"
_LOOK_S: Final = 0.005


class Switchover:
    """Of a running service's volume."""

    def __init__(self, changes: RoleChanges) -> None:
        self._changes = changes

    async def switch_over(self, current: Callable[[], Role], name: str, listen: str | None) -> SwitchedSchema:
        """Hand over to the mirror ``name``, and go on as its mirror, listening at ``listen`` or where it is
        recorded. NotFound: there is no such mirror. Refused: nothing has changed. TimedOut: the mirror has not
        answered."""
        async with self._changes.turn:
            role = current()
            if not isinstance(role, PrimaryRole):
                raise Refused(
                    "is-mirror", f"{role.name} is a mirror here, and has nothing to hand over.",
                    "Ask its source; or 'revolume promote' makes this one the primary.",
                )  # fmt: skip
            role.volume.mirrors.get(name)
            role.clones.refuse_any("become a mirror")
            options = as_mirror(self._changes.options, listen, role.name)
            address = _reached(options, role.name)
            _refuse_unready(role, name)
            await _refuse_silent(role, name)
            return await self._handed_over(role, name, options, address)

    async def _handed_over(
        self, role: PrimaryRole, name: str, options: ServiceOptions, address: str
    ) -> SwitchedSchema:
        volume, source = role.volume, role.links.get(name)
        assert source is not None
        volume.gate.close()
        try:
            await self._level(role, name)
        except BaseException:
            volume.gate.open()
            raise
        try:
            await volume.end_log()
            await self._level(role, name)
            demoted = await demote_open(volume, name)
            await role.stop_listening()  # it would refuse the new primary, which would not come again soon
            handed = await source.hand_over(
                Handover(volume.position, volume.log.appender.chain, demoted.agreed.point, address), ANSWER_S
            )
        except BaseException:
            await self._again(role)
            raise
        if handed in (Handed.REFUSED, Handed.NOT_ASKED):
            reason = source.progress.sentence if handed is Handed.NOT_ASKED else ""
            await self._again(role)
            raise Refused(
                "not-taken", f"Mirror {name} does not take over: {handed.value}. {reason}".rstrip(),
                "This node is the primary as before; 'revolume status' says how the mirror is.",
            )  # fmt: skip
        await role.links.stop()
        mirror = await self._as_mirror(role, options)
        epoch = await self._connected(mirror)
        if handed is Handed.SILENT and not epoch:
            raise _unanswered(role.name, name, demoted.agreed.point)
        told = (
            f"{name} is the primary of {role.name} now, opening {epoch}, and this node is its mirror."
            if epoch
            else f"{name} has said that it takes {role.name} over at cp{demoted.agreed.point}, and has not "
            f"connected to this node yet, which listens at {mirror.listening}. See 'revolume status' there: "
            "if it is no primary, promote one of the two."
        )
        self._changes.tell(told)
        return SwitchedSchema(
            name=role.name, to=name, epoch=epoch, point=demoted.agreed.point, listening=mirror.listening, told=told
        )

    async def _level(self, role: PrimaryRole, name: str) -> None:
        """Return once this mirror and all required ones have everything, durably. Refused: not soon enough."""
        volume, clock = role.volume, self._changes.host.clock

        async def come() -> None:
            while True:
                if not volume.point_maker.closed:
                    await volume.point_maker.cut()
                behind = [m for m in _awaited(role, name) if not _is_level(role, m)]
                if not behind:
                    return
                for mirror in behind:
                    mirror.ask_durable(volume.position)
                await clock.sleep(_LOOK_S)

        try:
            await within(clock, LEVEL_S, come())
        except TimeoutError:
            late = ", ".join(m.name for m in _awaited(role, name) if not _is_level(role, m))
            raise Refused(
                "mirror-behind", f"Mirror {late} did not come to the end of the log within {LEVEL_S:.0f} seconds.",
                "Nothing has changed, and writes go on. Try again when it is in sync.",
            ) from None  # fmt: skip

    async def _again(self, role: PrimaryRole) -> None:
        """Nobody was told to take over: this is the primary again, whatever its directory says by now."""
        changes, options = self._changes, replace(self._changes.options, size=None)
        changes.exports.withdraw(
            Refused("reopening", "The volume is being opened again.", "Try again in a moment.")
        )
        await changes.server.hang_up(GRACE_S)
        demoted = bool(role.volume.manifest.state.handed_to)
        await role.close()
        if not demoted:
            await changes.serve_again()
            return
        try:
            changes.become(await open_promoted(changes.host, options, changes.tell))
        except BaseException:
            await changes.serve_again()
            raise

    async def _as_mirror(self, role: PrimaryRole, options: ServiceOptions) -> SecondaryRole:
        changes = self._changes
        changes.exports.withdraw(Refused("demoting", "Another node takes over.", "Connect to that one."))
        await changes.server.hang_up(GRACE_S)
        changes.options = options
        try:
            await role.close()
            mirror = await open_secondary_role(changes.host, options, changes.tell)
        except BaseException:
            await changes.serve_again()
            raise
        changes.become(mirror)
        return mirror

    async def _connected(self, mirror: SecondaryRole) -> int:
        """The opening of the new primary, once it has connected; 0: it has not, for some time."""
        clock = self._changes.host.clock

        async def connected() -> int:
            while True:
                current = mirror.target.current if mirror.target is not None else None
                if current is not None and current.hello is not None:
                    return current.hello.epoch
                await clock.sleep(0.05)

        try:
            return await within(clock, CONNECT_S, connected())
        except TimeoutError:
            return 0


def _unanswered(volume: str, name: str, point: int) -> TimedOut:
    return TimedOut(
        "handover-unanswered",
        f"Mirror {name} was told to take over, and has not answered: it may be the primary, or not. {volume} is a "
        f"mirror here. Nothing is lost: both have everything, up to cp{point}.",
        f"Look at the status of {name}: if it is a primary, all is done. Else promote one of the two: this one "
        "with 'revolume promote DIR', which asks the other first.",
    )


def _awaited(role: PrimaryRole, name: str) -> list[Mirror]:
    return [mirror for mirror in role.volume.mirrors if mirror.name == name or mirror.required]


def _is_level(role: PrimaryRole, mirror: Mirror) -> bool:
    volume = role.volume
    last = volume.retained.newest
    agreed = last.number if last is not None else volume.folder.horizon.point
    held = min(mirror.received, mirror.durable)
    return role.links.hears(mirror.name) and held >= volume.position and mirror.agreed_point == agreed


def _reached(options: ServiceOptions, name: str) -> str:
    """Where the new primary finds this node. Refused: that is not known."""
    address = reached_at(listener_of(options))
    if not address:
        raise Refused(
            "no-listener",
            f"{name} would listen at {options.mirror_listen}, by which other nodes can't reach it.",
            "Say by which address they do: --mirror-listen HOST[:10810]; or serve it with --advertise.",
        )
    return address


def _refuse_unready(role: PrimaryRole, name: str) -> None:
    for mirror in _awaited(role, name):
        source = role.links.get(mirror.name)
        if (why := _why_not(mirror, source, role)) != "":
            raise _not_ready(mirror, name, why)
    _refuse_differing(role, role.volume.mirrors.get(name))


def _refuse_differing(role: PrimaryRole, mirror: Mirror) -> None:
    """What is known to be wrong at a mirror is not made everybody's."""
    repairing = any(
        (each.name, each.node, each.outcome) == (mirror.name, mirror.node, VerifyOutcome.REPAIRING)
        for each in role.volume.manifest.state.verified
    )
    if mirror.differs_since or repairing:
        raise Refused(
            "mirror-differs", f"Mirror {mirror.name} differs from this volume, and has not been put right yet.",
            f"Put it right first: 'revolume verify DIR --mirror {mirror.name}'.",
        )  # fmt: skip


async def _refuse_silent(role: PrimaryRole, name: str) -> None:
    """A mirror that has everything of an idle volume need not be alive: each is heard once more, first."""
    for mirror in _awaited(role, name):
        source = role.links.get(mirror.name)
        if source is None or not await source.speaks(HEARD_S):
            raise _not_ready(mirror, name, AWAY)


def _not_ready(mirror: Mirror, name: str, why: str) -> Refused:
    other = "" if mirror.name == name else f"Answers rest on mirror {mirror.name} too: "
    return Refused(
        "not-ready", f"{other}Mirror {mirror.name} {why}.",
        f"Wait until it is in sync: 'revolume wait DIR --mirror {mirror.name}'.",
    )  # fmt: skip


def _why_not(mirror: Mirror, source: MirrorSource | None, role: PrimaryRole) -> str:
    if not mirror.joined:
        return "has not joined yet: it is no whole copy"
    if source is None or not source.heard:
        return AWAY
    status: MirrorStatus = source.status(role.volume.position)
    if mirror.level_at or status.lag_bytes > BEHIND_BYTES_MAX or status.state not in _MIRRORING:
        return f"is {size_words(status.lag_bytes)} behind ({status.state})"
    return ""


_MIRRORING: Final = (MirrorState.IN_SYNC, MirrorState.CATCHING_UP)
