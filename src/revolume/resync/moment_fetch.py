"""A moment that only another copy holds is brought to a primary: what is missing travels.

Region by region of 1024 blocks: where the sums are equal, the moment has there what the next newer moment here
has. Elsewhere the digests say which blocks differ; of these, what the volume has now with the same digest is
copied here, and the rest is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.digest import digest_array
from revolume.blocks.geometry import BLOCK, ceil_div
from revolume.errors import Damaged, Refused
from revolume.history.block_scan import BlockScan, read_blocks
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import View, open_view
from revolume.mirror.held_moments import ViewContent
from revolume.mirror.readable_content import content_of
from revolume.mirror.recovery.recall import RecallLink
from revolume.mirror.target.copy_directory import point_of
from revolume.mirror.wire.block_messages import ROWS_MAX
from revolume.mirror.wire.comparison_messages import REGION_BLOCKS, SUMS_BLOCKS_MAX
from revolume.mirror.wire.frames import ProtocolError
from revolume.mirror.wire.recall_messages import Recalled
from revolume.mirror.wire.version import OURS
from revolume.pace.pacer import Pacer
from revolume.resync.fetched_moment import FetchedMoment, refuse_here
from revolume.volume.livemap.live_source import LiveSource
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.metadata.manifest_state import Horizon, PinnedSnapshot
from revolume.volume.primary import Volume
from revolume.volume.space.holder import HolderKind

U64 = npt.NDArray[np.uint64]
Report = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and of how much."""
_STAGE: Final = "blocks compared"


@dataclass(frozen=True, slots=True)
class FetchResult:
    """``differs``: blocks in which the moment is not the next newer one here; ``sent``: those of them that had to
    travel; ``lost``: the node that has it lost blocks of it."""

    name: str
    write: int
    point: int
    time_ns: int
    differs: int
    sent: int
    lost: bool


class MomentFetch:
    """Of a moment that is held open at the other end of ``link``."""

    def __init__(self, volume: Volume, link: RecallLink, recalled: Recalled, pacer: Pacer, report: Report) -> None:
        self._volume = volume
        self._link = link
        self._recalled = recalled
        self._pacer = pacer
        self._report = report
        self._live = BlockScan(
            volume.log.work, LiveSource(volume.live, volume.image, volume.partials), volume.reader
        )
        self._differs = self._sent = 0

    async def run(self, name: str) -> FetchResult:
        """Bring it here, as the isolated moment of this name; durable. Refused: it is none of the volume's past,
        is here already, is not what its root says, or the name is taken. NoSpace."""
        moment = point_of(self._recalled.start)
        pin = PinnedSnapshot(name, moment.write, moment.point, moment.time_ns)
        refuse_other_past(self._volume, self._recalled)
        refuse_here(self._volume, moment.write)
        self._volume.names.refuse_taken(pin)
        fetched = await FetchedMoment.begin(self._volume, moment)
        try:
            with self._pacer.sending():
                await self._brought(fetched, moment)
            await fetched.finish(pin)
        finally:
            await fetched.close()
        return FetchResult(
            name, moment.write, moment.point, moment.time_ns, self._differs, self._sent, fetched.lost
        )

    async def _brought(self, fetched: FetchedMoment, moment: Horizon) -> None:
        above = ResolvedMoment(fetched.above.write, fetched.above.time_ns)
        view = await open_view(self._volume, above, "a fetch", HolderKind.UNDER_WAY)
        try:
            await self._compare(fetched, _Newer(view), max(moment.size, fetched.above.size))
        finally:
            view.close()

    async def _compare(self, fetched: FetchedMoment, newer: _Newer, size: int) -> None:
        end = ceil_div(size, BLOCK)
        for first in range(0, end, SUMS_BLOCKS_MAX):
            count = min(SUMS_BLOCKS_MAX, end - first)
            sums = await self._link.sums(first, count)
            for region, there in zip(regions(first, count), sums, strict=True):
                await self._region(fetched, newer, region, there)
                self._report(_STAGE, min(region.stop, end) * BLOCK, end * BLOCK)

    async def _region(self, fetched: FetchedMoment, newer: _Newer, region: range, there: roots.Root) -> None:
        blocks = block_numbers(region.start, len(region))
        here = await newer.digests(blocks)
        total = roots.add(roots.EMPTY, blocks, here)
        if total == there:
            fetched.same(total)
            return
        wanted = await self._link.digests(region.start, len(region))
        same = wanted == here
        fetched.same(roots.add(roots.EMPTY, blocks[same], here[same]))
        await self._take(fetched, newer, blocks[~same], wanted[~same])

    async def _take(self, fetched: FetchedMoment, newer: _Newer, blocks: U64, digests: U64) -> None:
        self._differs += len(blocks)
        for at in range(0, len(blocks), ROWS_MAX):
            some, theirs = blocks[at : at + ROWS_MAX], digests[at : at + ROWS_MAX]
            await fetched.put(some, theirs, await self._contents(some, theirs), newer)

    async def _contents(self, blocks: U64, digests: U64) -> bytes:
        """Of those whose digest is not 0, in their order."""
        filled = digests != 0
        wanted, stated = blocks[filled], digests[filled]
        whole = np.zeros((len(wanted), BLOCK), np.uint8)
        missing = np.flatnonzero(~await self._copied(wanted, stated, whole))
        if len(missing):
            began_ns = await self._pacer.turn()
            rows = await self._link.blocks(self._recalled.start.number, wanted[missing])
            if not np.array_equal(rows.blocks, wanted[missing]) or not np.array_equal(
                rows.digests, stated[missing]
            ):
                raise ProtocolError("Other blocks of the moment than those whose digests it named.")
            whole[missing] = np.frombuffer(rows.payload, np.uint8).reshape(-1, BLOCK)
            self._sent += len(missing)
            self._pacer.sent(len(rows.payload), began_ns)
        return whole.tobytes()

    async def _copied(self, blocks: U64, digests: U64, whole: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Which of these the volume has now, with the same digest; their content is in ``whole``."""
        there = blocks < np.uint64(self._volume.size // BLOCK)
        same = np.zeros(len(blocks), bool)
        same[there] = await self._live.digests(blocks[there]) == digests[there]
        at = np.flatnonzero(same)
        if not len(at):
            return same
        try:
            content = await read_blocks(self._volume.reader, blocks[at], self._volume.size)
        except Damaged:  # then all of them travel
            same[at] = False
            return same
        same[at] = digest_array(content, len(at)) == digests[at]  # a client may have written meanwhile
        whole[at] = np.frombuffer(content, np.uint8).reshape(-1, BLOCK)
        return same


class _Newer:
    """The next newer moment here; ``fetched_moment.NewerMoment``."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._end = np.uint64(ceil_div(view.size, BLOCK))
        self._scan = BlockScan(view.volume.log.work, view.source, view.reader)

    async def digests(self, blocks: U64) -> U64:
        """Of these blocks; 0 for zeroes, and behind its end."""
        digests, within = np.zeros(len(blocks), np.uint64), blocks < self._end
        with self._view.using():
            digests[within] = await self._scan.digests(blocks[within])
        return digests

    async def read(self, blocks: U64) -> tuple[U64, memoryview]:
        """The digests of these blocks, ascending, and the content of those whose digest is not 0; zeroes where one
        is damaged."""
        digests = await self.digests(blocks)
        with self._view.using():
            return digests, await content_of(ViewContent(self._view), blocks[digests != 0], OURS.highest)


def regions(first: int, count: int) -> Iterator[range]:
    """Blocks ``first`` to ``first + count`` in regions of REGION_BLOCKS; the last may be shorter."""
    for at in range(first, first + count, REGION_BLOCKS):
        yield range(at, min(at + REGION_BLOCKS, first + count))


def refuse_other_past(volume: Volume, recalled: Recalled) -> None:
    """Refused: the moment is none of this volume's past, for within one opening there is one log."""
    end, state = recalled.start.end, volume.manifest.state
    if state.epoch_at(end.position) != (end.epoch, end.reign) or end.position > volume.position:
        raise Refused(
            "moment-of-another-past",
            f"cp{recalled.start.number} (w{end.write}) is none of the past of {volume.name} as it is here: the "
            "copies went apart before.",
            "Copy it out at that node: 'revolume copy'.",
        )
