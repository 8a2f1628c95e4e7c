"""A running primary goes back, in place, to a retained moment, and can come forward again.

    refused      while clients of the live volume may write, or while a required mirror is away: the first would
                 write on over a past that they do not know, the second could not be told
    kept away    the live export is not opened by anybody until it is over
    named        the present becomes a snapshot, ``before-restore-…``, to which ``undo`` goes back
    compared     what differs from the moment, and whether all of it can be read (``history/restoring.py``)
    written      as one write, of any size: a crash, here or at a mirror, leaves all of it or nothing
    confirmed    durable here and at every required mirror

What was between the moment and the restore stays in the history, and is folded away like any other. A restore that
fails before it has written drops the name again. Once it writes it comes to its end, also if nobody waits for it:
what is half there could only be dropped by opening the volume again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from revolume.api.schemas import RestoredSchema, RestoreOrder, RestoreStatusSchema
from revolume.blocks.geometry import BLOCK, ceil_div
from revolume.blocks.numbers import Position
from revolume.errors import NotFound, Refused, RevolumeError, UsageError
from revolume.history.moments import format_span, format_time, parse_export
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.restoring import Difference, Report, open_restoring, unreported
from revolume.history.suspect_moment import suspect_words
from revolume.mirror.link import finish_uncancelled
from revolume.mirror.wording import size_words
from revolume.node.demotion import writers_of
from revolume.node.primary_role import PrimaryRole
from revolume.node.role import Role
from revolume.node.role_changes import GRACE_S, RoleChanges
from revolume.volume.primary import CONFIRMED_SECONDS, Volume
from revolume.volume.state.status import Snapshot

BEFORE: Final = "before-restore-"
"""The snapshots of what was before a restore are called so, with the write at which they stand."""
SENT_BYTES_PER_S: Final = 8 << 20
"""A required mirror that takes less is told of as one that is waited for."""


class Restore:
    """Of a running service's volume."""

    def __init__(self, changes: RoleChanges) -> None:
        self._changes = changes
        self.status = RestoreStatusSchema()
        """As status shows it."""

    async def restore(self, current: Callable[[], Role], order: RestoreOrder) -> RestoredSchema:
        """Bring the volume back to a moment, or say what that would change. NotFound: the moment is not retained.
        Refused: it is suspect, clients may write, a required mirror is away, or ``yes`` lacks. UsageError: the
        order makes no sense. Damaged, NoSpace: it can't be done. Nothing has changed then."""
        async with self._changes.turn:
            role = current()
            if not isinstance(role, PrimaryRole):
                raise Refused(
                    "is-mirror", f"{role.name} is a mirror here; it is restored with its primary.",
                    "Restore the primary; or 'revolume promote' makes this one the primary.",
                )  # fmt: skip
            moment = _resolved(role, order)
            bounds = _bounds(order, role.volume)
            _refuse_present(role.volume, moment)
            if order.dry_run:
                return await self._previewed(role, moment, bounds)
            _refuse_away(role)
            if not order.yes:
                raise _unasked(role, moment)
            return await self._kept_away(role, moment, bounds, order)

    async def _previewed(
        self, role: PrimaryRole, moment: ResolvedMoment, bounds: tuple[int, int]
    ) -> RestoredSchema:
        restoring = await open_restoring(role.volume, role.exports_now(), moment, bounds)
        try:
            difference = await restoring.difference(unreported)
        finally:
            restoring.close()
        return _told(role, moment, difference, bounds)

    async def _kept_away(
        self, role: PrimaryRole, moment: ResolvedMoment, bounds: tuple[int, int], order: RestoreOrder
    ) -> RestoredSchema:
        """While no client is there, and none comes."""
        self._refuse_writers(role, order.disconnect)
        exports = role.exports_now()
        exports.live_refusal = Refused(
            "restoring", f"{role.name} is being restored to w{moment.write}.", "Try again in a moment."
        )
        try:
            if order.disconnect:
                await self._changes.server.hang_up_from(role.name, GRACE_S)
            return await self._restored(role, moment, bounds, order.undo_for)
        except RevolumeError as error:
            self.status = RestoreStatusSchema(
                told=f"{role.name} was not restored to w{moment.write}: {error.cause}"
            )
            raise
        finally:
            exports.live_refusal = None
            self.status = RestoreStatusSchema(told=self.status.told)

    def _refuse_writers(self, role: PrimaryRole, disconnect: bool) -> None:
        writers = writers_of(self._changes, role)
        if writers and not disconnect:
            peers = [each.peer.address for each in self._changes.server.connections() if each.export == role.name]
            raise Refused(
                "clients-connected",
                f"{role.name} has {writers} connection{'s'[: writers != 1]} of clients that may write to it: "
                f"{', '.join(peers[:4])}{' and others' if writers > 4 else ''}.",
                "Stop them first; with --disconnect they are disconnected.",
            )

    async def _restored(
        self, role: PrimaryRole, moment: ResolvedMoment, bounds: tuple[int, int], undo_for_s: float
    ) -> RestoredSchema:
        volume = role.volume
        restoring = await open_restoring(volume, role.exports_now(), moment, bounds)
        try:
            before, made = await _named(volume, undo_for_s)
            written = False

            async def write(difference: Difference) -> Position:
                nonlocal written
                report = self._reporting("writing")
                position = await restoring.write(difference, lambda: self._check(role, before), report)
                written = True
                return position

            try:
                difference = await restoring.difference(self._reporting("comparing"))
                if not difference.empty:
                    await restoring.read(difference, self._reporting("reading"))
                    position = await finish_uncancelled(write(difference))
                    done = f"{volume.name} is restored to w{moment.write}; what was before is {before.name}"
                    patience_s = CONFIRMED_SECONDS + difference.bytes / SENT_BYTES_PER_S
                    await volume.confirmed(position, "restore-unconfirmed", done, patience_s)
                    await volume.cut()
            finally:
                if made and not written:
                    with suppress(RevolumeError, OSError):  # a name too many is in nobody's way
                        await volume.drop_snapshot(before.name)
        finally:
            restoring.close()
        told = _told(role, moment, difference, bounds, before if written else None)
        volume.events.tell(told.told)
        self.status = RestoreStatusSchema(told=told.told)
        return told

    def _reporting(self, stage: str) -> Report:
        """Tells status how far this stage has come."""

        def report(done: int, total: int) -> None:
            self.status = RestoreStatusSchema(stage, done, total, self.status.told)

        return report

    def _check(self, role: PrimaryRole, before: Snapshot) -> None:
        """Nothing was written since the present was named, and nobody is there who would."""
        if role.volume.write != before.write or writers_of(self._changes, role):
            raise Refused(
                "written-meanwhile", f"{role.name} was written to meanwhile; nothing was restored.",
                "Stop its clients first.",
            )  # fmt: skip
        _refuse_away(role)


async def _named(volume: Volume, keep_s: float) -> tuple[Snapshot, bool]:
    """The snapshot of the present, and whether it was made for this: then it is kept for so many seconds of lived
    time, 0: until somebody drops it."""
    name = f"{BEFORE}{volume.write}"
    for known in volume.snapshots():
        if known.name == name:
            return known, False
    return await volume.snapshot(name, keep_s), True


def _resolved(role: PrimaryRole, order: RestoreOrder) -> ResolvedMoment:
    """The moment that is asked for."""
    if order.undo:
        return _undone(role.volume)
    asked = parse_export(f"{role.name}@{order.to}")
    if asked.moment is None or asked.writable_view:
        raise UsageError("bad-moment", f"{order.to[:80]!a} is no moment to restore to.", "Say --to MOMENT.")
    moment = role.exports_now().resolver.opened(asked)
    if moment.branch:
        raise Refused(
            "is-branch", f"{order.to} is a branch: what it holds was never part of this volume's history.",
            "Copy it out: 'revolume copy DIR@branch:NAME FILE'.",
        )  # fmt: skip
    return moment


def _undone(volume: Volume) -> ResolvedMoment:
    before = [each for each in volume.snapshots() if each.name.startswith(BEFORE) and not each.branch]
    if not before:
        raise NotFound(
            "nothing-to-undo", f"{volume.name} has no snapshot of before a restore.",
            "Name the moment: --to MOMENT; 'revolume points' lists them.",
        )  # fmt: skip
    return ResolvedMoment(before[-1].write, before[-1].time_ns)


def _bounds(order: RestoreOrder, volume: Volume) -> tuple[int, int]:
    """The blocks [first, end)."""
    if order.begin is None or order.end is None:
        return 0, ceil_div(volume.size, BLOCK)
    whole = not order.begin % BLOCK and (not order.end % BLOCK or order.end == volume.size)
    if not 0 <= order.begin < order.end <= volume.size or not whole:
        raise UsageError(
            "bad-range",
            f"{order.begin}:{order.end} is no range of blocks of {volume.name}, which has {volume.size} bytes.",
            "Say --range BEGIN:END, both multiples of 4096; END is not part of it.",
        )
    return order.begin // BLOCK, ceil_div(order.end, BLOCK)


def _refuse_present(volume: Volume, moment: ResolvedMoment) -> None:
    if moment.write == volume.write:
        raise Refused(
            "is-present", f"{volume.name} is at w{moment.write} already: nothing was written behind that moment.",
            "Name an earlier moment; 'revolume points' lists them.",
        )  # fmt: skip


def _refuse_away(role: PrimaryRole) -> None:
    """Every mirror that answers wait for is told of it at once."""
    away = [mirror.name for mirror in role.volume.mirrors if mirror.required and not role.links.hears(mirror.name)]
    if away:
        raise Refused(
            "mirror-away", f"Mirror {', '.join(away)} is required, and away: it can't go back with the volume.",
            "Bring it back, or give it up with 'revolume detach'.",
        )  # fmt: skip


def _unasked(role: PrimaryRole, moment: ResolvedMoment) -> Refused:
    return Refused(
        "not-confirmed",
        f"{role.name} would go back to w{moment.write} ({format_time(moment.time_ns)}); what it is now would be "
        f"kept as a snapshot, {BEFORE}{role.volume.write}.",
        "Say --yes if that is meant; --dry-run says how much differs.",
    )


def _kept_words(snapshot: Snapshot) -> str:
    left_s = snapshot.expires_in_s
    return "until it is dropped" if left_s is None else f"for {format_span(max(60, round(left_s / 60) * 60))}"


def _told(
    role: PrimaryRole,
    moment: ResolvedMoment,
    difference: Difference,
    bounds: tuple[int, int],
    before: Snapshot | None = None,
) -> RestoredSchema:
    volume = role.volume
    size_then = volume.size_at(moment.write)
    where = f"w{moment.write} ({format_time(moment.time_ns)})"
    much = f"{size_words(difference.bytes)} of content and {size_words(difference.zero_bytes)} of zeroes"
    if difference.empty:
        told = f"{volume.name} holds what it held at {where}: nothing differs."
    elif before is not None:
        told = (
            f"{volume.name} is as it was at {where}: {much} were written back. The state before is {before.name}, "
        )
        told += f"kept {_kept_words(before)}."
    else:
        told = f"{volume.name} differs from {where} in {much}."
    if size_then < volume.size and bounds[1] * BLOCK > size_then:
        told += f" It had {size_then} bytes then and keeps {volume.size}: what lies behind reads as zeroes."
    if moment.suspicion is not None:
        told += (
            f" That moment is {suspect_words(moment.suspicion)}; from here on the volume is what this copy had."
        )
    if moment.note:
        told += f" {moment.note[0].upper()}{moment.note[1:]}."
    return RestoredSchema(
        name=volume.name, write=moment.write, time_ns=moment.time_ns, write_now=volume.write,
        before=before.name if before is not None else "", restored=before is not None, bytes=difference.bytes,
        zero_bytes=difference.zero_bytes, size=volume.size, size_then=size_then, told=told,
    )  # fmt: skip
