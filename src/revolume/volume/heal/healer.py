"""Damaged blocks, healed: the right bytes fetched from a sibling and written again in place.

A block that no longer has its digest is put right where it lies: the same bytes at the same place, synced, read
back. Nothing else changes, no record is made and no moment becomes doubtful, because the digest had already said
what the bytes are. Nothing is written that does not have its digest.

What lies in the image or in a rescue file is rewritten while the lock of those files (``busy``) is held, and only
if the image's digests still say that digest: a fold rewrites the same blocks. What lies in the log is rewritten
while its segment's file is kept from any other use (``log/write/segment_repairs.py``), and only if the log's
columns say that digest of that place.

A reader need not wait for the rewriting, which may have to wait for a fold: ``contents`` gives what a sibling has,
and the rewriting follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import numpy as np

from revolume.blocks.block_location import RESCUED, RESCUED_SHIFT
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address
from revolume.errors import Damaged
from revolume.host.clock import Clock
from revolume.host.disk import Directory
from revolume.log.format.columns import Columns
from revolume.log.format.segment import Segment, segment_name
from revolume.volume.heal.block_files import Files
from revolume.volume.heal.damaged_block import IMAGE, DamagedBlock
from revolume.volume.heal.log_places import columns_of, opened_columns, stated_at
from revolume.volume.heal.rewriting import Outcome, Rewrite, rewrite
from revolume.volume.heal.siblings import Contents, Fetched, Siblings, Wanted, holds
from revolume.volume.heal.unhealed import NOT_ANSWERED, Unhealed
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import Role
from revolume.volume.open_log import OpenLog
from revolume.volume.rescue.rescued_blocks import RescuedBlocks
from revolume.volume.state.damage import range_words, ranges
from revolume.volume.state.events import EventKind, Events
from revolume.volume.uncancelled_tasks import UncancelledTasks

TENDED_NS: Final = 60 * 10**9
"""What nobody had is asked for again after so long, though nobody reads it."""
AT_ONCE: Final = 1024
"""Blocks that are fetched and rewritten in one go: so much of their content is in memory."""
Found = dict[DamagedBlock, Fetched]


class Healer:
    """Of one open volume, primary or mirror. ``busy``: the lock of image and rescue files."""

    def __init__(
        self,
        *,
        directory: Directory,
        log_directory: Directory,
        log: OpenLog,
        files: Files,
        image: VolumeImage,
        rescued: RescuedBlocks,
        busy: asyncio.Lock,
        clock: Clock,
        events: Events,
        tasks: UncancelledTasks,
    ) -> None:
        self._directory = directory
        self._log_directory = log_directory
        self._log = log
        self._files = files
        self._image = image
        self._rescued = rescued
        self._busy = busy
        self._events = events
        self._tasks = tasks
        self._under_way: Found = {}
        self._tending = False
        self._turn = asyncio.Lock()  # one file is being rewritten at a time
        self.siblings = Siblings(self._somebody_to_ask)
        self.unhealed = Unhealed(clock, self._still_needed)
        self.healed_blocks = 0
        """Blocks that were rewritten since the volume was opened."""
        self.moved_blocks = 0
        """Damaged blocks that folds have brought to other places since then."""

    # Healing

    async def heal(self, blocks: Iterable[DamagedBlock], *, busy_held: bool = False) -> list[DamagedBlock]:
        """Put these right, durably; those that could not be. Blocks that are right by now, or whose place is not
        used any more, count as healed. ``busy_held``: the caller holds the lock of image and rescue files."""
        asked, left = list(dict.fromkeys(blocks)), []
        for at in range(0, len(asked), AT_ONCE):
            part = await self._log.work.call(self._damaged_now, asked[at : at + AT_ONCE])
            found = await self._fetched(part)
            left += [block for block in part if block not in found]
            left += await self._tasks.finish(self._rewritten(found, busy_held))
        async with self._turn:  # what a reader's content is being written for may be right, and not synced yet
            return [block for block in left if self._still_needed(block)]

    async def contents(self, blocks: Sequence[DamagedBlock]) -> Contents:
        """What siblings have of these, by block and digest; it is written in place soon afterwards."""
        asked = list(dict.fromkeys(blocks))[:AT_ONCE]
        found = {block: self._under_way[block] for block in asked if block in self._under_way}
        fetched = await self._fetched([block for block in asked if block not in found])
        if fetched and len(self._under_way) < AT_ONCE:
            self._under_way.update(fetched)
            self._tasks.begin(self._rewritten_soon(fetched))
        return {block.key: each.content for block, each in (found | fetched).items()}

    def unhealed_at(self, blocks: Iterable[DamagedBlock]) -> None:
        """Damaged blocks have come to lie at these places, and nobody could heal them where they came from."""
        moved = list(blocks)
        self.moved_blocks += len(moved)
        self.unhealed.add(moved, NOT_ANSWERED)

    def tend(self) -> None:
        """Now and then: ask again for what could not be healed, if that is due."""
        due = (
            self.unhealed.due(self.unhealed.blocks(), self.siblings.generation, TENDED_NS) if self.unhealed else []
        )
        if due and self.siblings and not self._tending:
            self._tending = True
            self._tasks.begin(self._heal_again(due[:AT_ONCE]))

    async def _rewritten_soon(self, found: Found) -> None:
        try:
            await self._rewritten(found, False)
        finally:
            for block in found:
                self._under_way.pop(block, None)

    def _somebody_to_ask(self) -> None:
        if self.unhealed:
            self._tasks.begin(self._heal_again(self.unhealed.blocks()))

    async def _heal_again(self, blocks: list[DamagedBlock]) -> None:
        try:
            await self.heal(blocks)
        finally:
            self._tending = False

    def _damaged_now(self, blocks: Sequence[DamagedBlock]) -> list[DamagedBlock]:
        """Those of the blocks that are not right. Waits for the disk."""
        return [block for block in blocks if not self._is_right(block)]

    def _is_right(self, block: DamagedBlock) -> bool:
        content = bytearray(BLOCK)
        try:
            return self._files.pread(block.kind, block.address, [content], False) and holds(content, block.digest)
        except OSError:
            return False
        except KeyError:  # nothing is read from there any more
            return True

    # Fetching

    async def _fetched(self, blocks: Sequence[DamagedBlock]) -> Found:
        """What siblings have of these; the others are noted as not healed. A sibling that had nothing is not asked
        for the same again at once."""
        asked = self.unhealed.due(blocks, self.siblings.generation)
        if not asked or not self.siblings:
            self._not_healed([block for block in blocks if not self.unhealed.known(block)])
            return {}
        wanted = await self._wanted(asked)
        got, answered = await self.siblings.fetch(list(wanted.values()))
        found = {block: got[block.key] for block in wanted if block.key in got}
        self._not_healed([block for block in asked if block not in found], answered)
        return found

    def _not_healed(self, blocks: list[DamagedBlock], answered: bool = True) -> None:
        needed = [block for block in blocks if self._still_needed(block)]  # a fold may have gone on meanwhile
        new = self.unhealed.add(needed, self.siblings.generation if answered else NOT_ANSWERED)
        if new and answered and self._has_others():
            told = range_words(ranges(block.block for block in new))
            why = "no other copy has it" if self.siblings else "there is no other copy to ask at the moment"
            self._events.tell(f"{told} can't be healed: {why}", EventKind.DAMAGE)

    def _has_others(self) -> bool:
        """Whether this is a copy among others. Where it is not, that a block is damaged says everything."""
        state = self._log.manifest.state
        return state.role == Role.SECONDARY or bool(state.mirrors)

    async def _wanted(self, blocks: Sequence[DamagedBlock]) -> dict[DamagedBlock, Wanted]:
        """As siblings are asked for these; those that lie in the log by their references."""
        opened = opened_columns(self._log)
        segments: dict[DamagedBlock, Segment] = {}
        for block in blocks:
            if block.in_log and (segment := self._segment_of(block)) is not None:
                segments[block] = segment
        return await self._log.work.call(self._referred, blocks, segments, opened)

    def _segment_of(self, block: DamagedBlock) -> Segment | None:
        return self._log.pool.by_use.get(block.address // self._log.pool.segment_blocks)

    def _referred(
        self, blocks: Sequence[DamagedBlock], segments: dict[DamagedBlock, Segment], opened: Columns | None
    ) -> dict[DamagedBlock, Wanted]:
        columns = {segment.use: columns_of(self._log, segment, opened) for segment in segments.values()}
        wanted = {}
        for block in blocks:
            segment = segments.get(block)
            known = None if segment is None else columns[segment.use]
            stated = None if known is None else stated_at(known, Address(block.address))
            if stated is not None and stated.digest == block.digest:
                wanted[block] = Wanted(block.block, block.digest, stated.position, stated.index)
            elif not block.in_log:
                wanted[block] = Wanted(block.block, block.digest)
        return wanted

    # Rewriting

    async def _rewritten(self, found: Found, busy_held: bool) -> list[DamagedBlock]:
        """Write what was found to its places; those where that was not possible."""
        left: list[DamagedBlock] = []
        by_use: dict[int, Found] = {}
        for block, each in found.items():
            if block.in_log:
                by_use.setdefault(block.address // self._log.pool.segment_blocks, {})[block] = each
        for here in by_use.values():
            left += await self._in_segment(here)
        others = {block: each for block, each in found.items() if not block.in_log}
        if others:
            async with AsyncExitStack() as held:
                if not busy_held:
                    await held.enter_async_context(self._busy)
                left += await self._in_image({b: each for b, each in others.items() if b.kind == IMAGE})
                left += await self._in_rescue_files({b: each for b, each in others.items() if b.kind != IMAGE})
        return left

    async def _in_segment(self, found: Found) -> list[DamagedBlock]:
        """Blocks of one segment, whose file gets no other use meanwhile."""
        try:
            with self._log.repairs.repairing(Address(next(iter(found)).address)) as segment:
                offsets = {block: (block.address - segment.base) * BLOCK for block in found}
                return await self._write(self._log_directory, segment_name(segment.index), offsets, found)
        except KeyError:
            return []  # recycled: nothing needs it any more

    async def _in_image(self, found: Found) -> list[DamagedBlock]:
        """Blocks of the image, which no fold changes meanwhile, as far as it still has them with these digests."""
        if not found or self._log.manifest.state.base is not None:  # a base that is still coming writes there
            return list(found)
        here = [block for block in found if self._in_image_now(block)]
        offsets = {block: block.block * BLOCK for block in here}
        return await self._write(self._directory, layout.IMAGE, offsets, found) if here else []

    def _in_image_now(self, block: DamagedBlock) -> bool:
        try:
            stated = self._image.digests.get(np.array([block.block], np.uint64), False)
        except (Damaged, OSError):
            return False
        return stated is not None and int(stated[0]) == block.digest

    async def _in_rescue_files(self, found: Found) -> list[DamagedBlock]:
        by_name: dict[str, dict[DamagedBlock, int]] = {}
        for block in found:
            name, index = self._rescued.file_name(block.address), (block.address - RESCUED) % (1 << RESCUED_SHIFT)
            if name is not None:
                by_name.setdefault(name, {})[block] = index * BLOCK
        if not by_name:
            return []
        directory = self._directory.child(layout.RESCUE)
        try:
            return [
                block
                for name, offsets in by_name.items()
                for block in await self._write(directory, name, offsets, found)
            ]
        finally:
            directory.close()

    async def _write(
        self, directory: Directory, name: str, offsets: dict[DamagedBlock, int], found: Found
    ) -> list[DamagedBlock]:
        """Rewrite blocks of one file; those that the disk does not give back."""
        rewrites = [Rewrite(offset, found[block].content, block.digest) for block, offset in offsets.items()]
        try:
            async with self._turn:
                became = await rewrite(self._log.work, directory, name, rewrites)
        except OSError as error:
            self._events.tell(f"{name}: a block can't be rewritten: {error.strerror}", EventKind.TROUBLE)
            became = [Outcome.WRONG] * len(rewrites)
        by_outcome = {one: [b for b, was in zip(offsets, became, strict=True) if was is one] for one in Outcome}
        self._healed(by_outcome[Outcome.REWRITTEN], found)
        self.unhealed.remove(by_outcome[Outcome.WAS_RIGHT])
        self.unhealed.add(by_outcome[Outcome.WRONG], self.siblings.generation)
        return by_outcome[Outcome.WRONG]

    def _healed(self, blocks: list[DamagedBlock], found: Found) -> None:
        self.healed_blocks += len(blocks)
        self.unhealed.remove(blocks)
        for source, place in sorted({(found[block].source, block.place) for block in blocks}):
            here = [b.block for b in blocks if (found[b].source, b.place) == (source, place)]
            told = f"healed {range_words(ranges(here))} in the {place}, from {source}"
            self._events.tell(told, EventKind.HEALED)

    # What is still needed

    def _still_needed(self, block: DamagedBlock) -> bool:
        """Whether anything still reads the block from that place, as far as memory knows."""
        if block.in_log:
            return self._segment_of(block) is not None
        if block.kind != IMAGE:
            return self._rescued.file_name(block.address) is not None
        try:
            stated = self._image.digests.get(np.array([block.block], np.uint64), True)
        except (Damaged, OSError):
            return True
        return stated is None or int(stated[0]) == block.digest
