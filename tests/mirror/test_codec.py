"""Bytes and messages: there and back, and whatever else may arrive."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks.digest import LOST_DIGEST, block_digests
from revolume.blocks.geometry import BLOCK
from revolume.errors import RevolumeError
from revolume.log.format.transfer import unpack_shared_header
from revolume.mirror.wire import block_messages as r
from revolume.mirror.wire.begin_messages import (
    BaseStart,
    Begin,
    Common,
    Costs,
    EpochEntry,
    NamedSnapshot,
    pack_begin,
    unpack_begin,
)
from revolume.mirror.wire.codec import NO_PIN, Identity, Pin
from revolume.mirror.wire.examine_messages import (
    Examined,
    PointEntry,
    Standing,
    as_welcome,
    of_welcome,
    pack_examined,
    unpack_examined,
)
from revolume.mirror.wire.frames import CHECK_SIZE, FRAME, FRAME_SIZE, ProtocolError, Type, body_of, control
from revolume.mirror.wire.greeting_messages import (
    WELCOME,
    Hello,
    Prefer,
    TargetState,
    Welcome,
    pack_hello,
    pack_welcome,
    unpack_hello,
    unpack_welcome,
)
from revolume.mirror.wire.log_frame import COMPACT_SIZE, LogUnpacker, pack_log
from revolume.mirror.wire.session_messages import (
    Refusal,
    pack_positions,
    pack_refusal,
    unpack_base_end,
    unpack_epoch,
    unpack_number,
    unpack_positions,
    unpack_refusal,
)
from revolume.mirror.wire.tail_messages import Fetch, pack_fetch, unpack_fetch, unpack_tail, unpack_tail_end
from revolume.mirror.wire.version import SOURCE, Versions, common, stated
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.manifest_state import Member, MirrorMode
from revolume.volume.metadata.resync_point import ResyncPoint
from revolume.volume.open.log_identity import End
from tests.mirror.storage import VOLUME, Log

u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
id16 = st.binary(min_size=16, max_size=16)
ends = st.builds(End, u64, u64, id16, id16, u64, u64)
names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40)
pins = st.builds(Pin, u64, u64, id16)
some_pins = st.lists(pins, max_size=3).map(tuple)
hellos = st.builds(
    Hello, st.sampled_from([1, 2]), u32, st.integers(16, 2**32 - 1), id16, id16, id16, u64, u64, u64, ends, names,
    names, id16, u64, st.booleans(), st.sampled_from(Prefer), some_pins, st.booleans(),
)  # fmt: skip
identities = st.none() | st.builds(Identity, u64, id16, id16)
openings = st.lists(st.builds(EpochEntry, u64, id16, u64, u64), max_size=5).map(tuple)
roots = st.tuples(u64, u64)
starts = st.none() | st.builds(BaseStart, ends, u64, u64, u64, u64, roots, openings)
commons = st.none() | st.builds(Common, pins, u64, st.builds(Costs, u64, u64))
begins = st.builds(Begin, st.integers(0, 65535), identities, st.none() | pins, starts, st.none(), commons)


@st.composite
def welcomes(draw: st.DrawFn) -> Welcome:
    state = draw(st.sampled_from(TargetState))
    staged = state == TargetState.WHOLE and draw(st.booleans())
    base = draw(pins) if state == TargetState.BASE or staged else None
    numbers = [draw(u64) for _ in range(4)]
    return Welcome(
        state, draw(u32), numbers[0], draw(id16), draw(id16), draw(id16), draw(ends), numbers[1], numbers[2],
        numbers[3], draw(roots), draw(identities), base, draw(u64), points=draw(some_pins),
        yields=draw(st.booleans()),
    )  # fmt: skip


def there_and_back(pack, unpack, message) -> None:
    assert unpack(memoryview(pack(message))) == message


@given(hellos)
def test_hello(hello: Hello) -> None:
    there_and_back(pack_hello, unpack_hello, hello)


@given(welcomes())
def test_welcome(welcome: Welcome) -> None:
    there_and_back(pack_welcome, unpack_welcome, welcome)


@given(begins)
def test_begin(begin: Begin) -> None:
    there_and_back(pack_begin, unpack_begin, begin)


MEMBERS = (
    Member("m1", b"n" * 16, "b:10810", MirrorMode.SYNC, True),
    Member("node-1", b"o" * 16, "", None, True),
)


def a_hello(**changes: object) -> Hello:
    end = End(1, 2, b"r" * 16, b"c" * 16, 3, 4)
    hello = Hello(1, 16, 16, VOLUME, b"n" * 16, b"r" * 16, 2, 1 << 20, 0, end, "vol", "m1", points=(NO_PIN,))
    return replace(hello, **changes)  # type: ignore[arg-type]


def a_welcome(**changes: object) -> Welcome:
    end = End(1, 2, b"r" * 16, b"c" * 16, 3, 4)
    welcome = Welcome(
        TargetState.WHOLE, 16, 2, b"r" * 16, b"n" * 16, VOLUME, end, 0, 0, 0, (0, 0), None, None, 0,
        advertised="b:1",
    )  # fmt: skip
    return replace(welcome, **changes)  # type: ignore[arg-type]


def test_the_order_to_take_back_is_one_bit_of_byte_180() -> None:
    plain, ordered = pack_hello(a_hello()), pack_hello(a_hello(take_back=True))
    assert [at for at in range(len(plain)) if plain[at] != ordered[at]] == [180]
    assert (plain[180], ordered[180]) == (0, 1)
    more = ordered[:180] + b"\xfe" + ordered[181:]  # bits that another release may give a meaning
    assert unpack_hello(memoryview(more)) == a_hello()


def test_that_a_copy_yields_is_one_bit_of_byte_274() -> None:
    plain, yields = pack_welcome(a_welcome()), pack_welcome(a_welcome(yields=True))
    assert [at for at in range(len(plain)) if plain[at] != yields[at]] == [274]
    assert (plain[274], yields[274]) == (0, 2)
    staged = a_welcome(yields=True, base=Pin(7, 70, b"c" * 16))
    assert pack_welcome(staged)[274] == 3
    there_and_back(pack_welcome, unpack_welcome, staged)
    unfinished = a_welcome(state=TargetState.BASE, base=Pin(7, 70, b"c" * 16))
    assert pack_welcome(unfinished)[274] == 0


@pytest.mark.parametrize("version", [2, 3, 4])
def test_an_earlier_version_knows_of_no_copy_that_yields(version: int) -> None:
    before = unpack_welcome(memoryview(pack_welcome(a_welcome(yields=True, version=version))))
    assert not before.yields and before.version == version


def test_resync_points_travel_from_version_6_on() -> None:
    end = End(1, 2, b"r" * 16, b"c" * 16, 3, 4)
    points = (ResyncPoint("m1", b"1" * 16, 5, 50), ResyncPoint("m2", b"2" * 16, 6, 60))
    start = BaseStart(end, 1, 2, 3, 4, (5, 6), (), (), 7, MEMBERS, points)
    begin = Begin(3, None, None, start)
    there_and_back(pack_begin, unpack_begin, begin)
    body = pack_begin(begin)
    for spoilt in (body[:-1], body + b"x", body[:-6] + b"\xff" * 6):
        with pytest.raises(ProtocolError):
            unpack_begin(memoryview(spoilt))
    assert unpack_begin(memoryview(pack_begin(begin, 5)), 5).start == replace(start, resync_points=())


def test_members_and_an_advertised_address_travel_from_version_4_on() -> None:
    end = End(1, 2, b"r" * 16, b"c" * 16, 3, 4)
    named = NamedSnapshot("one", 1, 2, 3, True)
    start = BaseStart(end, 1, 2, 3, 4, (5, 6), (EpochEntry(1, b"r" * 16, 0, 0),), (named,), 7, MEMBERS)
    begin = Begin(3, None, None, start)
    there_and_back(pack_begin, unpack_begin, begin)
    assert unpack_begin(memoryview(pack_begin(begin, 4)), 4) == begin
    earlier = unpack_begin(memoryview(pack_begin(begin, 2)), 2)
    assert earlier.start == replace(start, members=())
    with pytest.raises(ProtocolError):
        unpack_begin(memoryview(pack_begin(begin)[:-1]))
    welcome = Welcome(
        TargetState.EMPTY, 16, 0, bytes(16), b"n" * 16, bytes(16), end, 0, 0, 0, (0, 0), None, None, 0,
        advertised="b:10810",
    )  # fmt: skip
    there_and_back(pack_welcome, unpack_welcome, welcome)
    assert len(pack_welcome(replace(welcome, version=2))) == WELCOME.size
    assert unpack_welcome(memoryview(pack_welcome(replace(welcome, version=2)))).advertised == ""


def test_what_a_node_says_of_itself_there_and_back() -> None:
    end = End(1, 2, b"r" * 16, b"c" * 16, 3, 4)
    found = Examined(
        Standing.SECONDARY, True, b"n" * 16, VOLUME, end, 5, 6, 7, Identity(1, b"r" * 16, b"c" * 16), 16,
        name="vol", why_not="Not yet.", address="b:10810", epochs=(EpochEntry(1, b"r" * 16, 0, 0),),
        points=(PointEntry(9, 8, 7, 1, 2**63, (1, 2**64 - 1)),), members=MEMBERS,
    )  # fmt: skip
    there_and_back(pack_examined, unpack_examined, found)
    bare = replace(found, at_asked_end=None, epochs=(), points=(), members=(), name="", why_not="", address="")
    there_and_back(pack_examined, unpack_examined, bare)
    assert len(unpack_examined(memoryview(pack_examined(replace(found, why_not="x" * 5000)))).why_not) == 1024
    for body in (pack_examined(found)[:-1], pack_examined(found) + b"x", pack_examined(found)[:200]):
        with pytest.raises(ProtocolError):
            unpack_examined(memoryview(body))
    before = of_welcome(as_welcome(replace(found, version=2)))
    assert (before.end, before.node, before.volume, before.whole) == (end, found.node, VOLUME, True)


def test_a_source_of_before_is_answered_in_its_version() -> None:
    assert common(Versions(2, 2)) == 2
    with pytest.raises(RevolumeError, match="one speaks version 2, the other versions 6 to 8"):
        common(SOURCE, Versions(2, 2))


@given(st.builds(Positions, u64, u64, u64, u64))
def test_positions(positions: Positions) -> None:
    there_and_back(pack_positions, unpack_positions, positions)


@given(st.builds(Fetch, id16, id16, ends, id16))
def test_fetch(fetch: Fetch) -> None:
    there_and_back(pack_fetch, unpack_fetch, fetch)


@given(st.text(max_size=3000), st.text(max_size=3000), st.text(max_size=3000))
def test_a_refusal_is_bounded_and_moves_no_cursor(code: str, cause: str, hint: str) -> None:
    packed = pack_refusal(Refusal(code, cause, hint))
    assert len(packed) <= 4096 - CHECK_SIZE
    told = unpack_refusal(memoryview(packed))
    assert (told.code + told.cause + told.hint).isprintable()
    if cause.isascii() and cause.isprintable() and len(cause) <= 1000:
        assert told.cause == cause


UNPACKERS = [
    unpack_examined,
    unpack_hello, unpack_welcome, unpack_begin, unpack_refusal, unpack_positions, unpack_number,
    unpack_epoch, unpack_base_end, unpack_fetch, unpack_tail, unpack_tail_end, r.unpack_block_request,
]  # fmt: skip


@given(st.sampled_from(UNPACKERS), st.binary(max_size=400))
@settings(max_examples=1000)
def test_no_body_does_harm(unpack, body: bytes) -> None:
    try:
        unpack(memoryview(body))
    except RevolumeError as error:
        assert isinstance(error, ProtocolError) or error.code == "link-version"
        assert error.cause.endswith(".")


@given(hellos, st.data())
def test_a_hello_that_was_cut_or_grew_is_none(hello: Hello, data: st.DataObject) -> None:
    packed = pack_hello(hello)
    cut = data.draw(st.integers(0, len(packed) - 1))
    for body in (packed[:cut], packed + b"x"):
        with pytest.raises(ProtocolError):
            unpack_hello(memoryview(body))


def test_another_version_is_told_as_such() -> None:
    body = bytearray(WELCOME.size)
    struct.pack_into("<H", body, 0, 1)
    with pytest.raises(RevolumeError, match=r"one speaks versions 2 to 8, the other version 1\."):
        unpack_welcome(memoryview(body))


class TestVersions:
    """A range at either end; the highest that both speak, or a refusal that names both ranges."""

    @pytest.mark.parametrize(
        ("theirs", "ours", "chosen"),
        [((1, 3), (2, 5), 3), ((2, 2), (2, 2), 2), ((2, 9), (2, 4), 4), ((4, 4), (1, 9), 4)],
    )
    def test_the_highest_of_both(self, theirs: tuple[int, int], ours: tuple[int, int], chosen: int) -> None:
        assert common(Versions(*theirs), Versions(*ours)) == chosen

    @pytest.mark.parametrize(
        ("theirs", "ours", "older"), [((1, 1), (2, 3), "The other node"), ((4, 5), (2, 3), "This node")]
    )
    def test_none(self, theirs: tuple[int, int], ours: tuple[int, int], older: str) -> None:
        with pytest.raises(RevolumeError) as refused:
            common(Versions(*theirs), Versions(*ours))
        assert str(Versions(*theirs)) in refused.value.cause
        assert "versions 2 to 3" in refused.value.cause
        assert refused.value.hint.startswith(older)

    @given(hellos)
    def test_version_1_stated_no_lowest(self, hello: Hello) -> None:
        body = bytearray(pack_hello(hello))
        assert stated(body) == SOURCE
        struct.pack_into("<HBB", body, 0, 1, 1, 0)
        with pytest.raises(RevolumeError, match="no version of the mirror protocol in common"):
            unpack_hello(memoryview(body))


@given(st.sampled_from(Type), u64, st.binary(max_size=100), st.data())
def test_a_control_frame_survives_no_flipped_bit(
    kind: Type, session: int, body: bytes, data: st.DataObject
) -> None:
    frame = control(kind, session, body)
    assert FRAME.unpack_from(frame)[:2] == (len(body) + CHECK_SIZE, kind)
    assert body_of(memoryview(frame)) == body
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    bent = bytearray(frame)
    bent[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        body_of(memoryview(bent))


@given(st.binary(min_size=16, max_size=60), st.none() | st.integers(0, 200))
def test_a_short_frame_has_no_body(frame: bytes, size: int | None) -> None:
    with pytest.raises(ProtocolError):
        body_of(memoryview(frame), size)


class TestTransfers:
    def log(self, folder: Path) -> Log:
        log = Log(folder)
        chance = random.Random(3)
        log.write(0, chance.randbytes(BLOCK))
        log.writes([(at * BLOCK, chance.randbytes(BLOCK)) for at in range(10)], fragment=b"piece")
        log.point(1, 9)
        log.fact(b"")
        log.writes([], fragment=b"only a piece")
        return log

    def frame(self, log: Log, index: int) -> bytes:
        kept = log.kept[index]
        return pack_log(5, kept.shared_header, len(kept.payload)) + kept.payload

    def unpacker(self, log: Log, index: int = 0) -> LogUnpacker:
        before = log.kept[index - 1].end if index else End(0, 1, log.reign, bytes(16), 0, 0)
        return LogUnpacker(VOLUME, before)

    def test_the_proper_part_comes_back_byte_for_byte(self, folder: Path) -> None:
        log = self.log(folder)
        unpacker = self.unpacker(log)
        for index, kept in enumerate(log.kept):
            carried = unpacker.unpack(memoryview(self.frame(log, index)), False)
            assert carried.shared_header == kept.shared_header
            assert carried.payload == kept.payload
            again = unpack_shared_header(memoryview(kept.shared_header))
            assert again is not None
            for field in carried.transfer.__slots__:
                one, other = getattr(carried.transfer, field), getattr(again, field)
                assert (one == other).all() if isinstance(one, np.ndarray) else one == other, field
                assert type(one) is type(other), field

    def test_its_size_on_the_link(self, folder: Path) -> None:
        log = self.log(folder)
        assert len(self.frame(log, 0)) == BLOCK + FRAME_SIZE + COMPACT_SIZE + 24 == BLOCK + 92

    def test_very_many_entries_travel_in_the_wide_form(self, folder: Path) -> None:
        log = Log(folder)
        log._append(1, [7] * 70_000, [1 << 57 | 1] * 70_000, [], b"", 0)  # type: ignore[arg-type]
        frame = self.frame(log, 0)
        assert frame[4] == Type.LOG_WIDE
        assert self.unpacker(log).unpack(memoryview(frame), True).shared_header == log.kept[0].shared_header

    def test_no_byte_may_change(self, folder: Path) -> None:
        """But the payload's, which its digests cover, and the header's, which the link looks at."""
        log = self.log(folder)
        frame = self.frame(log, 1)
        describing = len(frame) - len(log.kept[1].payload)
        zero = range(FRAME_SIZE + 6, FRAME_SIZE + 8)
        for at in range(FRAME_SIZE, describing):
            bent = bytearray(frame)
            bent[at] ^= 0x11
            unpacker = self.unpacker(log, 1)
            if at in zero:
                continue
            with pytest.raises(ProtocolError):
                unpacker.unpack(memoryview(bent), False)
            assert unpacker.position == 1
        for size in (0, FRAME_SIZE, FRAME_SIZE + COMPACT_SIZE, describing, len(frame) - 1):
            with pytest.raises(ProtocolError):
                self.unpacker(log, 1).unpack(memoryview(frame)[:size], False)
        with pytest.raises(ProtocolError):
            self.unpacker(log, 1).unpack(memoryview(frame + b"x"), False)

    def test_only_the_next_one_fits(self, folder: Path) -> None:
        log = self.log(folder)
        for index in (0, 2, 3):
            with pytest.raises(ProtocolError, match="not of the log"):
                self.unpacker(log, 1).unpack(memoryview(self.frame(log, index)), False)

    def test_epochs_only_go_on(self, folder: Path) -> None:
        unpacker = LogUnpacker(VOLUME, End(3, 7, b"r" * 16, bytes(16), 0, 0))
        for epoch in (0, 6, 7):
            with pytest.raises(ProtocolError):
                unpacker.begin_epoch(epoch, b"x" * 16)
        unpacker.begin_epoch(8, b"x" * 16)

    @given(st.binary(max_size=300), st.booleans())
    @settings(max_examples=500)
    def test_no_noise_does_harm(self, noise: bytes, wide: bool) -> None:
        unpacker = LogUnpacker(VOLUME, End(3, 7, b"r" * 16, bytes(16), 0, 0))
        with pytest.raises(ProtocolError):
            unpacker.unpack(memoryview(bytes(FRAME_SIZE) + noise), wide)


class TestRows:
    def rows(self, blocks: list[int]) -> tuple[np.ndarray, np.ndarray, bytes]:
        payload = random.Random(1).randbytes(BLOCK * len(blocks))
        digests = np.array(block_digests(memoryview(payload), len(blocks)), np.uint64)
        return np.array(blocks, np.uint64), digests, payload

    def base(self, blocks: list[int], next_block: int) -> bytes:
        numbers, digests, payload = self.rows(blocks)
        return control(Type.BASE, 1, r.pack_base(numbers, digests, next_block), payload=len(payload)) + payload

    @given(st.sets(st.integers(0, 10**9), max_size=20))
    def test_base(self, chosen: set[int]) -> None:
        blocks = sorted(chosen)
        rows, next_block = r.unpack_base(memoryview(self.base(blocks, 10**9 + 1)))
        assert rows.blocks.tolist() == blocks
        assert next_block == 10**9 + 1
        assert r.content_holds(rows.payload, rows.digests)

    @pytest.mark.parametrize("blocks", [[3, 2], [2, 2], [5, 10]])
    def test_base_out_of_order(self, blocks: list[int]) -> None:
        with pytest.raises(ProtocolError):
            r.unpack_base(memoryview(self.base(blocks, 10)))

    def test_counts_that_lie(self) -> None:
        for count in (0, 1, 3, 256, 257, 2**32 - 1):
            frame = bytearray(self.base([1, 2], 10))
            struct.pack_into("<I", frame, FRAME_SIZE, count)
            with pytest.raises(ProtocolError):
                r.unpack_base(memoryview(frame))

    def test_whole_blocks_and_zeroes(self) -> None:
        numbers, digests, payload = self.rows([1, 5, 9])
        digests[1] = 0
        sent = payload[:BLOCK] + payload[2 * BLOCK :]
        frame = control(Type.BLOCKS, 1, r.pack_blocks(4, numbers, digests), payload=len(sent)) + sent
        point, rows = r.unpack_blocks(memoryview(frame))
        assert (point, rows.payload) == (4, sent)
        bent = bytearray(frame)
        bent[-1] ^= 1
        with pytest.raises(ProtocolError, match="not what its digest"):
            r.unpack_blocks(memoryview(bent))

    def test_a_lost_block_is_taken_for_lost(self) -> None:
        digests = np.array([LOST_DIGEST], np.uint64)
        assert r.content_holds(memoryview(bytes(BLOCK)), digests)

    @given(st.binary(max_size=300))
    def test_no_noise_does_harm(self, noise: bytes) -> None:
        frame = memoryview(bytes(FRAME_SIZE) + noise)
        for unpack in (r.unpack_base, r.unpack_blocks):
            with pytest.raises(ProtocolError):
                unpack(frame)
