"""The clones of a volume that is served: made, opened with it, served beside it, dropped (decision 0053).

    make   record *making*, the point pinned → the directory filled, its manifest last → record *made* → opened
    drop   closed → record *dropping* → the directory emptied, its manifest first → no record

Whatever a crash leaves is finished when the volume is opened next. A clone whose directory can't be opened keeps
its pin, and is told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from revolume.api.clone_schemas import CloneOrder, CloneSchema
from revolume.errors import NotFound, Refused, RevolumeError
from revolume.history.exports import VolumeExports
from revolume.history.moments import check_volume_name
from revolume.history.origin_view import OriginView, open_origin
from revolume.host import Host
from revolume.host.error_text import error_text
from revolume.node.clone_face import open_face
from revolume.node.clone_making import CloneMaking, remove_files
from revolume.node.clone_status import clone_directory, clone_schema
from revolume.node.detach_jobs import DetachJobs
from revolume.node.event_log import Observer
from revolume.node.role import Role
from revolume.node.service_options import ServiceOptions
from revolume.pace.pacer import Pacer
from revolume.volume.metadata.clone_edits import CloneRecord, CloneStage, pack_clone
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import State
from revolume.volume.open.directory_state import stated
from revolume.volume.primary import Volume
from revolume.volume.state.events import EventKind

SPARE_BYTES: Final = 64 << 20
"""Of log kept ready for a clone; it shares a disk with its parent."""


class ServedClone(Role, Protocol):
    """A clone that is open: a primary."""

    @property
    def volume(self) -> Volume: ...
    @property
    def clones(self) -> Clones: ...
    @property
    def pacer(self) -> Pacer: ...


OpenClone = Callable[[ServiceOptions, OriginView], Awaitable[ServedClone]]


@dataclass(slots=True)
class _Open:
    """One that is served; ``ends`` closes it, and then its view of the parent."""

    role: ServedClone
    ends: AsyncExitStack


class Clones:
    """Of one open primary. ``exports``: the primary's; ``open_clone`` opens the volume in a directory."""

    def __init__(
        self, host: Host, options: ServiceOptions, volume: Volume, exports: VolumeExports, open_clone: OpenClone
    ) -> None:
        self._host = host
        self._options = options
        self._volume = volume
        self._open_clone = open_clone
        self._making = CloneMaking(host, options.directory, volume, exports.resolver)
        self._open: dict[str, _Open] = {}
        self._reasons: dict[str, str] = {}
        self._observers: list[Observer] = []
        self._turn = asyncio.Lock()

    # What there is

    @property
    def records(self) -> tuple[CloneRecord, ...]:
        """Oldest first."""
        return self._volume.manifest.state.clones.records

    def exports(self) -> dict[str, VolumeExports]:
        """Of each clone that is open, and of clones of these, by name."""
        found: dict[str, VolumeExports] = {}
        for name, opened in self._open.items():
            found[name] = opened.role.exports_now()
            found |= opened.role.clone_exports()
        return found

    def listed(self) -> list[CloneSchema]:
        """For status."""
        return [self._schema(record) for record in self.records]

    def _schema(self, record: CloneRecord) -> CloneSchema:
        state, opened = self._volume.manifest.state, self._open.get(record.name)
        origin = opened.role.volume.image.origin if opened is not None else None
        return clone_schema(
            self._options.directory, state, record, self._reasons.get(record.name, ""),
            size=opened.role.size if opened is not None else 0,
            detaching=origin is not None and origin.record.detaching,
        )  # fmt: skip

    def follow(self, observer: Observer) -> None:
        """Tell ``observer`` what happens to the clones, also to those that are made later."""
        self._observers.append(observer)
        for opened in self._open.values():
            opened.role.follow(observer)

    def refuse_any(self, what: str) -> None:
        """Refused while there are clones. ``what``: the end of "… can't"."""
        if self.records:
            names = ", ".join(record.name for record in self.records)
            raise _has_clones(f"{self._volume.name} has clones ({names}), so it can't {what}.")

    # Opening and closing

    async def open_all(self) -> None:
        """Finish what a crash has left, and open what there is. What can't be opened is told, and keeps its
        pin."""
        async with self._turn:
            for record in self.records:
                try:
                    await self._resume(record)
                except (RevolumeError, OSError) as error:
                    self._reasons[record.name] = error_text(error)
                    told = f"clone {record.name} can't be opened: {error_text(error)}"
                    self._volume.events.tell(told, EventKind.TROUBLE)

    async def _resume(self, record: CloneRecord) -> None:
        if record.stage == CloneStage.DROPPING:
            await self._removed(record)
            return
        state = await self._host.work.call(self._state_in, record)
        if state is None and record.stage == CloneStage.MAKING:
            await self._removed(record)
            return
        if state is None:
            raise NotFound(
                "clone-missing", f"{self._directory(record)} does not hold it.",
                "Put the directory back, or drop the clone.",
            )  # fmt: skip
        if state.clones.origin is None:  # independent: only the record is left
            await self._forget(record.name)
            return
        if record.stage == CloneStage.MAKING:
            record = replace(record, stage=CloneStage.MADE)
            await self._record(record)
        await self._opened(record)

    def _state_in(self, record: CloneRecord) -> State | None:
        """What the clone's directory says; None: the clone is not there. Waits for the disk."""
        try:
            state = stated(self._host.disk, self._directory(record))
        except (NotFound, FileNotFoundError, NotADirectoryError):
            return None
        return state if state.volume == record.identity else None

    async def _opened(self, record: CloneRecord) -> None:
        options = self._clone_options(record)
        async with AsyncExitStack() as ends:
            view = await open_origin(self._volume, record)
            ends.callback(view.close)
            role = await self._open_clone(options, view)
            ends.push_async_callback(role.close)
            ends.callback(role.volume.healer.siblings.attach(view))
            if options.control:
                face = await open_face(self._host, options, role, self._volume.name)
                ends.push_async_callback(face.aclose)
            for observer in self._observers:
                role.follow(observer)
            DetachJobs(role.volume, role.jobs, role.pacer, partial(self._detached, record))
            self._open[record.name] = _Open(role, ends.pop_all())
            self._reasons.pop(record.name, None)

    async def close(self) -> None:
        """Close those that are open, cleanly: none can be served without this volume. Clients are gone already."""
        async with self._turn:
            for name in list(self._open):
                await self._open.pop(name).ends.aclose()

    async def _detached(self, record: CloneRecord) -> None:
        """It has everything itself. It is served here until this volume is closed."""
        await self._forget(record.name)

    # Making

    async def make(self, order: CloneOrder) -> CloneSchema:
        """A clone of a moment, open when this returns. UsageError: a name that can't be; Refused: it is taken, or
        the moment is suspect, or the directory is in use; NotFound: the moment is not retained; NoSpace."""
        async with self._turn:
            check_volume_name(order.name)
            own = {record.name for record in self.records}
            if order.name == self._volume.name or order.name in self.exports().keys() - own:
                told = f"There is a volume {order.name} here already."
                raise Refused("clone-name", told, "Choose another name.")
            record = await self._making.made(order, self._clone_options)
            await self._opened(record)
            return self._schema(record)

    # Dropping

    async def drop(self, name: str) -> None:
        """Close a clone and remove it with all that was written to it. NotFound: there is none; Refused: it has
        clones itself."""
        async with self._turn:
            record = self._named(name)
            opened = self._open.get(name)
            if opened is not None:
                opened.role.clones.refuse_any("be dropped")
                del self._open[name]
                await opened.ends.aclose()
            record = replace(record, stage=CloneStage.DROPPING)
            await self._record(record)
            await self._removed(record)

    def refuse_snapshot(self, name: str) -> None:
        """Refused: a clone was made of this snapshot."""
        state = self._volume.manifest.state
        writes = {snapshot.write for snapshot in state.snapshots if snapshot.name == name}
        names = ", ".join(record.name for record in self.records if record.write in writes)
        if names:
            raise _has_clones(f"Clones lie over snapshot {name}: {names}.")

    async def _removed(self, record: CloneRecord) -> None:
        """What is left of its directory, then its record. A directory that has gone needs no removing."""
        with suppress(FileNotFoundError):
            await self._host.work.call(remove_files, self._host.disk, self._options.directory, record)
        await self._forget(record.name)

    # The parent's manifest

    def _named(self, name: str) -> CloneRecord:
        record = self._volume.manifest.state.clones.named(name)
        if record is None:
            known = ", ".join(record.name for record in self.records) or "none"
            raise NotFound("no-clone", f"{self._volume.name} has no clone {name[:80]!a}.", f"It has: {known}.")
        return record

    async def _record(self, record: CloneRecord) -> None:
        await self._volume.manifest.record((EditKind.CLONE, pack_clone(record)))

    async def _forget(self, name: str) -> None:
        await self._volume.manifest.record((EditKind.DROP_CLONE, name.encode()))
        self._reasons.pop(name, None)

    def _directory(self, record: CloneRecord) -> str:
        return clone_directory(self._options.directory, record)

    def _clone_options(self, record: CloneRecord) -> ServiceOptions:
        parent = self._options
        once = (parent.keep_s, parent.budget_bytes) if parent.budget_once else (None, None)
        return ServiceOptions(
            directory=self._directory(record), addresses=(), cp_interval_s=parent.cp_interval_s,
            keep_s=once[0], budget_bytes=once[1],
            budget_once=parent.budget_once, map_memory_bytes=parent.map_memory_bytes,
            spare_bytes=SPARE_BYTES if parent.spare_bytes is None else min(SPARE_BYTES, parent.spare_bytes),
            limits=parent.limits, control=parent.control, as_recorded=False,
            scrub_period_s=parent.scrub_period_s,
        )  # fmt: skip


def _has_clones(cause: str) -> Refused:
    hint = "Make them independent ('revolume detach-clone'), or drop them ('revolume clone DIR NAME --drop')."
    return Refused("has-clones", cause, hint)
