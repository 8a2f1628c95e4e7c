"""Where a view finds its blocks: in its own map, in the image, or rescued, where the image has gone on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, PARTIAL_WORD, ZERO, kinds
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.numbers import WriteNumber
from revolume.blocks.ranges import Ranges
from revolume.chain.layered_map import LayeredMap
from revolume.chain.map_file import MapFile
from revolume.chain.versions import Fragment
from revolume.errors import Damaged
from revolume.volume.livemap.reader import ReadVersion
from revolume.volume.volume_base import OpenVolume

U64 = npt.NDArray[np.uint64]
MASK = np.uint64(ADDRESS_MASK)


async def nothing_to_mend() -> bool:
    """A source that nobody mends."""
    return False


class ViewSource:
    """What a view's reader reads from: the view's map over the image, and the blocks that were partially modified
    at its moment."""

    def __init__(self, volume: OpenVolume, write: WriteNumber, made: MapFile | LayeredMap | None) -> None:
        self._volume = volume
        self.write = write
        self._map = made
        self.mend: Callable[[], Awaitable[bool]] = nothing_to_mend
        self.partials: dict[int, bytes | Damaged] = {}
        self._partial_blocks = np.zeros(0, np.uint64)
        self._partial_words = np.zeros(0, np.uint64)

    @property
    def generation(self) -> int:
        """A number that changes when a fold or a new base changes what lies in the image."""
        return self._volume.image.generation

    @property
    def _ranges(self) -> Ranges:
        return self._map.ranges() if self._map is not None else Ranges()

    @property
    def damaged(self) -> bool:
        """A page of its maps has been met that is not what was written: ``exchange`` them."""
        return self._map is not None and self._map.damaged

    def exchange(self, made: LayeredMap | None) -> None:
        """The same, looked up elsewhere from now on."""
        self._map = made

    async def mended(self) -> bool:
        """Whether its maps were damaged, and others are in their place now."""
        return await self.mend()

    def hold(self, partials: dict[int, bytes | Damaged], fragments: tuple[Fragment, ...]) -> None:
        """Set the content of the blocks partially modified at the view's moment (Damaged where it can't be read),
        and the fragments, in write order, that it was made of. The newest fragment's location is the block's."""
        self.partials = partials
        self._partial_blocks = np.array(sorted(partials), np.uint64)
        newest = {fragment.block: fragment.word for fragment in fragments}
        self._partial_words = np.array([newest[block] for block in sorted(partials)], np.uint64)

    def lookup(self, blocks: U64) -> tuple[U64, U64]:
        """Locations and digests (uint64, one for each of ``blocks``, in any order) that are in memory: of partial
        blocks. 0 for all others, which ``settle`` resolves."""
        words = np.zeros(len(blocks), np.uint64)
        if len(self._partial_blocks):
            words[np.isin(blocks, self._partial_blocks)] = PARTIAL_WORD
        return words, np.zeros(len(blocks), np.uint64)

    def settle(self, blocks: U64, words: U64, digests: U64, nowait: bool) -> bool:
        """Resolve, in place, the locations that ``lookup`` left 0: from the view's map, else the image, for which
        the location stays 0 and the digest is that of ``image.sums``; or from what was rescued, where the image
        has gone on. False: pages would have to be read, only with ``nowait``. Damaged: a page of the map or of the
        digests is not what was written."""
        if not self._from_map_and_image(blocks, words, digests, nowait):
            return False
        return self._from_rescued(blocks, words, digests, nowait)

    def _from_rescued(self, blocks: U64, words: U64, digests: U64, nowait: bool) -> bool:
        """Asked after the image's digests: a fold that has replaced those had rescued before."""
        rescued = self._volume.rescued
        if not rescued.needed_by(self.write):
            return True
        missing = np.flatnonzero(words == 0)
        found = rescued.get(self.write, blocks[missing], nowait)
        if found is None:
            return False
        hit = found[0] != 0
        at = missing[hit]
        words[at], digests[at] = found[0][hit], found[1][hit]
        words[at[kinds(words[at]) == ZERO]] = 0
        return True

    def _from_map_and_image(self, blocks: U64, words: U64, digests: U64, nowait: bool) -> bool:
        missing = np.flatnonzero(words == 0)
        if self._map is not None:
            found = self._map.get(blocks[missing], nowait)
            if found is None:
                return False
            words[missing], digests[missing] = found
            missing = missing[found[0] == 0]
        if len(missing):
            sums = self._volume.image.digests.get(blocks[missing], nowait)
            if sums is None:
                return False
            digests[missing] = sums
        kind = kinds(words)
        zero = kind == ZERO
        digests[zero] = 0
        words[zero | ((kind == DATA) & ((words & MASK) < np.uint64(self._volume.live.folded)))] = 0
        return True

    def words(self, blocks: U64) -> U64:
        """Locations with their addresses (uint64, one for each of ``blocks``), partial blocks included; 0 where
        the block is as the image had it before the map begins. Reads the disk."""
        if self._map is None:
            return np.zeros(len(blocks), np.uint64)
        found = self._map.get(blocks, False)
        assert found is not None
        words = found[0]
        if len(self._partial_blocks):
            at = np.minimum(np.searchsorted(self._partial_blocks, blocks), len(self._partial_blocks) - 1)
            in_part = self._partial_blocks[at] == blocks
            words[in_part] = self._partial_words[at[in_part]]
        return words

    def changed_blocks(self) -> Iterator[U64]:
        """The numbers of blocks that may have changed between the horizon and the moment, in pieces, each of which
        ascends. Waits for the disk."""
        if self._map is not None:
            yield from (piece.blocks for piece in self._map.pieces())
        for start, end, _ in self._ranges:
            yield from (blocks for blocks, _ in self._volume.image.digests.within(start, end))

    def may_hold(self, start: int, end: int) -> bool:
        """Whether a block in [start, end) may hold anything: False is sure. Waits for the disk."""
        if len(self._partial_blocks) and ((self._partial_blocks >= start) & (self._partial_blocks < end)).any():
            return True
        if any(len(piece) for piece in self.entries_within(start, end)):
            return True
        if any(len(blocks) for blocks, _ in self._volume.image.digests.within(start, end)):
            return True
        rescued = self._volume.rescued
        if not rescued.needed_by(self.write):
            return False
        try:
            return any(len(piece) for piece in rescued.within(self.write, None, start, end))
        except OSError:  # a table was merged and closed meanwhile
            return True

    def entries_within(self, start: int, end: int) -> Iterator[DeltaMap]:
        """The map's entries of the blocks [start, end), ascending, in pieces. Waits for the disk."""
        return self._map.within(start, end) if self._map is not None else iter(())

    def ranges_within(self, start: int, end: int) -> tuple[U64, U64, U64]:
        """Starts, ends and locations of the map's zero ranges in [start, end). An entry wins over a range."""
        return self._ranges.overlapping(start, end)

    def partial(self, block: int) -> bytes | bytearray | None:
        """The 4096 bytes of a partially modified block; None if it isn't one, or is damaged."""
        content = self.partials.get(block)
        return None if isinstance(content, Damaged) else content

    async def merge_partial(self, block: int, read_version: ReadVersion) -> None:
        """Do nothing: partial blocks of a view are put together when it is opened. Damaged: this one could not
        be."""
        content = self.partials.get(block)
        if isinstance(content, Damaged):
            raise Damaged(content.code, content.cause, content.hint)
