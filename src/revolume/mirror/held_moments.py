"""The moments that an open volume holds, for a node that asks: listed, resolved, held open.

Only points are offered, pinned ones that the horizon has left included: a point's root proves what is made of it
elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Point
from revolume.errors import NotFound, Refused
from revolume.history.block_scan import BlockScan, read_blocks
from revolume.history.moments import (
    Ago,
    AtPoint,
    AtSnapshot,
    AtTime,
    AtWrite,
    ExportName,
    Moment,
    format_time,
    parse_moment,
)
from revolume.history.open_history import OpenHistory
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.resolver import MomentResolver
from revolume.history.suspect_moment import refuse_suspect
from revolume.history.views import View, open_view
from revolume.mirror.readable_content import content_of
from revolume.mirror.wire.begin_messages import BaseStart, EpochEntry, NamedSnapshot
from revolume.mirror.wire.recall_messages import ROWS_MAX, MomentEntry, Moments, Recall, Recalled
from revolume.mirror.wire.version import OURS, common
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.members.base_start import point_of
from revolume.volume.open.log_identity import End
from revolume.volume.space.holder import HolderKind
from revolume.volume.volume_base import OpenVolume

U64 = npt.NDArray[np.uint64]
STEP_BLOCKS: Final = 1 << 12
"""Looked at between two turns of the loop."""
NOTHING: Final = np.zeros(0, np.uint64)


class HeldMoment:
    """A point of an open volume, held open. ``close`` it."""

    def __init__(self, view: View, recalled: Recalled) -> None:
        self.recalled = recalled
        self._view = view
        self._end = -(-view.size // BLOCK)
        self._scan = BlockScan(view.volume.log.work, view.source, view.reader)

    async def scan(self, first: int, count: int, read: bool) -> tuple[U64, U64, int]:
        """The stored digests of ``count`` blocks from ``first`` on, 0 for those that read as zeroes or lie behind
        the volume's end; no content is read, nothing is said of damage. GaveWay: the volume needed the room."""
        digests = np.zeros(count, np.uint64)
        for at in range(first, min(first + count, self._end), STEP_BLOCKS):
            blocks = block_numbers(at, min(STEP_BLOCKS, first + count - at, self._end - at))
            with self._view.using():
                digests[at - first : at - first + len(blocks)] = await self._scan.digests(blocks)
            await self._view.volume.context.host.clock.sleep(0)
        return digests, NOTHING, 0

    async def read(self, blocks: U64) -> tuple[U64, memoryview]:
        """The digests of these blocks (uint64, ascending), and the content of those whose digest is not 0; zeroes
        where one is damaged. GaveWay: the volume needed the room."""
        blocks = blocks[blocks < np.uint64(self._end)]
        with self._view.using():
            digests = await self._scan.digests(blocks)
            content = await content_of(ViewContent(self._view), blocks[digests != 0], OURS.highest)
        return digests, content

    def close(self) -> None:
        """Let the view go."""
        self._view.close()


class ViewContent:
    """``readable_content.BlockReader`` over a view. Blocks that are lost are damaged to it."""

    def __init__(self, view: View) -> None:
        self._view = view

    async def read(self, blocks: U64) -> memoryview:
        return await read_blocks(self._view.reader, blocks, self._view.size)


def held_points(volume: OpenVolume) -> list[Point]:
    """The points that can be opened, oldest first, those of pinned moments included."""
    points, horizon = OpenHistory(volume).points(), volume.folder.horizon
    known = {point.write for point in points}
    if horizon.point and horizon.write >= volume.folder.retired_write and horizon.write not in known:
        points.append(point_of(horizon))
    return sorted(points, key=lambda point: point.write)


def listed_moments(volume: OpenVolume, version: int) -> Moments:
    """What is there to choose from: every isolated point and every named one, and the newest of the others."""
    names = _names(volume)
    points, oldest = held_points(volume), volume.oldest.write
    entries = [
        MomentEntry(
            write=point.write,
            point=point.number,
            time_ns=point.time_ns,
            isolated=point.write < oldest,
            suspect=volume.suspect_periods.within(point.write),
            names=tuple(sorted(names.get(point.write, ()))),
        )
        for point in points
    ]
    first = [each for each in entries if each.isolated or each.names]
    rest = [each for each in entries if not (each.isolated or each.names)]
    kept = first[-ROWS_MAX:] + rest[len(rest) - max(0, ROWS_MAX - len(first)) :]
    return Moments(volume.name, tuple(sorted(kept, key=lambda each: each.write)), version)


def _names(volume: OpenVolume) -> dict[int, list[str]]:
    """Names of snapshots by the write that they name."""
    names: dict[int, list[str]] = {}
    for pin in volume.manifest.state.snapshots:
        names.setdefault(pin.write, []).append(pin.name)
    return names


async def open_moment(volume: OpenVolume, asked: Recall, *, primary: bool, fed: bool) -> HeldMoment:
    """Hold a moment open. ``primary``: the volume is one; ``fed``: its primary is connected. NotFound: there is no
    such point, and which are nearest; Refused: it is suspect, or on a branch."""
    version = common(asked.asker.versions)
    point, note = resolved_point(volume, parse_moment(asked.moment), asked.suspect)
    holder = f"recall of w{point.write}"
    view = await open_view(volume, ResolvedMoment(point.write, point.time_ns), holder, HolderKind.MIRROR)
    recalled = Recalled(
        node=volume.manifest.state.node,
        volume=volume.volume_id,
        name=volume.name,
        start=_start(volume, point),
        opening=max((epoch.number for epoch in volume.manifest.state.epochs), default=0),
        numbers=max(volume.manifest.state.reserved, volume.log.appender.write),
        segment_blocks=volume.log.pool.segment_blocks,
        largest_blocks=volume.manifest.state.largest_transfer,
        suspect=volume.suspect_periods.within(point.write),
        primary=primary,
        fed=fed,
        note=note,
        version=version,
    )
    return HeldMoment(view, recalled)


def _start(volume: OpenVolume, point: Point) -> BaseStart:
    state = volume.manifest.state
    epoch, reign = state.epoch_at(point.position)
    end = End(point.position, epoch, reign, point.chain, point.write, point.time_ns)
    known = [(pin, True) for pin in state.snapshots] + [(pin, False) for pin in state.lacking]
    return BaseStart(
        end=end,
        number=point.number,
        write=point.write,
        time_ns=point.time_ns,
        size=volume.size_at(point.write),
        root=point.root,
        epochs=tuple(
            EpochEntry(each.number, each.reign, each.position, each.write)
            for each in state.epochs
            if each.position < point.position
        ),
        names=tuple(
            NamedSnapshot(pin.name, pin.write, pin.point, pin.time_ns, held and pin.write == point.write)
            for pin, held in sorted(known, key=lambda each: each[0].write)
            if pin.write <= point.write
        ),
        names_position=point.position,
    )


def resolved_point(volume: OpenVolume, moment: Moment, suspect: bool) -> tuple[Point, str]:
    """The point that a moment means, and what is to be said of it. A time means the last point up to it; a write,
    a point or a name means just that. NotFound: nothing here, with the nearest; Refused: it is ``suspect``."""
    history = OpenHistory(volume)
    points = held_points(volume)
    if isinstance(moment, AtSnapshot) and ":" in moment.name:
        raise Refused(
            "branch-moment", f"{moment.name} is no moment of the volume's own past: it is not sent.",
            "Copy it out at that node: 'revolume copy'.",
        )  # fmt: skip
    try:
        found = MomentResolver(history).resolve(moment)
    except NotFound as error:
        if isinstance(moment, AtSnapshot):
            raise
        raise _not_held(volume, moment, points) from error
    at = next((point for point in reversed(points) if point.write <= found.write), None)
    exact = isinstance(moment, AtWrite | AtPoint | AtSnapshot)
    if at is None or (exact and at.write != found.write):
        raise _not_held(volume, moment, points)
    resolved = replace(MomentResolver(history).resolve(AtWrite(at.write)), write=at.write)
    if resolved.suspicion is not None and not suspect:
        raise refuse_suspect(history, ExportName(volume.name, moment), resolved)
    note = f"it is cp{at.number} (w{at.write}) of {format_time(at.time_ns)}, the last point up to then"
    return at, "" if exact else note


def _not_held(volume: OpenVolume, moment: Moment, points: Sequence[Point]) -> NotFound:
    before, after = _sides(volume, moment, points)
    nearest = " and ".join(
        f"{side} it cp{point.number} (w{point.write}) of {format_time(point.time_ns)}"
        for side, point in (("before", before), ("behind", after))
        if point is not None
    )
    return NotFound(
        "moment-not-held",
        f"The node that was asked holds no such point of {volume.name}.",
        f"Nearest are, {nearest}." if nearest else "It holds none.",
    )


def _sides(volume: OpenVolume, moment: Moment, points: Sequence[Point]) -> tuple[Point | None, Point | None]:
    """The last point before a moment and the first behind it."""
    match moment:
        case AtPoint(number):
            keys, key = [point.number for point in points], number
        case AtTime(time_ns):
            keys, key = [point.time_ns for point in points], time_ns
        case AtWrite(number):
            keys, key = [point.write for point in points], number
        case Ago(seconds):
            keys = [point.time_ns for point in points]
            key = volume.context.host.clock.wall_ns() - seconds * 10**9
        case _:
            keys, key = [point.write for point in points], volume.newest[0]
    before = [point for point, at in zip(points, keys, strict=True) if at < key]
    after = [point for point, at in zip(points, keys, strict=True) if at > key]
    return before[-1] if before else None, after[0] if after else None
