"""The suspect walk over the history of an open primary: its log from its end to the horizon, and behind that what
was rescued for each pinned moment, which is what changed since it.

The walk runs in the helper process. What can't be read ends the chain there: what remains is suspect from the
beginning, which may be too much and is never too little.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_set import BlockSet
from revolume.blocks.numbers import WriteNumber
from revolume.chain.map_file import MapFile
from revolume.chain.newest_first import Changes, changes_newest_first
from revolume.chain.point import Point
from revolume.chain.versions import LogRange
from revolume.errors import Damaged
from revolume.host.disk import Directory, Disk
from revolume.host.open_files import out_of_descriptors
from revolume.resync.suspect_walk import suspect_rows
from revolume.volume.metadata import layout
from revolume.volume.primary import Volume
from revolume.volume.space.holder import HolderKind
from revolume.volume.suspect.marks import Marks
from revolume.volume.suspect.suspect_rows import OPEN, Rows, joined

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class RescuedSince:
    """The blocks that changed behind the moment at write ``after`` and up to write ``upto``: those that these
    tables in ``rescue/`` name."""

    after: WriteNumber
    upto: WriteNumber
    tables: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WalkSpec:
    """A job: the walk over the volume in ``path``. ``cuts``: write numbers of the horizon and of the points behind
    it, ascending. ``rescued``: newest moment first. ``starts``, ``ends``: the differing blocks, as runs."""

    path: str
    log_path: str
    volume: bytes
    log_range: LogRange
    cuts: U64
    rescued: tuple[RescuedSince, ...]
    starts: U64
    ends: U64
    until: WriteNumber


def walk_history(disk: Disk, spec: WalkSpec) -> Rows:
    """The rows of the walk. OSError: this process is out of descriptors."""
    with closing(disk.open(spec.log_path)) as log, closing(disk.open(spec.path)) as directory:
        differing = BlockSet(spec.starts, spec.ends)
        return joined(suspect_rows(differing, as_far_as_readable(_chain(log, directory, spec)), spec.until))


def _chain(log: Directory, directory: Directory, spec: WalkSpec) -> Iterator[Changes]:
    yield from changes_newest_first(log, spec.log_range, spec.volume, spec.cuts)
    for each in spec.rescued:
        yield from _rescued(directory, spec.volume, each)


def as_far_as_readable(chain: Iterator[Changes]) -> Iterator[Changes]:
    """The chain up to what is damaged, or what the disk does not give."""
    try:
        yield from chain
    except Damaged:
        return
    except OSError as error:
        if out_of_descriptors(error):
            raise


def _rescued(directory: Directory, volume: bytes, since: RescuedSince) -> Iterator[Changes]:
    with closing(directory.child(layout.RESCUE)) as rescue:
        for number in since.tables:
            with closing(
                MapFile.open(rescue.open(layout.rescue_table_name(number), write=False), volume)
            ) as table:
                for piece in table.pieces():
                    yield Changes(since.after, since.upto, piece.changed())
                yield Changes(since.after, since.upto, table.ranges().blocks())


async def marks_before(
    volume: Volume, differing: BlockSet, point: Point, cause: str, until: WriteNumber = OPEN
) -> Marks:
    """The marks for blocks that were found to differ from another copy's at ``point``, one of this volume's: since
    when they may have differed. ``until``: the write by which they are equal again, if that is known."""
    release = volume.holders.lease(HolderKind.UNDER_WAY, "a suspect walk", volume.folder.horizon.write)
    try:
        await volume.log.footers.written()
        rows = await volume.log.work.job(walk_history, _spec(volume, differing, point, until))
    finally:
        release()
    _, reign = volume.manifest.state.epoch_at(point.position)
    return Marks(reign, point.number, volume.context.host.clock.wall_ns(), cause, rows)


def _spec(volume: Volume, differing: BlockSet, point: Point, until: WriteNumber) -> WalkSpec:
    horizon = volume.folder.horizon
    writes = [each.write for each in volume.points() if horizon.write < each.write <= point.write]
    return WalkSpec(
        path=volume.context.directory.path,
        log_path=volume.context.log_directory.path,
        volume=volume.volume_id,
        log_range=volume.ranges.up_to_write(None, point.write),
        cuts=np.unique(np.array([horizon.write, *writes], np.uint64)),
        rescued=_rescued_since(volume),
        starts=differing.starts,
        ends=differing.ends,
        until=until,
    )


def _rescued_since(volume: Volume) -> tuple[RescuedSince, ...]:
    """What was rescued for each pinned moment behind the horizon, newest first."""
    found, upto = list[RescuedSince](), volume.folder.horizon.write
    for rescue in reversed(volume.manifest.state.rescues):
        tables = tuple(table.number for table in rescue.tables)
        found.append(RescuedSince(rescue.moment.write, upto, tables))
        upto = rescue.moment.write
    return tuple(found)
