"""What a volume offers over NBD: itself, and every retained moment by name.

    vm1                 the live volume (also the default export)
    vm1@MOMENT          a view, fixed when it is opened
    vm1@MOMENT,rw       the same with a throw-away writable layer
    vm1@MOMENT,suspect  a moment that is suspect: without the word it is refused

A mirror has nothing live to offer: there the plain name is a moving one too, and means the last point that the
mirror has agreed on.

A moving name (``@-10m``, ``@now``) resolves once per peer and name and stays what it was while any connection
of that peer holds it, and for a minute after the last one has gone, so that a client which lost its link
comes back to the same bytes. Such views and writable ones do not advertise multi-conn.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import numpy as np

from revolume.blocks.extents import extents
from revolume.blocks.numbers import WriteNumber
from revolume.errors import NotFound, RevolumeError
from revolume.history.allocation import ALLOCATION, DIRTY, BitmapExport, ChangedSince, Extents, span
from revolume.history.changes import Change, changes
from revolume.history.live_export import LiveExport
from revolume.history.moments import (
    Ago,
    AtSnapshot,
    AtWrite,
    ExportName,
    Now,
    format_export,
    format_time,
    parse_export,
    parse_moment,
)
from revolume.history.open_history import OpenHistory
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.resolver import MomentResolver
from revolume.history.suspect_moment import suspect_words
from revolume.history.usage import Usage, usage
from revolume.history.view_export import DescribedView, HeldView, ViewExport, describe_view
from revolume.history.views import open_view, size_of
from revolume.history.writable_overlay import WritableOverlay
from revolume.host.network import Peer
from revolume.volume.branches.names import branch_moment
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.metadata.proof_file import Proof, Verdict, add_proof, read_proofs
from revolume.volume.primary import Volume
from revolume.volume.space.holder import HolderKind
from revolume.volume.state.status import Snapshot
from revolume.volume.volume_base import OpenVolume

BITMAP = "qemu:dirty-bitmap:"
LOOKS = 4
"""So often is something looked up that may be exchanged and closed meanwhile."""
LINGER_S = 60.0
BETWEEN_QUESTIONS_S = 5.0  # one client asks INFO, contexts, GO, each opening the export


class VolumeExports:
    """All exports of one volume: the live volume, and every retained moment by name. ``live``: the volume where
    clients may write to it; None at a mirror, where the plain name opens the newest moment that the mirror has
    agreed on."""

    def __init__(self, volume: OpenVolume, live: Volume | None) -> None:
        self._volume = volume
        self._live = live
        self._history = OpenHistory(volume)
        self.resolver = MomentResolver(self._history)
        self.live_refusal: RevolumeError | None = None
        """Why the live volume is not opened by anybody at present."""
        self._open: dict[tuple[str, str], HeldView] = {}
        self._opening = asyncio.Lock()
        self._proving = asyncio.Lock()

    def names(self) -> list[tuple[str, str]]:
        """(name, description) of the exports that LIST shows: the volume, and its snapshots that can be opened."""
        volume = self._volume
        plain = "live" if self._live is not None else "a mirror: as of its last agreed point"
        newest, _ = volume.newest
        shots = [s for s in volume.snapshots() if s.write <= newest]
        named = [self._listed(shot) for shot in shots]
        return [(volume.name, f"{volume.name}, {plain}"), *named]

    def _listed(self, shot: Snapshot) -> tuple[str, str]:
        """The name that opens it, which says so where the moment is suspect."""
        suspicion = self.resolver.resolve(AtSnapshot(shot.name)).suspicion
        options = frozenset() if suspicion is None else frozenset({"suspect"})
        marked = "" if suspicion is None else f", {suspect_words(suspicion)}"
        name = format_export(ExportName(self._volume.name, AtSnapshot(shot.name), options))
        return name, f"{_kind(shot)} of {format_time(shot.time_ns)}{marked}"

    def changes(self, start: int, end: int, limit: int) -> list[Change]:
        """The newest writes that are retained and changed the bytes [start, end)."""
        log = self._volume.log
        first, last = self._volume.folder.horizon.address, log.appender.address
        segments = reversed(log.segments_between(first, last))
        pieces = (self._history.columns_between(at, at)[0] for at in (segment.base for segment in segments))
        return changes(pieces, start, end, self._volume.oldest.write, limit)

    def proofs(self) -> tuple[Proof, ...]:
        """What commands found of its moments, oldest first. Reads a small file."""
        return read_proofs(self._volume.context.directory)

    async def prove(self, write: WriteNumber, verdict: Verdict, duration_ms: int, command: str) -> Proof:
        """Note what a command found of the moment after ``write``, durably. NotFound: that is not retained."""
        found = self.resolver.resolve(AtWrite(write))
        points = [point.number for point in self._history.points() if point.write <= found.write]
        now_ns = self._volume.context.host.clock.wall_ns()
        proof = Proof(found.write, points[-1] if points else 0, now_ns, duration_ms, verdict, command)
        async with self._proving:
            await self._volume.log.work.call(add_proof, self._volume.context.directory, proof)
        return proof

    async def usage(self) -> Usage:
        """What the volume takes of its disk, and who keeps how much of it."""
        return await usage(self._volume)

    async def open(self, name: str, peer: Peer) -> LiveExport | ViewExport:
        """The export called ``name``, for one connection of ``peer``. UsageError: it is not an export name.
        NotFound: there is no such volume or snapshot, or the moment is not retained."""
        asked = self._asked(name)
        if asked is None:
            assert self._live is not None
            return LiveExport(self._live, self)
        async with self._opening:
            return await self._open_view(asked, peer)

    async def look(self, name: str, peer: Peer) -> LiveExport | ViewExport | DescribedView:
        """What NBD_OPT_INFO needs to know of an export. A view is opened only for a name that would not mean the
        same moment later (a moving name or a writable view); errors as for ``open``."""
        asked = self._asked(name)
        if asked is None or asked.writable_view or isinstance(asked.moment, Ago | Now):
            return await self.open(name, peer)
        resolved = self.resolver.opened(asked)
        fixed = format_export(self._fixed(asked, resolved.write))
        size = size_of(self._volume, resolved)
        return DescribedView(fixed, describe_view(fixed, self._volume, resolved), size, resolved.write, {})

    def _asked(self, name: str) -> ExportName | None:
        """The name parsed; None if it means the live volume."""
        asked = parse_export(name)
        if asked.volume not in ("", self._volume.name):
            raise NotFound(
                "no-export", f"There is no export {asked.volume}.", f"This server has {self._volume.name}."
            )
        if asked.moment is None:
            if self.live_refusal is not None:
                raise self.live_refusal
            return None if self._live is not None else ExportName(self._volume.name, Now())
        return asked

    async def _open_view(self, asked: ExportName, peer: Peer) -> ViewExport:
        moving = isinstance(asked.moment, Ago | Now)
        who = identity(peer) if moving or asked.writable_view else ""
        key = (who, format_export(asked))
        held = self._open.get(key)
        if held is None:
            held = self._open[key] = await self._begin(key, asked)
        else:
            self._check_held(asked, held.view.moment)
        held.users += 1
        if held.expiry is not None:
            held.expiry.cancel()
            held.expiry = None
        return ViewExport(
            format_export(self._fixed(asked, held.view.moment.write)),
            held,
            moving,
            self,
            lambda said_goodbye: self._release(key, held, said_goodbye),
        )

    def _check_held(self, asked: ExportName, moment: ResolvedMoment) -> None:
        """Refused: what is open under this name has turned out to be suspect since, and the name does not say
        so."""
        if not moment.branch:
            self.resolver.opened(ExportName(asked.volume, AtWrite(moment.write), asked.options))

    def _fixed(self, asked: ExportName, write: WriteNumber) -> ExportName:
        """The name that means this moment for good: a snapshot's own, else the write's number."""
        moment = asked.moment if isinstance(asked.moment, AtSnapshot) else AtWrite(write)
        return ExportName(self._volume.name, moment, asked.options)

    async def _begin(self, key: tuple[str, str], asked: ExportName) -> HeldView:
        resolved = self.resolver.opened(asked)
        if resolved.note:
            self._volume.events.tell(f"{format_export(asked)} is w{resolved.write}: {resolved.note}")
        kind, what = (HolderKind.OVERLAY, "overlay") if asked.writable_view else (HolderKind.VIEW, "view")
        within = branch_moment(resolved.branch, resolved.branch_moment)
        where = within if resolved.branch else f"w{resolved.write}"
        view = await open_view(self._volume, resolved, f"{what} @{where}", kind)
        token = self._volume.context.host.entropy.token(8).hex()
        quota = self._volume.context.options.overlay_quota_bytes
        try:
            held = HeldView(view, WritableOverlay(view, token, quota) if asked.writable_view else None)
        except BaseException:  # the disk has no room for a file: nothing is to be kept for this view
            view.close()
            raise
        view.lease.on_end.append(lambda: self._gave_way(key, held))
        return held

    def _gave_way(self, key: tuple[str, str], held: HeldView) -> None:
        """Forget a view that has been ended: its users get GaveWay, and the next open of its name makes another
        view."""
        if held.expiry is not None:
            held.expiry.cancel()
        if self._open.get(key) is held:
            del self._open[key]

    def _release(self, key: tuple[str, str], held: HeldView, said_goodbye: bool) -> None:
        held.users -= 1
        if held.users == 0:
            if said_goodbye:
                self._expire(key, held)
                return
            linger = LINGER_S if key[0] else BETWEEN_QUESTIONS_S
            held.expiry = asyncio.get_running_loop().call_later(linger, self._expire, key, held)

    def _expire(self, key: tuple[str, str], held: HeldView) -> None:
        if held.users == 0 and self._open.get(key) is held:
            del self._open[key]
            held.view.close()

    def close(self) -> None:
        """Close every view. No connection may use one any more."""
        for key, held in list(self._open.items()):
            if held.expiry is not None:
                held.expiry.cancel()
            held.users = 0
            self._expire(key, held)

    # Metadata contexts

    async def contexts(self, export: LiveExport | ViewExport | DescribedView, query: str) -> list[str]:
        """The metadata contexts that a client's query names for an export; empty if it names none that exist. A
        bitmap shows what changed *since* a moment, so there is none for a moment after the export's own."""
        upto = export.newest_write
        if query in (ALLOCATION, "base:"):
            return [ALLOCATION]
        if query in ("qemu:", BITMAP):
            return [BITMAP + s.name for s in self._volume.snapshots() if s.write <= upto and not s.branch]
        try:
            export.since[query] = self._changed_since(query, upto)
        except RevolumeError:
            return []
        return [query]

    def _changed_since(self, context: str, upto: WriteNumber) -> ChangedSince:
        if not context.startswith(BITMAP):
            raise NotFound("no-context", f"There is no metadata context {context}.", f"There is {ALLOCATION}.")
        resolved = self.resolver.resolve(parse_moment(context[len(BITMAP) :]))
        if resolved.branch:
            raise NotFound("no-context", f"There is no bitmap since {context}: it is a branch.", "Name a moment.")
        if resolved.write > upto:
            raise NotFound(
                "bitmap-of-later",
                f"{context} is behind this export's moment, w{upto}.",
                "Open the later moment, and ask it what changed since the earlier one.",
            )
        history, write = self._history, resolved.write
        return ChangedSince(write, history.address_after(write), history.restated_since(write))

    async def changed(
        self, export: BitmapExport, context: str, source: object, offset: int, length: int
    ) -> Extents:
        """Which blocks of an export's source changed since the context's moment, which is resolved once for each
        connection."""
        since = export.since.get(context)
        if since is None:
            since = export.since[context] = self._changed_since(context, export.newest_write)
        first, count, length = span(offset, length, export.size)
        words = await self._raw_words(source, first, count)
        changed = since.of(words)
        if self._volume.rescued.needed_by(since.write):  # what was folded since has no word any more
            changed |= await self._rescued(since.write, export.newest_write, block_numbers(first, count))
        # Asked last: a fold, or a drop, that came between would have taken changes out of what was looked at.
        if since.write < self._history.oldest.write and not self._volume.isolated(since.write):
            raise NotFound("moment-not-retained", f"{context} is not retained any more.", "Ask for a newer one.")
        return extents(first, count, np.where(changed, DIRTY, 0), offset, length)

    async def _rescued(
        self, since: WriteNumber, until: WriteNumber, blocks: np.ndarray[tuple[int], np.dtype[np.uint64]]
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        rescued, work = self._volume.rescued, self._volume.context.host.work
        for _ in range(LOOKS - 1):
            with suppress(OSError):  # tables were merged and closed meanwhile: look again
                return await work.call(rescued.changed, since, until, blocks)
        return await work.call(rescued.changed, since, until, blocks)

    async def _raw_words(
        self, source: object, first: int, count: int
    ) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        blocks = block_numbers(first, count)
        work = self._volume.context.host.work
        if isinstance(source, LiveMap):
            words, _ = source.lookup(blocks)
            return await self._words_below(source, blocks, words)
        return await work.call(source.words, blocks)  # type: ignore[attr-defined]

    async def _words_below(
        self, live: LiveMap, blocks: np.ndarray[tuple[int], np.dtype[np.uint64]],
        words: np.ndarray[tuple[int], np.dtype[np.uint64]],
    ) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:  # fmt: skip
        work = self._volume.context.host.work
        for _ in range(LOOKS - 1):
            try:
                return await work.call(live.words_below, blocks, words)
            except OSError:  # the base was exchanged and closed meanwhile: look again
                words, _ = live.lookup(blocks)
        return await work.call(live.words_below, blocks, words)


def _kind(named: Snapshot) -> str:
    if named.branch_moment:
        return "snapshot on a branch,"
    return "branch" if named.branch else "snapshot"


def identity(peer: Peer) -> str:
    """A peer's identity, for which a moving name stays fixed: its certificate's name, else its user id, else its
    address."""
    if peer.certificate_name:
        return f"tls:{peer.certificate_name}"
    if peer.uid is not None:
        return f"uid:{peer.uid}"
    return f"at:{peer.address.rsplit(':', 1)[0]}"
