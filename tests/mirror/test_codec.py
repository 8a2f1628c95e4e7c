"""Bytes and messages: there and back, and whatever else may arrive."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks.digest import LOST_DIGEST, block_digests
from revolume.errors import RevolumeError
from revolume.log.transfer import BLOCK, unpack_proper
from revolume.mirror import messages as m
from revolume.mirror import rows as r
from revolume.mirror.compact import COMPACT_SIZE, Unpacker, pack_log
from revolume.mirror.frames import CHECK_SIZE, FRAME, FRAME_SIZE, Broken, Type, body_of, control
from revolume.mirror.version import OURS, Versions, common, stated
from revolume.volume.end import End
from tests.mirror.storage import VOLUME, Log

u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
id16 = st.binary(min_size=16, max_size=16)
ends = st.builds(End, u64, u64, id16, id16, u64, u64)
names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40)
hellos = st.builds(
    m.Hello, st.sampled_from([1, 2]), u32, u32, id16, id16, id16, u64, u64, u64, ends, names, names, id16, u64,
    st.booleans(),
)  # fmt: skip
identities = st.none() | st.builds(m.Identity, u64, id16, id16)
pins = st.builds(m.Pin, u64, u64, id16)
openings = st.lists(st.builds(m.Opening, u64, id16, u64, u64), max_size=5).map(tuple)
roots = st.tuples(u64, u64)
starts = st.none() | st.builds(m.Start, ends, u64, u64, u64, u64, roots, openings)
begins = st.builds(m.Begin, st.integers(0, 65535), identities, st.none() | pins, starts)


@st.composite
def welcomes(draw: st.DrawFn) -> m.Welcome:
    state = draw(st.sampled_from(m.TargetState))
    base = draw(pins) if state == m.TargetState.BASE else None
    numbers = [draw(u64) for _ in range(4)]
    return m.Welcome(
        state, draw(u32), numbers[0], draw(id16), draw(id16), draw(id16), draw(ends), numbers[1], numbers[2],
        numbers[3], draw(roots), draw(identities), base, draw(u64),
    )  # fmt: skip


def there_and_back(pack, unpack, message) -> None:
    assert unpack(memoryview(pack(message))) == message


@given(hellos)
def test_hello(hello: m.Hello) -> None:
    there_and_back(m.pack_hello, m.unpack_hello, hello)


@given(welcomes())
def test_welcome(welcome: m.Welcome) -> None:
    there_and_back(m.pack_welcome, m.unpack_welcome, welcome)


@given(begins)
def test_begin(begin: m.Begin) -> None:
    there_and_back(m.pack_begin, m.unpack_begin, begin)


@given(st.builds(m.Positions, u64, u64, u64, u64))
def test_positions(positions: m.Positions) -> None:
    there_and_back(m.pack_positions, m.unpack_positions, positions)


@given(st.builds(m.Fetch, id16, id16, ends, id16))
def test_fetch(fetch: m.Fetch) -> None:
    there_and_back(m.pack_fetch, m.unpack_fetch, fetch)


@given(st.text(max_size=3000), st.text(max_size=3000), st.text(max_size=3000))
def test_a_refusal_is_bounded_and_moves_no_cursor(code: str, cause: str, hint: str) -> None:
    packed = m.pack_refusal(m.Refusal(code, cause, hint))
    assert len(packed) <= 4096 - CHECK_SIZE
    told = m.unpack_refusal(memoryview(packed))
    assert (told.code + told.cause + told.hint).isprintable()
    if cause.isascii() and cause.isprintable() and len(cause) <= 1000:
        assert told.cause == cause


UNPACKERS = [
    m.unpack_hello, m.unpack_welcome, m.unpack_begin, m.unpack_refusal, m.unpack_positions, m.unpack_number,
    m.unpack_epoch, m.unpack_base_end, m.unpack_fetch, m.unpack_tail, m.unpack_tail_end, r.unpack_need,
]  # fmt: skip


@given(st.sampled_from(UNPACKERS), st.binary(max_size=400))
@settings(max_examples=1000)
def test_no_body_does_harm(unpack, body: bytes) -> None:
    try:
        unpack(memoryview(body))
    except RevolumeError as error:
        assert isinstance(error, Broken) or error.code == "link-version"
        assert error.cause.endswith(".")


@given(hellos, st.data())
def test_a_hello_that_was_cut_or_grew_is_none(hello: m.Hello, data: st.DataObject) -> None:
    packed = m.pack_hello(hello)
    cut = data.draw(st.integers(0, len(packed) - 1))
    for body in (packed[:cut], packed + b"x"):
        with pytest.raises(Broken):
            m.unpack_hello(memoryview(body))


def test_another_version_is_told_as_such() -> None:
    body = bytearray(m.WELCOME.size)
    struct.pack_into("<H", body, 0, 1)
    with pytest.raises(RevolumeError, match=r"one speaks version 2, the other version 1\."):
        m.unpack_welcome(memoryview(body))


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
    def test_version_1_stated_no_lowest(self, hello: m.Hello) -> None:
        body = bytearray(m.pack_hello(hello))
        assert stated(body) == OURS
        struct.pack_into("<HBB", body, 0, 1, 1, 0)
        with pytest.raises(RevolumeError, match="no version of the mirror protocol in common"):
            m.unpack_hello(memoryview(body))


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
    with pytest.raises(Broken):
        body_of(memoryview(bent))


@given(st.binary(min_size=16, max_size=60), st.none() | st.integers(0, 200))
def test_a_short_frame_has_no_body(frame: bytes, size: int | None) -> None:
    with pytest.raises(Broken):
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
        return pack_log(5, kept.proper, len(kept.payload)) + kept.payload

    def unpacker(self, log: Log, index: int = 0) -> Unpacker:
        before = log.kept[index - 1].end if index else End(0, 1, log.reign, bytes(16), 0, 0)
        return Unpacker(VOLUME, before)

    def test_the_proper_part_comes_back_byte_for_byte(self, folder: Path) -> None:
        log = self.log(folder)
        unpacker = self.unpacker(log)
        for index, kept in enumerate(log.kept):
            carried = unpacker.unpack(memoryview(self.frame(log, index)), False)
            assert carried.proper == kept.proper
            assert carried.payload == kept.payload
            again = unpack_proper(memoryview(kept.proper))
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
        assert self.unpacker(log).unpack(memoryview(frame), True).proper == log.kept[0].proper

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
            with pytest.raises(Broken):
                unpacker.unpack(memoryview(bent), False)
            assert unpacker.position == 1
        for size in (0, FRAME_SIZE, FRAME_SIZE + COMPACT_SIZE, describing, len(frame) - 1):
            with pytest.raises(Broken):
                self.unpacker(log, 1).unpack(memoryview(frame)[:size], False)
        with pytest.raises(Broken):
            self.unpacker(log, 1).unpack(memoryview(frame + b"x"), False)

    def test_only_the_next_one_fits(self, folder: Path) -> None:
        log = self.log(folder)
        for index in (0, 2, 3):
            with pytest.raises(Broken, match="not of the log"):
                self.unpacker(log, 1).unpack(memoryview(self.frame(log, index)), False)

    def test_epochs_only_go_on(self, folder: Path) -> None:
        unpacker = Unpacker(VOLUME, End(3, 7, b"r" * 16, bytes(16), 0, 0))
        for epoch in (0, 6, 7):
            with pytest.raises(Broken):
                unpacker.turn(epoch, b"x" * 16)
        unpacker.turn(8, b"x" * 16)

    @given(st.binary(max_size=300), st.booleans())
    @settings(max_examples=500)
    def test_no_noise_does_harm(self, noise: bytes, wide: bool) -> None:
        unpacker = Unpacker(VOLUME, End(3, 7, b"r" * 16, bytes(16), 0, 0))
        with pytest.raises(Broken):
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
        with pytest.raises(Broken):
            r.unpack_base(memoryview(self.base(blocks, 10)))

    def test_counts_that_lie(self) -> None:
        for count in (0, 1, 3, 256, 257, 2**32 - 1):
            frame = bytearray(self.base([1, 2], 10))
            struct.pack_into("<I", frame, FRAME_SIZE, count)
            with pytest.raises(Broken):
                r.unpack_base(memoryview(frame))

    def test_whole_blocks_and_zeroes(self) -> None:
        numbers, digests, payload = self.rows([1, 5, 9])
        digests[1] = 0
        sent = payload[:BLOCK] + payload[2 * BLOCK :]
        frame = control(Type.WHOLE, 1, r.pack_whole(4, numbers, digests), payload=len(sent)) + sent
        point, rows = r.unpack_whole(memoryview(frame))
        assert (point, rows.payload) == (4, sent)
        bent = bytearray(frame)
        bent[-1] ^= 1
        with pytest.raises(Broken, match="not what its digest"):
            r.unpack_whole(memoryview(bent))

    def test_a_lost_block_is_taken_for_lost(self) -> None:
        digests = np.array([LOST_DIGEST], np.uint64)
        assert r.content_holds(memoryview(bytes(BLOCK)), digests)

    @given(st.binary(max_size=300))
    def test_no_noise_does_harm(self, noise: bytes) -> None:
        frame = memoryview(bytes(FRAME_SIZE) + noise)
        for unpack in (r.unpack_base, r.unpack_whole):
            with pytest.raises(Broken):
                unpack(frame)
