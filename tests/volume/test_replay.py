"""Replay alone: a live map, a partial buffer and a transfer table out of the columns of one segment."""

from __future__ import annotations

import asyncio
from array import array
from pathlib import Path

import numpy as np

from revolume.blocks.block_location import DATA, PARTIAL, ZERO
from revolume.blocks.digest import block_digests, fragment_digest
from revolume.blocks.overlay import Overlay
from revolume.host.real.disk import RealDisk
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import BLOCK, KIND_SHIFT, EntryKind, Kind
from revolume.log.format.transfer_table import TransferTable
from revolume.log.write.appender import Appender, Draft, LogEnd, NodeHeaderState
from revolume.log.write.operations import OP_RESIZE
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.partial_blocks import PartialBlocks
from revolume.volume.livemap.replay import Replayed, ReplayTarget, replay
from revolume.volume.metadata.manifest_state import Horizon

from .store import Inline

VOLUME = bytes(range(16))
SEGMENT_BLOCKS = 64
SIZE = 1 << 20


class Log:
    """One segment, appended to; replayed as after a crash."""

    def __init__(self, path: Path) -> None:
        directory = RealDisk().open(str(path))
        file = directory.open("000.seg", create=True)
        file.truncate(SEGMENT_BLOCKS * BLOCK)
        self.segment = Segment(0, 1, SEGMENT_BLOCKS, file)
        end = LogEnd(position=0, chain=bytes(16), write=0, time_ns=0)
        self.appender = Appender(VOLUME, bytes(16), 1, end, NodeHeaderState(), lambda: 0, lambda: 0)
        self.appender.open(self.segment)
        self.digests = BlockDigests.create(directory, VOLUME, SIZE // BLOCK)
        overlay = Overlay(1 << 20)
        begin = SEGMENT_BLOCKS
        self.live = LiveMap(overlay, self.digests, begin, None, begin)
        self.partials = PartialBlocks(
            self.live.versions_of, lambda blocks, words, digests: [bytearray(BLOCK) for _ in blocks]
        )
        self.table = TransferTable()

    def write(self, block: int, content: bytes) -> int:
        """Whole blocks; the address of the first."""
        count = len(content) // BLOCK
        lengths = array("Q", [len(content) | EntryKind.WRITE << KIND_SHIFT])
        digests = array("Q", block_digests(memoryview(content), count))
        return self.appender.append(
            Draft(Kind.WRITES, array("Q", [block * BLOCK]), lengths, digests, [content], count, 0, 1)
        )

    def zero(self, block: int, count: int) -> None:
        lengths = array("Q", [count * BLOCK | EntryKind.ZERO << KIND_SHIFT])
        self.appender.append(Draft(Kind.WRITES, array("Q", [block * BLOCK]), lengths, array("Q"), [], 0, 0, 1))

    def resize(self, size: int) -> None:
        lengths = array("Q", [OP_RESIZE << KIND_SHIFT])
        self.appender.append(Draft(Kind.WRITES, array("Q", [size]), lengths, array("Q"), [], 0, 0, 1))

    def replayed(self) -> Replayed:
        horizon = Horizon(size=SIZE, address=SEGMENT_BLOCKS)
        target = ReplayTarget(
            volume_id=VOLUME, live=self.live, partials=self.partials, table=self.table, mirror=False
        )
        pieces = [(self.segment, self.appender.columns.freeze())]
        return asyncio.run(replay(target, pieces, horizon, Inline()))

    def words(self, *blocks: int) -> list[int]:
        found, _ = self.live.lookup(np.array(blocks, np.uint64))
        return [int(word) for word in found]


def test_the_newest_version_of_every_block_is_known_again(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.write(3, b"a" * 2 * BLOCK)
    second = log.write(4, b"b" * BLOCK)
    log.zero(3, 1)
    log.replayed()
    zero, data, untouched = log.words(3, 4, 9)
    assert zero >> 62 == ZERO and data == DATA << 62 | second and untouched == 0
    assert log.live.interval.count == 4 and not log.live.interval.empty, "the next point finds its changes"
    assert len(log.table) == 3


def test_part_of_a_block_is_in_the_partial_buffer_again(tmp_path: Path) -> None:
    log = Log(tmp_path)
    piece = b"p" * 512
    lengths = array("Q", [512 | EntryKind.WRITE << KIND_SHIFT])
    log.appender.append(
        Draft(
            Kind.WRITES, array("Q", [7 * BLOCK + 1024]), lengths, array("Q", [fragment_digest(piece)]), [piece],
            0, 512, 1,
        )
    )  # fmt: skip
    log.replayed()
    assert log.words(7)[0] >> 62 == PARTIAL
    content = log.partials.blocks[7].data
    assert content is not None and content[1024:1536] == piece and not any(content[:1024])


def test_sizes_follow_the_log(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.write(0, b"a" * BLOCK)
    log.resize(2 * SIZE)
    replayed = log.replayed()
    assert replayed.sizes == [(2, 2 * SIZE)] and not replayed.points and not replayed.lost
    assert replayed.last.number == 0
