"""Moments over a link: what is said is what is heard, and nothing is believed that is cut, bent or too long."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from revolume.blocks.digest import block_digests
from revolume.blocks.numbers import Position, WriteNumber
from revolume.errors import RevolumeError
from revolume.mirror.wire.begin_messages import BaseStart, EpochEntry, NamedSnapshot
from revolume.mirror.wire.block_messages import pack_blocks
from revolume.mirror.wire.codec import NOWHERE
from revolume.mirror.wire.frames import ProtocolError, Type, control
from revolume.mirror.wire.recall_messages import (
    MOMENTS_BODY_MAX,
    NAMES_BYTES_MAX,
    RECALL_BODY_MAX,
    ROWS_MAX,
    TEXT_BYTES_MAX,
    MomentEntry,
    Moments,
    Recall,
    Recalled,
    pack_moments,
    pack_recall,
    pack_recalled,
    unpack_moments,
    unpack_recall,
    unpack_recalled,
    unpack_recalled_blocks,
)
from revolume.mirror.wire.tail_messages import Fetch
from revolume.mirror.wire.version import Versions

BLOCK = 4096
ASKER = Fetch(b"v" * 16, b"n" * 16, NOWHERE)
START = BaseStart(
    end=replace(NOWHERE, position=Position(9), epoch=2, reign=b"r" * 16, write=WriteNumber(7)),
    number=3,
    write=WriteNumber(7),
    time_ns=5,
    size=1 << 20,
    root=(1, 2),
    epochs=(
        EpochEntry(1, b"q" * 16, Position(0), WriteNumber(0)),
        EpochEntry(2, b"r" * 16, Position(4), WriteNumber(2)),
    ),
    names=(NamedSnapshot("one", WriteNumber(7), 3, 5, True),),
    names_position=Position(9),
)
RECALLED = Recalled(
    b"n" * 16,
    b"v" * 16,
    "vol",
    START,
    4,
    WriteNumber(99),
    256,
    512,
    suspect=True,
    primary=False,
    fed=True,
    note="so",
)


def entries(count: int) -> tuple[MomentEntry, ...]:
    return tuple(
        MomentEntry(WriteNumber(at), at, at, not at % 2, not at % 3, ("a", f"b{at}")[: at % 3])
        for at in range(count)
    )


@pytest.mark.parametrize("count", [0, 1, 5, ROWS_MAX])
def test_moments_there_and_back(count: int) -> None:
    told = Moments("vol", entries(count))
    packed = pack_moments(told)
    assert unpack_moments(memoryview(packed)) == told
    assert len(packed) + 8 <= MOMENTS_BODY_MAX
    many = replace(entries(1)[0], names=("x" * 60,) * 20)
    assert len(",".join(unpack_moments(memoryview(pack_moments(Moments("vol", (many,))))).entries[0].names)) == (
        NAMES_BYTES_MAX
    )


def test_a_recall_and_its_answer_there_and_back() -> None:
    for asked in (Recall(ASKER, "one"), Recall(ASKER, "-10m", True), Recall(ASKER, "x" * TEXT_BYTES_MAX)):
        assert unpack_recall(memoryview(pack_recall(asked))) == asked
        assert len(pack_recall(asked)) + 8 <= RECALL_BODY_MAX
    for told in (RECALLED, replace(RECALLED, suspect=False, primary=True, fed=False, note="")):
        assert unpack_recalled(memoryview(pack_recalled(told))) == told


def test_what_was_cut_or_grew_is_none() -> None:
    for packed, unpack in (
        (pack_moments(Moments("vol", entries(4))), unpack_moments),
        (pack_recall(Recall(ASKER, "one")), unpack_recall),
        (pack_recalled(RECALLED), unpack_recalled),
    ):
        for size in range(len(packed)):
            with pytest.raises(RevolumeError):
                unpack(memoryview(packed[:size]))
        with pytest.raises(ProtocolError):
            unpack(memoryview(packed + b"x"))


def test_what_nobody_can_read_is_none() -> None:
    for packed, unpack in (
        (pack_recall(Recall(ASKER, "a\x1b[2J")), unpack_recall),
        (pack_moments(Moments("v\n", ())), unpack_moments),
        (pack_recall(Recall(ASKER, "x" * (TEXT_BYTES_MAX + 1))), unpack_recall),
        (pack_moments(Moments("vol", entries(ROWS_MAX + 1))), unpack_moments),
    ):
        with pytest.raises(ProtocolError):
            unpack(memoryview(packed))


def test_who_speaks_no_common_version_is_told_so() -> None:
    strange = replace(ASKER, versions=Versions(9, 9))
    with pytest.raises(RevolumeError, match="no version of the mirror protocol in common"):
        unpack_recall(memoryview(pack_recall(Recall(strange, "one"))))
    with pytest.raises(RevolumeError, match="no version of the mirror protocol in common"):
        unpack_moments(memoryview(pack_moments(Moments("vol", (), version=9))))


def blocks_frame(digests: list[int], payload: bytes, numbers: list[int] | None = None) -> memoryview:
    named = np.array(numbers or range(len(digests)), np.uint64)
    head = pack_blocks(3, named, np.array(digests, np.uint64))
    return memoryview(control(Type.RECALLED_BLOCKS, 5, head, payload=len(payload)) + payload)


def test_blocks_have_their_digests_or_are_zeroes_in_place_of_damage() -> None:
    content = b"x" * BLOCK
    digest = int(block_digests(memoryview(content), 1)[0])
    rows = unpack_recalled_blocks(blocks_frame([digest, 0, 77], content + bytes(BLOCK)))
    assert rows.digests.tolist() == [digest, 0, 77] and bytes(rows.payload) == content + bytes(BLOCK)
    for frame in (
        blocks_frame([digest], b"y" * BLOCK),
        blocks_frame([digest], content[:-1]),
        blocks_frame([digest, digest], content),
        blocks_frame([digest, digest], 2 * content, [4, 4]),
        blocks_frame([0], content),
    ):
        with pytest.raises(ProtocolError):
            unpack_recalled_blocks(frame)
