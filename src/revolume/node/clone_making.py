"""Making a clone: record *making*, directory, record *made* (``clones.py`` has the order of all steps)."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import replace
from typing import Final

from revolume.api.clone_schemas import CloneOrder
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, WriteNumber
from revolume.chain.point import Point
from revolume.errors import NoSpace, NotFound, Refused, RevolumeError
from revolume.history.clone_maker import CloneSource, make_clone
from revolume.history.moments import AtWrite, ExportName, Now, parse_moment
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.resolver import MomentResolver
from revolume.history.views import View, open_view
from revolume.host import Host
from revolume.host.disk import Disk, out_of_room
from revolume.host.error_text import error_text
from revolume.node.clone_status import clone_directory
from revolume.node.service_options import ServiceOptions, open_options
from revolume.volume.members.base_start import point_of
from revolume.volume.metadata.clone_edits import CloneFacts, CloneOrigin, CloneRecord, CloneStage, pack_clone
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Horizon, State
from revolume.volume.metadata.retention_record import NOTHING_KEPT
from revolume.volume.open.create import segment_of
from revolume.volume.open.directory_state import claim_empty, stated
from revolume.volume.open.remove_clone import remove_clone
from revolume.volume.primary import Volume
from revolume.volume.space.holder import HolderKind

CLONES_MAX: Final = 64


class CloneMaking:
    """Of one open primary in ``directory``. One clone is made at a time."""

    def __init__(self, host: Host, directory: str, volume: Volume, resolver: MomentResolver) -> None:
        self._host = host
        self._path = directory
        self._volume = volume
        self._resolver = resolver

    async def made(self, order: CloneOrder, options: Callable[[CloneRecord], ServiceOptions]) -> CloneRecord:
        """The record of the clone, whose directory is a volume now, and is not open. ``options``: with which it
        will be served. Refused: the name is taken, the moment is suspect, or the directory is in use; NotFound:
        the moment is not retained; NoSpace."""
        self._refuse_taken(order.name)
        moment = await self._moment(order)
        point = self._point_below(moment.write)
        async with AsyncExitStack() as held:
            below = await self._view(ResolvedMoment(point.write, point.time_ns), order.name)
            held.callback(below.close)
            same = not moment.branch and moment.write == point.write
            at = below if same else await self._view(moment, order.name)
            held.callback(at.close)
            record = self._new_record(order, moment, point)
            return await self._made(record, CloneSource(at, below), options(record))

    def _refuse_taken(self, name: str) -> None:
        state = self._volume.manifest.state
        taken = {snapshot.name: "a snapshot" for snapshot in state.snapshots}
        taken |= {branch.name: "a branch" for branch in state.branches}
        taken |= {record.name: "a clone" for record in state.clones.records}
        if name in taken:
            told = f"{self._volume.name} has {taken[name]} {name}."
            raise Refused("clone-name", told, "Choose another name, so that nobody takes one for the other.")
        if len(state.clones.records) >= CLONES_MAX:
            told = f"{self._volume.name} has {CLONES_MAX} clones, and there may be no more."
            raise Refused("too-many-clones", told, "Detach or drop one first.")

    async def _moment(self, order: CloneOrder) -> ResolvedMoment:
        moment = parse_moment(order.moment)
        options = frozenset({"suspect"}) if order.suspect else frozenset()
        if isinstance(moment, Now):
            made = await self._volume.point_maker.cut()
            moment = AtWrite(made.write if made is not None else self._volume.newest[0])
        return self._resolver.opened(ExportName(self._volume.name, moment, options))

    def _point_below(self, write: WriteNumber) -> Point:
        """The newest point up to a write: pins are at points."""
        volume = self._volume
        oldest = volume.oldest.write
        retained = [point for point in volume.points() if point.write >= oldest]
        candidates = [*volume.isolated_points(), *retained]
        if oldest == volume.image.horizon.write:
            candidates.append(point_of(volume.image.horizon))
        below = [point for point in candidates if point.write <= write]
        if not below:
            raise NotFound("moment-not-retained", f"There is no point at or before w{write} any more.")
        return max(below, key=lambda point: point.write)

    async def _view(self, moment: ResolvedMoment, name: str) -> View:
        return await open_view(self._volume, moment, f"clone {name} being made", HolderKind.UNDER_WAY)

    def _new_record(self, order: CloneOrder, moment: ResolvedMoment, point: Point) -> CloneRecord:
        return CloneRecord(
            name=order.name,
            write=point.write,
            point=point.number,
            time_ns=moment.time_ns,
            made_ns=self._host.clock.wall_ns(),
            identity=self._host.entropy.token(16),
            stage=CloneStage.MAKING,
            moment=order.moment,
            path=order.at,
        )

    async def _made(self, record: CloneRecord, source: CloneSource, served: ServiceOptions) -> CloneRecord:
        path, call = clone_directory(self._path, record), self._host.work.call
        directory = await call(claim_empty, self._host.disk, path) if record.path else None
        try:
            await self._record(record)  # from here on what lies in ``clones/`` has a record
            if directory is None:
                directory = await call(claim_empty, self._host.disk, path)
            options = open_options(served, size=source.moment.size)
            state = self._state_of(record, source, segment_of(options))
            await make_clone(self._host.work, directory, source, options, state)
            record = replace(record, stage=CloneStage.MADE)
            await self._record(record)
            return record
        except BaseException as error:
            with suppress(RevolumeError, OSError):  # else it is removed when the volume is opened next
                if directory is not None:
                    await call(remove_files, self._host.disk, self._path, record)
                await self._volume.manifest.record((EditKind.DROP_CLONE, record.name.encode()))
            if isinstance(error, OSError):
                raise _not_made(record.name, error) from error
            raise
        finally:
            if directory is not None:
                directory.close()

    async def _record(self, record: CloneRecord) -> None:
        await self._volume.manifest.record((EditKind.CLONE, pack_clone(record)))

    def _state_of(self, record: CloneRecord, source: CloneSource, segment_bytes: int) -> State:
        """The log begins with the segment of use 1: at address 0 nothing would be older than what comes."""
        parent, blocks = self._volume, segment_bytes // BLOCK
        origin = CloneOrigin(
            volume=parent.volume_id,
            identity=record.identity,
            write=record.write,
            parent=parent.name,
            directory=os.path.abspath(self._path),
            moment=record.moment,
        )
        return State(
            volume=record.identity,
            name=record.name,
            node=self._host.entropy.token(16),
            segment_blocks=blocks,
            largest_blocks=blocks,
            created_ns=record.made_ns,
            horizon=Horizon(address=Address(blocks), size=source.moment.size, time_ns=record.time_ns),
            clones=CloneFacts(origin=origin),
            retention=replace(NOTHING_KEPT, policy=parent.manifest.state.retention.policy),
        )


def _not_made(name: str, error: OSError) -> RevolumeError:
    kind = NoSpace if out_of_room(error) else RevolumeError
    return kind("clone-failed", f"Clone {name} could not be made: {error_text(error)}.", "Nothing is left of it.")


def remove_files(disk: Disk, parent: str, record: CloneRecord) -> None:
    """Remove what lies in the directory of a clone of the volume in ``parent``, and the directory, if it is in
    ``clones/``. Another volume that lies there by now is left alone. FileNotFoundError: there is no directory."""
    path = clone_directory(parent, record)
    with closing(disk.open(path)) as directory:
        with suppress(NotFound):
            if stated(disk, path).volume != record.identity:
                return
        remove_clone(directory)
    if not record.path:
        with closing(disk.open(os.path.dirname(path))) as clones:
            clones.remove_child(record.name)
            clones.sync()
