"""A slice of one segment of the log, read and compared with what its headers state, in the helper process.

Where the segment has a footer, or is the one that is being written and its columns are given, these say where
every transfer lies: a header that is damaged then hides no other. Without them the transfers are followed along
their chain. Of each transfer the header is verified, and that it is the one that the columns speak of; that its
chain goes on from the transfer before it; each whole block against its digest, and the fragments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA
from revolume.blocks.digest import LOST_DIGEST, ZERO_DIGEST, block_digests
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address
from revolume.chain.versions import SegmentSpec
from revolume.host.disk import Disk, File
from revolume.host.medium_file import MediumFile
from revolume.log.format.columns import Columns, ColumnsBuilder, exclusive_cumsum, select
from revolume.log.format.segment import Segment, read_footer, segment_name
from revolume.log.read.scan import FoundTransfer, SegmentReader, chain_behind, payload_agrees
from revolume.volume.heal.damaged_block import DamagedBlock
from revolume.volume.scrub.finding import Finding, Part

U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class SegmentSlice:
    """From block ``first`` of a segment on, transfers until ``size`` bytes are read, at least one. ``columns``: of
    the segment that is being written. ``chain``: of the transfer before, empty where it is not known."""

    log_path: str
    volume: bytes
    segment: SegmentSpec
    first: int
    size: int
    chain: bytes = b""
    columns: Columns | None = None


@dataclass(frozen=True, slots=True)
class SegmentChecked:
    """``next_block``: where the next slice begins; None: the segment is done, at block ``end``. ``chain``: of the
    last transfer. ``follows``: its first transfer goes on from the chain that was given. ``has_footer``: what the
    segment's end should have is there, and whole."""

    findings: tuple[Finding, ...]
    next_block: int | None
    end: int
    chain: bytes
    follows: bool
    bytes_read: int
    has_footer: bool


def check_segment(disk: Disk, spec: SegmentSlice) -> SegmentChecked:
    """Read the slice. OSError: the file is gone, or can't be opened; nothing is known then."""
    log = disk.open(spec.log_path)
    file = log.open(segment_name(spec.segment.index), write=False)
    try:
        return _SegmentCheck(spec, MediumFile(file, end=spec.first * BLOCK + spec.size)).run()
    finally:
        file.close()
        log.close()


class _SegmentCheck:
    def __init__(self, spec: SegmentSlice, medium: MediumFile) -> None:
        self._spec = spec
        self._medium = medium
        file = cast(File, medium)  # of a file that is only read: nothing below does anything else
        part = spec.segment
        self._segment = Segment(part.index, part.use, part.blocks, file)
        self._reader = SegmentReader(self._segment, spec.volume)
        self._findings: list[Finding] = []
        self._chain = spec.chain
        self._end = spec.first
        self._first = True
        self._follows = True

    def run(self) -> SegmentChecked:
        given, has_footer = self._spec.columns, True
        if given is None:
            footer = read_footer(self._segment, self._spec.volume)
            has_footer = footer is not None
            given = footer.columns if footer is not None else None
        following = self._by_columns(given) if given is not None else self._by_headers()
        read = self._medium.bytes_read
        return SegmentChecked(
            findings=tuple(self._findings), next_block=following, end=self._end, chain=self._chain,
            follows=self._follows, bytes_read=read, has_footer=has_footer,
        )  # fmt: skip

    def _by_columns(self, columns: Columns) -> int | None:
        """Where the next slice begins."""
        starts = exclusive_cumsum(columns.rows["digests"].astype(np.uint64)).tolist()
        rows = columns.rows
        stop = self._spec.segment.end
        first = int(rows["block"].searchsorted(self._spec.first))
        end = self._spec.first * BLOCK + self._spec.size
        for number in range(first, len(rows)):
            row = rows[number]
            block = int(row["block"])
            if stop is not None and block >= stop:  # written before a crash that cut the log there
                return None
            if number > first and block * BLOCK >= end:
                return block
            stated = columns.digests[starts[number] : starts[number] + int(row["digests"])]
            found = self._stated(block, int(row["position"]), stated)
            self._header(found, block, int(row["header_blocks"]))
            self._end = block + int(row["header_blocks"])
            size = int(row["blocks"]) * BLOCK + int(row["fragment_bytes"])
            payload = self._payload(block + int(row["header_blocks"]), size)
            wrong = _wrong(payload, stated.tolist(), int(row["blocks"]))
            if wrong:
                self._blocks(_one(columns, number), wrong)
            if found is not None:
                self._fragments(found, payload)
            self._end += -(-size // BLOCK)
        return None

    def _stated(self, block: int, position: int, digests: U64) -> FoundTransfer | None:
        """The transfer at ``block``, if its header holds and says the same as the columns."""
        found = self._reader.at(block)
        if found is None or found.transfer.position != position:
            return None
        return found if np.array_equal(found.transfer.digests, digests) else None

    def _by_headers(self) -> int | None:
        """Check a segment without columns, header by header: it ends where no transfer follows."""
        block, end = self._spec.first, self._spec.first * BLOCK + self._spec.size
        for found in self._following(block):
            self._header(found, found.block)
            transfer = found.transfer
            payload = self._payload(found.payload_block, transfer.payload_bytes)
            wrong = _wrong(payload, transfer.digests.tolist(), transfer.blocks)
            if wrong:
                builder = ColumnsBuilder(self._segment.base)
                builder.add_transfer(transfer, found.block, found.node_header.lived_ns)
                self._blocks(builder.freeze(), wrong)
            self._fragments(found, payload)
            block = self._end = found.end_block
            if block * BLOCK >= end:
                return block
        if self._spec.segment.end is not None and block < self._spec.segment.end:
            self._header(None, block)
        return None

    def _following(self, block: int) -> Iterator[FoundTransfer]:
        first = self._reader.at(block)
        if first is not None:
            yield from self._reader.chain_from(block, first.transfer.previous, self._spec.segment.end)

    def _header(self, found: FoundTransfer | None, block: int, blocks: int = 0) -> None:
        """Whether the transfer at ``block`` has a header that holds, and goes on from the one before. ``blocks``
        that the header takes, where columns say so: it can be healed then."""
        if found is None:
            self._chain, self._first = b"", False
            self._medium.uncache(block * BLOCK, blocks * BLOCK)
            self._find(Part.HEADER, block * BLOCK, transfer=block if blocks else None)
            return
        if self._chain and found.transfer.previous != self._chain:
            if self._first:
                self._follows = False
            else:
                self._find(Part.HEADER, block * BLOCK)
        self._first = False
        self._chain = chain_behind(found.transfer)

    def _payload(self, block: int, size: int) -> memoryview:
        """Zeroes where the file ends: it has been cut."""
        return self._medium.read(block * BLOCK, size)

    def _blocks(self, columns: Columns, wrong: list[int]) -> None:
        """Name the whole blocks of one transfer whose content is wrong, by their number in its payload."""
        versions, row = columns.versions(), columns.rows[0]
        first = columns.base + int(row["block"]) + int(row["header_blocks"])
        by_address = {
            int(word) & ADDRESS_MASK: int(block)
            for word, block in zip(versions.words.tolist(), versions.blocks.tolist(), strict=True)
        }
        for index in wrong:
            address, digest = first + index, int(columns.digests[index])
            block = by_address.get(address)
            self._medium.uncache((address - columns.base) * BLOCK, BLOCK)
            damaged = None if block is None else DamagedBlock(block, digest, DATA, address)
            self._find(Part.BLOCK, (address - columns.base) * BLOCK, damaged)

    def _fragments(self, found: FoundTransfer, payload: memoryview) -> None:
        transfer = found.transfer
        if not transfer.fragment_bytes:
            return
        whole = replace(transfer, digests=transfer.digests.copy())
        whole.digests[: transfer.blocks] = block_digests(payload, transfer.blocks)  # looked at already
        if not payload_agrees(whole, payload):
            offset = (found.payload_block + transfer.blocks) * BLOCK
            self._medium.uncache(offset, transfer.fragment_bytes)
            self._find(Part.FRAGMENT, offset, transfer=found.block)

    def _find(
        self, part: Part, offset: int, block: DamagedBlock | None = None, transfer: int | None = None
    ) -> None:
        """``transfer``: the block at which it begins, if it may be healed."""
        name = segment_name(self._segment.index)
        address = None if transfer is None else Address(self._segment.base + transfer)
        self._findings.append(Finding(part, f"log/{name}, byte {offset}", block, transfer=address))


def _one(columns: Columns, number: int) -> Columns:
    chosen = np.zeros(len(columns.rows), bool)
    chosen[number] = True
    return select(columns, chosen)


def _wrong(payload: memoryview, stated: list[int], count: int) -> list[int]:
    """Which of the first ``count`` blocks are not what is stated; of a lost block zeroes are."""
    found = block_digests(payload, count)
    if found == stated[:count]:
        return []
    return [
        index
        for index, (here, there) in enumerate(zip(found, stated[:count], strict=True))
        if here != (ZERO_DIGEST if there == LOST_DIGEST else there)
    ]
