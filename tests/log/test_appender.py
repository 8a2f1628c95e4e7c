"""The appender alone, over one file: what it numbers, what moves, and what does not when a write fails."""

from __future__ import annotations

import errno
from array import array
from collections.abc import Sequence
from pathlib import Path

import pytest

from revolume.blocks.digest import block_digests
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position
from revolume.errors import Refused
from revolume.host.disk import Buffer, File
from revolume.host.real.disk import RealDisk
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import KIND_SHIFT, EntryKind, Flag, Kind
from revolume.log.read.scan import SegmentReader
from revolume.log.write.appender import Appender, Draft, LogEnd, NodeHeaderState

VOLUME, REIGN = bytes(range(16)), bytes(16)
BLOCKS = 64
EMPTY = LogEnd(position=0, chain=bytes(16), write=0, time_ns=0)


def draft(block: int, content: bytes) -> Draft:
    """One write of whole blocks."""
    count = len(content) // BLOCK
    lengths = array("Q", [len(content) | EntryKind.WRITE << KIND_SHIFT])
    digests = array("Q", block_digests(memoryview(content), count))
    return Draft(Kind.WRITES, array("Q", [block * BLOCK]), lengths, digests, [content], count, 0, 1)


class Failing:
    """A file of which the next writes fail."""

    def __init__(self, file: File, times: int, number: int) -> None:
        self._file = file
        self._times = times
        self._errno = number

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        if self._times:
            self._times -= 1
            raise OSError(self._errno, "no")
        self._file.pwritev(buffers, offset)


def made(path: Path, end: LogEnd = EMPTY, **more: object) -> tuple[Appender, Segment]:
    file = RealDisk().open(str(path)).open("000.seg", create=True)
    file.truncate(BLOCKS * BLOCK)
    segment = Segment(0, 5, BLOCKS, file)
    appender = Appender(
        VOLUME, REIGN, 3, end, NodeHeaderState(durable=7, edit=8, horizon=9), lambda: 1000, lambda: 2000,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip
    appender.open(segment)
    return appender, segment


def test_appends_are_numbered_in_order_and_found_where_it_says(tmp_path: Path) -> None:
    appender, segment = made(tmp_path)
    first = appender.append(draft(1, b"a" * BLOCK))
    second = appender.append(draft(2, b"b" * 2 * BLOCK))
    assert (appender.position, appender.written, appender.time_ns, appender.lived_ns) == (2, 2, 1000, 2000)
    assert first == 5 * BLOCKS + 1 and second == first + 2 and appender.address == second + 2
    reader = SegmentReader(segment, VOLUME)
    found = [reader.at(0), reader.at(2)]
    assert [each and each.transfer.position for each in found] == [1, 2]
    assert found[1] and found[1].node_header.durable == 7 and found[1].transfer.epoch == 3
    assert len(appender.columns.freeze().rows) == 2


def test_nothing_moves_when_a_write_fails(tmp_path: Path) -> None:
    appender, segment = made(tmp_path)
    appender.append(draft(1, b"a" * BLOCK))
    before = (appender.position, appender.written, appender.address, appender.chain)
    segment.file = Failing(segment.file, 1, errno.EIO)  # type: ignore[assignment]
    with pytest.raises(OSError):
        appender.append(draft(2, b"b" * BLOCK))
    assert before == (appender.position, appender.written, appender.address, appender.chain)


@pytest.mark.parametrize("found", [True, False])
def test_without_room_it_is_written_once_more_if_some_is_found(tmp_path: Path, found: bool) -> None:
    asked: list[bool] = []

    def find_room() -> bool:
        asked.append(found)
        return found

    appender, segment = made(tmp_path, find_room=find_room)
    segment.file = Failing(segment.file, 1, errno.ENOSPC)  # type: ignore[assignment]
    if found:
        appender.append(draft(1, b"a" * BLOCK))
    else:
        with pytest.raises(OSError):
            appender.append(draft(1, b"a" * BLOCK))
    assert asked == [found] and appender.position == int(found)


def part(block: int, flags: Flag, content: bytes = b"p" * BLOCK) -> Draft:
    """A part of a write of many places; without ``content`` its end."""
    made = draft(block, content) if content else Draft(Kind.WRITES, *(array("Q") for _ in range(3)), [], 0, 0, 1)
    made.flags = flags
    return made


def test_the_end_of_a_write_that_was_half_there_states_what_is_synced_of_it(
    tmp_path: Path,
) -> None:
    appender, segment = made(tmp_path)
    appender.append(draft(1, b"a" * BLOCK))
    appender._header.durable = Position(1)
    for number in range(3):
        appender.append(part(10 + number, Flag.CONTINUED | Flag.UNDIVIDED))
        appender._header.synced = Position(appender.position)
        assert (appender.complete_position, appender.written, appender.position) == (1, 1, number + 2)
    appender.append(part(0, Flag.NONE, b""))
    assert (appender.complete_position, appender.written, appender.position) == (5, appender.write, 5)
    appender.append(draft(2, b"b" * BLOCK))
    found = SegmentReader(segment, VOLUME).chain_from(0, bytes(16))
    assert [each.node_header.durable for each in found] == [7, 1, 1, 1, 4, 1]


def test_an_end_with_content_states_nothing_of_its_write(tmp_path: Path) -> None:
    """It may be there in part."""
    appender, segment = made(tmp_path)
    appender.append(part(1, Flag.CONTINUED))
    appender._header.durable, appender._header.synced = Position(0), Position(1)
    appender.append(part(2, Flag.NONE))
    found = SegmentReader(segment, VOLUME).chain_from(0, bytes(16))
    assert [each.node_header.durable for each in found] == [7, 0] and appender.complete_position == 2


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_end_of_one_that_is_received_states_what_is_synced_here(tmp_path: Path, batch: int) -> None:
    (tmp_path / "there").mkdir()
    source, segment = made(tmp_path)
    source.append(draft(1, b"a" * BLOCK))
    for number in range(3):
        source.append(part(10 + number, Flag.CONTINUED | Flag.UNDIVIDED))
    source.append(part(0, Flag.NONE, b""))
    source.append(draft(2, b"b" * BLOCK))
    reader, sent = SegmentReader(segment, VOLUME), list[ReceivedTransfer]()
    for each in reader.chain_from(0, bytes(16)):
        payload = bytearray(each.transfer.payload_bytes)
        segment.file.preadv([payload], each.payload_block * BLOCK)
        sent.append(ReceivedTransfer(each.transfer, reader.shared_header(each), memoryview(payload)))
    copy, there = made(tmp_path / "there")
    copy._header.durable, copy._header.synced = Position(0), Position(2)
    for at in range(0, len(sent), batch):
        copy.append_received(sent[at : at + batch])
        assert copy.complete_position == (copy.position if copy.position in (1, 5, 6) else 1)
    found = SegmentReader(there, VOLUME).chain_from(0, bytes(16))
    assert [each.node_header.durable for each in found] == [0, 0, 0, 0, 2, 0]


def test_an_observer_is_told_before_the_write_is_in_the_file(tmp_path: Path) -> None:
    appender, segment = made(tmp_path)
    told: list[tuple[int, bool]] = []

    class Observer:
        def packed(self, draft: Draft, position: int, shared_header: bytes) -> None:
            told.append((position, SegmentReader(segment, VOLUME).at(0) is None))

        def appended(self, draft: Draft, payload: int) -> None:
            raise AssertionError("that is the writer's to tell")

    appender.observer = Observer()
    appender.append(draft(1, b"a" * BLOCK))
    assert told == [(1, True)]


def test_only_transfers_that_follow_are_kept(tmp_path: Path) -> None:
    source, segment = made(tmp_path / "source") if (tmp_path / "source").mkdir() is None else (None, None)
    assert source is not None and segment is not None
    content = [b"a" * BLOCK, b"b" * BLOCK]
    for number, each in enumerate(content):
        source.append(draft(number, each))
    reader = SegmentReader(segment, VOLUME)
    carried = []
    for block, each in zip((0, 2), content, strict=True):
        found = reader.at(block)
        assert found is not None
        carried.append(ReceivedTransfer(found.transfer, reader.shared_header(found), each))
    (tmp_path / "mirror").mkdir()
    mirror, _ = made(tmp_path / "mirror")
    with pytest.raises(Refused):
        mirror.append_received(carried[1:])
    assert mirror.position == 0
    assert mirror.append_received(carried) == [5 * BLOCKS + 1, 5 * BLOCKS + 3]
    assert (mirror.position, mirror.complete_position, mirror.chain, mirror.written) == (2, 2, source.chain, 2)
