"""Requests as bytes: what is whole, what is wrong, and that the stream stays in step."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.nbd.wire.constants import Command, CommandFlag, Errno
from revolume.nbd.wire.requests import (
    COMPACT_HEADER,
    EXTENDED_HEADER,
    LEGAL,
    NO_PAYLOAD,
    PASSED_OVER,
    CompactParser,
    ExtendedParser,
    fault,
    kind_of,
)

PAYLOAD_MAX = 1000


def compact(command: int, cookie: int, offset: int, length: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + payload


def extended(command: int, cookie: int, offset: int, length: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack(">IHHQQQ", 0x21E41C71, flags, command, cookie, offset, length) + payload


def drive(parser, chunks: list[bytes]) -> list[tuple]:
    """Feed the chunks as a session would; requests with their payload as bytes."""
    pending, found = bytearray(), []
    for chunk in chunks:
        pending += chunk
        while True:
            requests = parser.parse(pending, 0, len(pending))
            for kind, token, offset, length, place in requests:
                payload = bytes(pending[place : place + length]) if place > 0 else place
                found.append((kind, token, offset, length, payload))
            del pending[: parser.consumed]
            if parser.broken:
                return [*found, "broken"]
            if not requests or not parser.consumed:
                break
    return found


def test_many_requests_come_out_of_one_buffer():
    stream = (
        compact(Command.WRITE, 1, 4096, 4, b"abcd")
        + compact(Command.READ, 2, 0, 512)
        + compact(Command.FLUSH, 3, 0, 0)
        + compact(Command.WRITE, 4, 0, 8, b"half")
    )
    parser = CompactParser(PAYLOAD_MAX)
    requests = parser.parse(bytearray(stream), 0, len(stream))
    assert requests == [
        (Command.WRITE, (1).to_bytes(8, "big"), 4096, 4, 28),
        (Command.READ, (2).to_bytes(8, "big"), 0, 512, NO_PAYLOAD),
        (Command.FLUSH, (3).to_bytes(8, "big"), 0, 0, NO_PAYLOAD),
    ]
    assert parser.consumed == 3 * 28 + 4
    assert parser.needed == 28 + 8


def test_a_payload_that_is_too_long_is_passed_over_in_step():
    stream = compact(Command.WRITE, 1, 0, 5000, bytes(5000)) + compact(Command.READ, 2, 0, 1)
    found = drive(CompactParser(PAYLOAD_MAX), [stream[i : i + 100] for i in range(0, len(stream), 100)])
    assert [(kind, payload) for kind, _, _, _, payload in found] == [
        (Command.WRITE, PASSED_OVER),
        (Command.READ, NO_PAYLOAD),
    ]


def test_a_header_without_its_magic_ends_it_and_what_came_before_is_still_there():
    found = drive(CompactParser(PAYLOAD_MAX), [compact(Command.READ, 1, 0, 1) + bytes(28)])
    assert [entry[0] for entry in found[:-1]] == [Command.READ]
    assert found[-1] == "broken"


def test_extended_requests_carry_their_offset_in_the_token_and_long_lengths():
    stream = extended(Command.WRITE_ZEROES, 7, 1 << 40, 1 << 41) + extended(
        Command.WRITE, 8, 64, 3, b"xyz", CommandFlag.PAYLOAD_LEN | CommandFlag.FUA
    )
    assert drive(ExtendedParser(PAYLOAD_MAX), [stream]) == [
        (Command.WRITE_ZEROES, struct.pack(">QQ", 7, 1 << 40), 1 << 40, 1 << 41, NO_PAYLOAD),
        (kind_of(Command.WRITE, CommandFlag.FUA), struct.pack(">QQ", 8, 64), 64, 3, b"xyz"),
    ]


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(extended(Command.WRITE, 1, 0, 3), id="write-without-payload-flag"),
        pytest.param(extended(Command.READ, 1, 0, 3, b"abc", CommandFlag.PAYLOAD_LEN), id="read-with-payload"),
        pytest.param(
            extended(Command.BLOCK_STATUS, 1, 0, 12, bytes(12), CommandFlag.PAYLOAD_LEN),
            id="status-with-payload",
        ),
    ],
)
def test_extended_requests_with_a_wrong_payload_flag_are_illegal_but_in_step(stream: bytes):
    found = drive(ExtendedParser(PAYLOAD_MAX), [stream + extended(Command.READ, 2, 0, 1)])
    assert found[0][0] not in LEGAL
    assert found[1][0] == Command.READ


def test_an_extended_payload_beyond_all_bounds_ends_it():
    found = drive(ExtendedParser(PAYLOAD_MAX), [extended(1, 1, 0, 1001, b"", CommandFlag.PAYLOAD_LEN)])
    assert found == ["broken"]


READ, WRITE, ZERO, TRIM = Command.READ, Command.WRITE, Command.WRITE_ZEROES, Command.TRIM
STATUS, FLUSH, CACHE = Command.BLOCK_STATUS, Command.FLUSH, Command.CACHE


@pytest.mark.parametrize("command", list(Command))
def test_fua_is_legal_on_every_command(command: Command):
    assert LEGAL[kind_of(command, CommandFlag.FUA)] is command


def test_flags_are_legal_exactly_where_they_belong():
    belong = {
        CommandFlag.NO_HOLE: {ZERO},
        CommandFlag.FAST_ZERO: {ZERO},
        CommandFlag.DF: {READ},
        CommandFlag.REQ_ONE: {STATUS},
        CommandFlag.PAYLOAD_LEN: set(),
    }
    for flag, commands in belong.items():
        assert {command for command in Command if kind_of(command, flag) in LEGAL} == commands
    assert kind_of(ZERO, CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO | CommandFlag.FUA) in LEGAL
    assert all(kind_of(command, 1 << 9) not in LEGAL for command in Command)


@pytest.mark.parametrize(
    ("kind", "offset", "length", "place", "read_only", "errno"),
    [
        (READ, 0, 4096, 0, False, None),
        (READ, 4095, 1, 0, False, None),
        (READ, 4095, 2, 0, False, Errno.EINVAL),
        (READ, 4096, 1, 0, False, Errno.EINVAL),
        (READ, 1 << 63, 1 << 31, 0, False, Errno.EINVAL),
        (WRITE, 4095, 2, 28, False, Errno.ENOSPC),
        (ZERO, 1, 4096, 0, False, Errno.ENOSPC),
        (TRIM, 1, 4096, 0, False, Errno.EINVAL),
        (CACHE, 1, 4096, 0, False, Errno.EINVAL),
        (STATUS, 1, 4096, 0, False, Errno.EINVAL),
        (STATUS, 0, 0, 0, False, Errno.EINVAL),
        (WRITE, 0, 1, 28, True, Errno.EPERM),
        (WRITE, 4095, 2, 28, True, Errno.EPERM),
        (ZERO, 0, 1, 0, True, Errno.EPERM),
        (TRIM, 0, 1, 0, True, Errno.EPERM),
        (FLUSH, 0, 0, 0, True, None),
        (FLUSH, 1, 0, 0, False, Errno.EINVAL),
        (WRITE, 0, 5000, PASSED_OVER, False, Errno.EINVAL),
        (8, 0, 0, 0, False, Errno.EINVAL),
        (kind_of(READ, CommandFlag.NO_HOLE), 0, 1, 0, False, Errno.EINVAL),
    ],
)
def test_errors_are_the_protocols_own(kind, offset, length, place, read_only, errno):
    found = fault((kind, b"", offset, length, place), 4096, read_only, 4096)
    assert (found[0] if found else None) == errno


_request = st.one_of(
    st.tuples(
        st.integers(0, 8), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
    ).map(lambda t: compact(*t) if t[0] != 1 else compact(0, *t[1:])),
    st.binary(max_size=1500).map(lambda data: compact(1, 5, 0, len(data), data)),
)


@settings(max_examples=1000, deadline=None)
@given(st.lists(_request, max_size=8), st.lists(st.integers(1, 2000), min_size=1, max_size=10))
def test_how_the_bytes_are_cut_makes_no_difference(requests: list[bytes], sizes: list[int]):
    stream, chunks, at, turn = b"".join(requests), [], 0, 0
    while at < len(stream):
        chunks.append(stream[at : at + sizes[turn % len(sizes)]])
        at, turn = at + len(chunks[-1]), turn + 1
    whole = drive(CompactParser(PAYLOAD_MAX), [stream])
    assert drive(CompactParser(PAYLOAD_MAX), chunks) == whole
    assert len(whole) == len(requests)


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=64),
            st.tuples(st.integers(0, 2**32 - 1), st.binary(min_size=8, max_size=8), st.integers(0, 5000)).map(
                lambda t: COMPACT_HEADER.pack(0x25609513, t[0], t[1], t[2], t[2])
            ),
            st.tuples(st.integers(0, 2**32 - 1), st.binary(min_size=8, max_size=8), st.integers(0, 5000)).map(
                lambda t: EXTENDED_HEADER.pack(0x21E41C71, t[0], t[1], t[2], t[2])
            ),
        ),
        max_size=6,
    )
)
def test_garbage_never_crashes_the_parsers(chunks: list[bytes]):
    for parser in (CompactParser(PAYLOAD_MAX), ExtendedParser(PAYLOAD_MAX)):
        for entry in drive(parser, chunks):
            assert entry == "broken" or len(entry) == 5
        assert parser.needed <= 32 + PAYLOAD_MAX


def test_good_streams_gone_bad_never_crash_the_parsers():
    stream = compact(1, 1, 0, 100, bytes(100)) + compact(0, 2, 0, 50) + compact(1, 3, 0, 900, bytes(900))
    longer = extended(1, 1, 0, 100, bytes(100), 32) + extended(0, 2, 0, 50) + extended(6, 3, 0, 1 << 40)
    for seed in range(10_000):
        chance = random.Random(seed)
        parser, data = chance.choice(
            [(CompactParser(PAYLOAD_MAX), bytearray(stream)), (ExtendedParser(PAYLOAD_MAX), bytearray(longer))]
        )
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(len(data))] = chance.choice([0, 1, 0xFF, chance.randrange(256)])
        cut = chance.randrange(len(data))
        for entry in drive(parser, [bytes(data[:cut]), bytes(data[cut:])]):
            assert entry == "broken" or len(entry) == 5
