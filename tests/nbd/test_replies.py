"""Replies as bytes, held against layouts written down a second time."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from revolume.nbd.wire.constants import Errno
from revolume.nbd.wire.replies import ExtendedEncoder, SimpleEncoder, StructuredEncoder, clip

COOKIES = [struct.pack(">Q", number) for number in (1, 2, 3)]
PLACES = [struct.pack(">QQ", number, number << 12) for number in (1, 2, 3)]


def test_a_batch_of_successes_is_one_reply_after_the_other():
    simple = b"".join(struct.pack(">IIQ", 0x67446698, 0, number) for number in (1, 2, 3))
    assert SimpleEncoder().done(COOKIES) == simple
    assert StructuredEncoder().done(COOKIES) == simple
    assert ExtendedEncoder().done(PLACES) == b"".join(
        struct.pack(">IHHQQQ", 0x6E8A278C, 1, 0, number, number << 12, 0) for number in (1, 2, 3)
    )


def test_failures_carry_a_sentence_where_there_is_room_for_one():
    assert SimpleEncoder().failure(COOKIES[0], Errno.EIO, "no") == struct.pack(">IIQ", 0x67446698, 5, 1)
    payload = struct.pack(">IH", 5, 2) + b"no"
    header = struct.pack(">IHHQI", 0x668E33EF, 1, 0x8001, 1, 8)
    assert StructuredEncoder().failure(COOKIES[0], Errno.EIO, "no") == header + payload
    header = struct.pack(">IHHQQQ", 0x6E8A278C, 1, 0x8001, 1, 4096, 8)
    assert ExtendedEncoder().failure(PLACES[0], Errno.EIO, "no") == header + payload
    assert len(StructuredEncoder().failure(COOKIES[0], Errno.EIO, "ä" * 5000)) == 20 + 6 + 4096


def test_data_headers_stand_before_the_data():
    for encoder, token, expected in (
        (SimpleEncoder(), COOKIES[0], struct.pack(">IIQ", 0x67446698, 0, 1)),
        (StructuredEncoder(), COOKIES[0], struct.pack(">IHHQIQ", 0x668E33EF, 1, 1, 1, 108, 512)),
        (ExtendedEncoder(), PLACES[0], struct.pack(">IHHQQQQ", 0x6E8A278C, 1, 1, 1, 4096, 108, 512)),
    ):
        buffer = bytearray(50)
        encoder.put_data_header(memoryview(buffer), 5, token, 512, 100, True)
        assert encoder.data_header_bytes == len(expected)
        assert buffer[5 : 5 + len(expected)] == expected


def test_block_status_chunks():
    extents = [(4096, 0), (8192, 3)]
    assert StructuredEncoder().status(COOKIES[0], 9, extents, False) == struct.pack(
        ">IHHQIIIIII", 0x668E33EF, 0, 5, 1, 20, 9, 4096, 0, 8192, 3
    )
    assert ExtendedEncoder().status(PLACES[0], 9, extents, True) == struct.pack(
        ">IHHQQQIIQQQQ", 0x6E8A278C, 1, 6, 1, 4096, 40, 9, 2, 4096, 0, 8192, 3
    )


@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 2)), min_size=1, max_size=20),
    st.integers(1, 500),
    st.booleans(),
)
def test_clipped_extents_say_the_same_within_the_request(extents, length, one):
    clipped = clip(extents, length, one)
    said = [flags for part, flags in clipped for _ in range(part)]
    meant = [flags for part, flags in extents for _ in range(part)][:length]
    assert said == meant[: len(said)]
    assert 0 < len(said) <= length
    assert all(part > 0 for part, _ in clipped)
    if one:
        assert len(clipped) == 1
    else:
        assert len(said) == len(meant)
