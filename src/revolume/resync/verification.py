"""A mirror's copy compared with its primary, from the first cut to the last; clients write all the time.

    S0   a point, made also if nothing has changed. The copy agrees on it, and holds it open. If it has said
         that it differs since an earlier point, what was overwritten between the two is looked for first.
    scan region by region: the primary as it is now, the copy as of S0 → the compare delta map
    S1   a point. What clients changed in (S0, S1] is the scan delta map; subtracted: the *revised* map, durable.
    copy batch by batch: blocks read live are sent; then
    S2   a point, made also if nothing has changed. What clients changed in (S1, S2] is the host change delta map;
         the batch merged under it is the fix-up delta map, which the copy stores as part of S2, at the end of its
         chain. Then the batch leaves the durable map.

Interrupted anywhere behind S1, it goes on from the durable map: what is read and sent then is right as of the
points that are made then. Interrupted before, it is begun anew. Whatever is wrong with the media of either side
is that side's to heal, and never a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_set import BlockSet
from revolume.blocks.geometry import BLOCK
from revolume.blocks.ordering import among
from revolume.blocks.root import EMPTY, Root
from revolume.chain.point import Point
from revolume.errors import NoSpace, Refused
from revolume.mirror.source.comparison import Comparison
from revolume.mirror.wire.comparison_messages import BATCH_BLOCKS_MAX, REGION_BLOCKS, SUMS_BLOCKS_MAX
from revolume.pace.pacer import Pacer
from revolume.resync.compare_map import CompareMaps
from revolume.resync.comparer import ComparedSoFar, sum_of
from revolume.resync.copier import Copier
from revolume.resync.cuts import BatchCut, PlainCut, pin_of
from revolume.resync.history_marks import HistoryMarks
from revolume.resync.host_changes import HostChanges
from revolume.resync.overwritten_findings import OverwrittenFindings
from revolume.resync.region_scan import RegionScan
from revolume.resync.reviser import revise
from revolume.resync.scanner import LiveReader
from revolume.volume.members.mirror import Mirror
from revolume.volume.metadata.verified import Verified, VerifyOutcome
from revolume.volume.primary import Volume

U64 = npt.NDArray[np.uint64]
Report = Callable[[str, int, int], None]
POLL_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class VerifyOrders:
    """What is to be compared. ``quick``: by stored digests alone; ``regions``: (first block, blocks), empty: all
    of the volume; ``repair``: put right what differs."""

    quick: bool = False
    repair: bool = True
    regions: Sequence[tuple[int, int]] = ()


@dataclass(slots=True)
class VerifyResult:
    """What came of it. Counts are blocks; bytes are of content read on either side, and of the link, in all of the
    session meanwhile. ``different``: to be put right; ``changed_meanwhile``: clients changed them during the scan,
    ``were_different``: those of these that had differed before."""

    point: int = 0
    compared: int = 0
    different: int = 0
    changed_meanwhile: int = 0
    were_different: int = 0
    repaired: int = 0
    overwritten: int = 0
    left: int = 0
    damaged_here: list[int] = field(default_factory=list)
    damaged_there: list[int] = field(default_factory=list)
    read_here: int = 0
    read_there: int = 0
    link_bytes: int = 0
    continued: bool = False
    roots_equal: bool | None = None


class Verification:
    """Of one mirror, whose session ``copy`` is of. ``report`` is told what is done, and how much of it."""

    def __init__(
        self,
        volume: Volume,
        mirror: Mirror,
        copy: Comparison,
        orders: VerifyOrders,
        pacer: Pacer,
        report: Report,
    ) -> None:
        self._volume = volume
        self._mirror = mirror
        self._copy = copy
        self._orders = orders
        self._pacer = pacer
        self._report = report
        self._maps = CompareMaps(volume)
        self.result = VerifyResult()

    async def run(self) -> VerifyResult:
        """Compare, and put right. ConnectionError: the link was lost; GaveWay: the volume needed the room."""
        before = self._copy.link_bytes
        with self._pacer.sending():
            left = await self._maps.load(self._mirror.name, self._mirror.node)
            if len(left) and self._orders.repair:
                await self._go_on(left)
            else:
                await self._compare()
        self.result.link_bytes = self._copy.link_bytes - before
        return self.result

    async def _go_on(self, left: BlockSet) -> None:
        """An earlier comparison of this copy was interrupted when it was being put right."""
        known = self._maps.known(self._mirror.name)
        assert known is not None
        self.result.continued, self.result.point = True, known.point
        self.result.different = known.different
        start = await self._cut()
        await self._agreed(start)  # a batch of the earlier one may be on its way: it belongs to a point before
        with closing(HostChanges(self._volume, start)) as host:
            await self._put_right(left, host)

    async def _compare(self) -> None:
        start = await self._cut()
        self.result.point = start.number
        await self._agreed(start)
        if self._mirror.differs_since and self._orders.repair:
            since = self._mirror.differs_since
            findings = OverwrittenFindings(self._volume, self._copy, self._pacer, since, start)
            self.result.were_different = await findings.mark()
        with ExitStack() as held:
            changes = held.enter_context(closing(HostChanges(self._volume, start)))
            marks = held.enter_context(closing(HistoryMarks(self._volume, self._copy, start)))
            found = await self._scanned(start, changes)
            end = await self._volume.cut()
            await changes.gather_upto(end)
            host = held.enter_context(closing(HostChanges(self._volume, end)))
            compared = found.differing()
            scan = changes.among(compared)
            revised = revise(compared, scan)
            self._note(found, scan, revised)
            if self._orders.repair:
                self.result.were_different += await marks.mark(revised, found, scan, end)
            changes.close()
            marks.close()
            if len(revised) and self._orders.repair:
                await self._keep(VerifyOutcome.REPAIRING, revised)
                await self._put_right(revised, host)
                return
        await self._end_without_repair(revised, start, found.copy_sum)

    async def _end_without_repair(self, left: BlockSet, start: Point, copy_sum: Root) -> None:
        """``copy_sum``: of what the copy had at ``start``. It need not be the volume's root then, where clients
        have overwritten since what was wrong."""
        self.result.left = left.block_count()
        if not self._orders.regions and not self.result.left:
            await self._proved_at(start, copy_sum)
            if not self.result.roots_equal:
                await self._prove()
        equal = not self.result.left and self.result.roots_equal is not False
        await self._keep(VerifyOutcome.EQUAL if equal else VerifyOutcome.DIFFERENT, BlockSet())

    def _note(self, found: ComparedSoFar, scan: BlockSet, revised: BlockSet) -> None:
        result = self.result
        result.read_here, result.read_there = found.read_here, found.read_there
        result.damaged_here = np.unique(np.concatenate([*found.damaged_here, np.zeros(0, np.uint64)])).tolist()
        result.damaged_there = np.unique(np.concatenate([*found.damaged_there, np.zeros(0, np.uint64)])).tolist()
        result.changed_meanwhile = scan.block_count()
        result.different = revised.block_count()

    # Cuts

    async def _cut(self) -> Point:
        return await self._volume.cut_anew(PlainCut(self._volume))

    async def _agreed(self, point: Point) -> None:
        """Return once the mirror has agreed on this point."""
        self._report(f"waiting until {self._mirror.name} stands at cp{point.number}", 0, 0)
        while self._mirror.agreed_point < point.number:
            self._copy.check_open()
            await self._volume.context.host.clock.sleep(POLL_S)

    # Comparing

    async def _scanned(self, start: Point, changes: HostChanges) -> ComparedSoFar:
        """All regions compared, as of ``start`` at the copy."""
        await self._copy.open(pin_of(start), self._orders.quick)
        try:
            scan = RegionScan(self._volume, self._copy, self._orders.quick, self._pacer)
            regions = self._regions(start)
            total, done = sum(count for _, count in regions), 0
            for first, count in regions:
                async for size in scan.run(first, count):
                    done += size
                    self._report(f"comparing {self._mirror.name}", done * BLOCK, total * BLOCK)
                    await changes.gather()
            self.result.compared = total
            return scan.found
        finally:
            self._copy.end(pin_of(start))

    def _regions(self, start: Point) -> list[tuple[int, int]]:
        """(first block, blocks), whole regions, in order and apart."""
        end = -(-self._volume.size_at(start.write) // BLOCK)
        if not self._orders.regions:
            return [(0, end)] if end else []
        firsts = np.array([first // REGION_BLOCKS * REGION_BLOCKS for first, _ in self._orders.regions], np.uint64)
        ends = [-(-(first + count) // REGION_BLOCKS) * REGION_BLOCKS for first, count in self._orders.regions]
        chosen = BlockSet.of_intervals(firsts, np.array(ends, np.uint64)).clip(0, end)
        return list(zip(chosen.starts.tolist(), chosen.counts.tolist(), strict=True))

    # Putting right

    async def _put_right(self, left: BlockSet, host: HostChanges) -> None:
        copier = Copier(LiveReader(self._volume), self._copy, self._pacer)
        total = left.block_count()
        damaged: list[int] = []
        while len(left):
            batch = _first_of(left, BATCH_BLOCKS_MAX)
            self._report(f"putting {self._mirror.name} right", (total - left.block_count()) * BLOCK, total * BLOCK)
            await host.gather()
            copied = await copier.copy(batch[~host.among_blocks(batch).contains(batch)])
            damaged += copied.unreadable.tolist()
            cut = BatchCut(self._volume, host, copied.batch, batch, self._copy)
            missing = await self._insert(cut, copied.blocks, host)
            left = left.difference(BlockSet.of_blocks(np.setdiff1d(batch, missing)))
            await self._keep(VerifyOutcome.REPAIRING, left)
        self.result.damaged_here = sorted({*self.result.damaged_here, *damaged})
        self.result.left = len(damaged)
        await self._prove()
        done = not damaged and self.result.roots_equal is not False
        await self._keep(VerifyOutcome.REPAIRED if done else VerifyOutcome.DIFFERENT, BlockSet())

    async def _insert(self, batch: BatchCut, sent: U64, host: HostChanges) -> U64:
        """The fix-up delta map, at the end of the copy's chain. Of what was ``sent``, the blocks that the copy had
        no room for: they belong to a later one. NoSpace: it had room for none."""
        point = await self._volume.cut_anew(batch)
        assert batch.stored is not None
        stored = await batch.stored
        self.result.repaired += stored
        self.result.overwritten += len(batch.lost)
        await host.gather_upto(point)
        due = sent[~among(sent, batch.lost)]
        if len(due) and not stored:
            raise NoSpace(
                "mirror-full", f"Mirror {self._mirror.name} has no room for what would put it right.",
                "Make room there, and verify it again: it goes on where it was.",
            )  # fmt: skip
        return due[stored:]

    async def _prove(self) -> None:
        """Whether all that the copy stores sums up to the volume's root, at a point behind the last fix-up. If so
        nothing in it is suspect from there on."""
        if self._orders.regions or self.result.left:
            return
        point = await self._cut()
        await self._agreed(point)
        await self._copy.open(pin_of(point), True)
        try:
            total = EMPTY
            end = -(-self._volume.size_at(point.write) // BLOCK)
            for first in range(0, end, SUMS_BLOCKS_MAX):
                there = await self._copy.sums(first, min(SUMS_BLOCKS_MAX, end - first))
                total = sum_of((total, *there.sums))
        finally:
            self._copy.end(pin_of(point))
        await self._proved_at(point, total)

    async def _proved_at(self, point: Point, total: Root) -> None:
        self.result.roots_equal = total == point.root
        if self.result.roots_equal:
            await self._copy.equal_at(point)

    async def _keep(self, outcome: VerifyOutcome, left: BlockSet) -> None:
        """What is known of the mirror from now on."""
        result = self.result
        verified = Verified(
            name=self._mirror.name,
            node=self._mirror.node,
            time_ns=self._volume.context.host.clock.wall_ns(),
            point=result.point,
            outcome=outcome,
            quick=self._orders.quick,
            partly=bool(self._orders.regions),
            different=result.different,
            repaired=result.repaired,
        )
        await self._maps.keep(verified, left)


def refuse_outside(orders: VerifyOrders, size: int) -> None:
    """Refused: a region lies outside a volume of so many bytes."""
    end = -(-size // BLOCK)
    for first, count in orders.regions:
        if not count or first + count > end:
            raise Refused(
                "region-outside",
                f"There is nothing at {first * BLOCK}+{count * BLOCK}: the volume has {size} bytes.",
                "Name a region as OFFSET+LENGTH within the volume.",
            )


def _first_of(blocks: BlockSet, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """The first ``count`` blocks, or all."""
    ends = np.cumsum(blocks.counts)
    runs = int(np.searchsorted(ends, np.uint64(count))) + 1
    some = BlockSet(blocks.starts[:runs], np.minimum(blocks.ends[:runs], blocks.starts[:runs] + np.uint64(count)))
    return some.blocks()[:count]
