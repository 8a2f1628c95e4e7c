"""A source that does not keep to the protocol of a comparison, and bytes that no message consists of."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from revolume.blocks.digest import digest_array
from revolume.mirror.source.comparison import Comparison
from revolume.mirror.target.comparison import ComparisonResponder
from revolume.mirror.wire import comparison_messages as messages
from revolume.mirror.wire.codec import Pin
from revolume.mirror.wire.comparison_messages import (
    BATCH_BLOCKS_MAX,
    REGION_BLOCKS,
    CompareAsk,
    Compared,
    CompareOpen,
    CompareOpened,
    Fixed,
    FixupAt,
)
from revolume.mirror.wire.frames import ProtocolError, Type, control
from revolume.mirror.wire.limits import BODY_BYTES_MAX
from revolume.mirror.wire.version import COMPARISON
from revolume.volume.points.staged_fixups import Fixups

PIN = Pin(7, 99, b"c" * 16)
NONE = np.zeros(0, np.uint64)


def frame(kind: Type, body: bytes, payload: bytes = b"") -> memoryview:
    return memoryview(control(kind, 1, body, payload=len(payload)) + payload)


def numbers(*blocks: int) -> np.ndarray:
    return np.array(blocks, np.uint64)


def test_what_is_packed_is_read_again() -> None:
    opened = CompareOpened(7, "It has no room.")
    asked = CompareAsk(3, 2 * REGION_BLOCKS, REGION_BLOCKS + 5, False)
    sums = Compared(3, 4096, ((1, 2), (3, 4)), NONE, numbers(2 * REGION_BLOCKS))
    rows = Compared(4, 0, (), numbers(1, 0, 3), NONE)
    at = FixupAt(2, PIN, numbers(5, 9))
    assert messages.unpack_compare_open(memoryview(messages.pack_compare_open(CompareOpen(PIN, True)))).quick
    assert messages.unpack_compare_opened(memoryview(messages.pack_compare_opened(opened))) == opened
    assert messages.unpack_compare_ask(memoryview(messages.pack_compare_ask(asked))) == asked
    found = messages.unpack_compared(memoryview(messages.pack_compared(sums)), asked)
    assert found.sums == sums.sums and found.damaged.tolist() == [2 * REGION_BLOCKS]
    found = messages.unpack_compared(memoryview(messages.pack_compared(rows)), CompareAsk(4, 8, 3, True))
    assert found.digests.tolist() == [1, 0, 3]
    named = messages.unpack_fixup_at(memoryview(messages.pack_fixup_at(at)))
    assert (named.batch, named.point, named.losers.tolist()) == (2, PIN, [5, 9])
    assert messages.unpack_fixed(memoryview(messages.pack_fixed(Fixed(2, 7, 3)))) == Fixed(2, 7, 3)
    content = random.Random(1).randbytes(4096)
    digest = int(digest_array(memoryview(content), 1)[0])
    body = messages.pack_fixup(2, numbers(4, 6), np.array([0, digest], np.uint64))
    batch, blocks = messages.unpack_fixup(frame(Type.FIXUP, body, content))
    assert (batch, blocks.blocks.tolist(), bytes(blocks.payload)) == (2, [4, 6], content)


UNPACKERS: list[Callable[[memoryview], object]] = [
    messages.unpack_compare_open, messages.unpack_compare_opened, messages.unpack_compare_ask,
    messages.unpack_fixup_at, messages.unpack_fixed, messages.unpack_compare_end,
    lambda body: messages.unpack_compared(body, CompareAsk(1, 0, REGION_BLOCKS, False)),
    lambda body: messages.unpack_fixup(frame(Type.FIXUP, bytes(body))),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(UNPACKERS)))
def test_garbage_is_refused(number: int) -> None:
    chance = random.Random(number)
    for length in [*range(90), 200, 5000]:
        for body in (chance.randbytes(length), bytes(length), b"\xff" * length):
            try:
                UNPACKERS[number](memoryview(body))
            except ProtocolError:
                continue
            assert length in (8, 16, 24, 32, 40, 48), length  # as long as a message that says nothing wrong


TOO_MUCH = [
    (0, 0, False), (5, 10, False), (0, messages.SUMS_BLOCKS_MAX + 1, False), (0, 4097, True), (1 << 60, 8, True),
]  # fmt: skip


@pytest.mark.parametrize("asked", TOO_MUCH)
def test_no_question_is_about_more_than_may_be(asked: tuple[int, int, bool]) -> None:
    with pytest.raises(ProtocolError):
        messages.unpack_compare_ask(memoryview(messages.pack_compare_ask(CompareAsk(1, *asked))))


def test_an_answer_is_about_what_was_asked_for() -> None:
    asked = CompareAsk(3, 0, 2 * REGION_BLOCKS, False)
    good = Compared(3, 0, ((1, 2), (3, 4)), NONE, numbers(4, 5))
    messages.unpack_compared(memoryview(messages.pack_compared(good)), asked)
    for bad in (
        Compared(2, 0, good.sums, NONE, NONE), Compared(3, 0, good.sums[:1], NONE, NONE),
        Compared(3, 0, good.sums, NONE, numbers(5, 4)),
        Compared(3, 0, good.sums, NONE, numbers(3 * REGION_BLOCKS)),
    ):  # fmt: skip
        with pytest.raises(ProtocolError):
            messages.unpack_compared(memoryview(messages.pack_compared(bad)), asked)


def test_a_fixup_has_the_content_that_it_states() -> None:
    content = bytes(range(256)) * 16
    for blocks, digests, payload in (
        (numbers(1), numbers(5), content), (numbers(1), numbers(0), content), (numbers(2, 1), numbers(0, 0), b""),
        (numbers(1 << 51), numbers(0), b""), (NONE, NONE, b""),
    ):  # fmt: skip
        with pytest.raises(ProtocolError):
            messages.unpack_fixup(frame(Type.FIXUP, messages.pack_fixup(1, blocks, digests), payload))


def test_every_frame_has_a_bound() -> None:
    for kind in Type:
        if Type.COMPARE_OPEN <= kind <= Type.COMPARE_END:
            assert BODY_BYTES_MAX[kind] <= 2 << 20
    at = FixupAt(1, PIN, np.arange(BATCH_BLOCKS_MAX + 1, dtype=np.uint64))
    with pytest.raises(ProtocolError):
        messages.unpack_fixup_at(memoryview(messages.pack_fixup_at(at)))


def test_answers_that_nobody_asked_for_end_the_session() -> None:
    comparison = Comparison(SimpleNamespace(), SimpleNamespace(send=None, equal=None))  # type: ignore[arg-type]
    for kind, body in (
        (Type.COMPARE_OPENED, messages.pack_compare_opened(CompareOpened(7, ""))),
        (Type.COMPARED, messages.pack_compared(Compared(1, 0, (), NONE, NONE))),
        (Type.FIXED, messages.pack_fixed(Fixed(1, 7, 0))),
    ):
        with pytest.raises(ProtocolError):
            comparison.frame(kind, memoryview(body))


def test_a_source_that_skips_steps_is_refused() -> None:
    """A question about a point that is not open, a batch that never came, blocks out of order."""

    async def run() -> None:
        ended: list[str] = []

        async def guarded(job: Coroutine[Any, Any, None]) -> None:
            try:
                await job
            except ProtocolError as error:
                ended.append(error.cause)

        link = SimpleNamespace(spawn=lambda job: asyncio.ensure_future(guarded(job)))
        responder = ComparisonResponder(link, SimpleNamespace(), None, COMPARISON)  # type: ignore[arg-type]
        ask = messages.pack_compare_ask(CompareAsk(1, 0, 8, True))
        responder.frame(Type.COMPARE_ASK, frame(Type.COMPARE_ASK, ask))
        await asyncio.sleep(0.01)
        assert ended == ["It asks about a point that is not open."]
        for _ in range(16):
            responder.frame(Type.COMPARE_ASK, frame(Type.COMPARE_ASK, ask))
        with pytest.raises(ProtocolError):
            responder.frame(Type.COMPARE_ASK, frame(Type.COMPARE_ASK, ask))
        rows = messages.pack_fixup(1, numbers(4), numbers(0))
        responder.frame(Type.FIXUP, frame(Type.FIXUP, rows))
        for again in (rows, messages.pack_fixup(0, numbers(9), numbers(0))):  # not ascending; of one before
            with pytest.raises(ProtocolError):
                responder.frame(Type.FIXUP, frame(Type.FIXUP, again))
        with pytest.raises(ProtocolError):
            named = messages.pack_fixup_at(FixupAt(0, PIN, NONE))
            responder.frame(Type.FIXUP_AT, frame(Type.FIXUP_AT, named))
        older = ComparisonResponder(link, SimpleNamespace(), None, COMPARISON - 1)  # type: ignore[arg-type]
        with pytest.raises(ProtocolError):
            older.frame(Type.COMPARE_ASK, frame(Type.COMPARE_ASK, ask))

    asyncio.run(run())


@pytest.mark.parametrize("blocks", [(9, 11), ()])
def test_a_batch_whose_source_has_let_go_of_it_is_dropped(blocks: tuple[int, ...]) -> None:
    """A verification was cancelled between two pieces of a batch; the next one begins another, or names a point
    for one of which nothing was sent."""
    staged: list[Fixups] = []

    async def run() -> None:
        def stage(fixups: Fixups) -> asyncio.Future[int]:
            staged.append(fixups)
            return asyncio.get_running_loop().create_future()

        link = SimpleNamespace(spawn=asyncio.ensure_future)
        responder = ComparisonResponder(link, SimpleNamespace(stage_fixups=stage), None, COMPARISON)  # type: ignore[arg-type]
        for number, held in ((1, (4, 10)), (2, blocks)):
            if held:
                body = messages.pack_fixup(number, numbers(*held), np.zeros(len(held), np.uint64))
                responder.frame(Type.FIXUP, frame(Type.FIXUP, body))
        named = messages.pack_fixup_at(FixupAt(2, PIN, NONE))
        responder.frame(Type.FIXUP_AT, frame(Type.FIXUP_AT, named))
        responder.ended()

    asyncio.run(run())
    assert [batch.blocks.tolist() for batch in staged] == [list(blocks)]


def test_a_point_that_nobody_waits_for_any_more_is_closed_once_it_is_open() -> None:
    """A verification was cancelled before the mirror had answered."""

    async def run() -> None:
        sent: list[Type] = []
        link = SimpleNamespace(open=True, send_control=lambda kind, body: sent.append(kind))
        comparison = Comparison(link, SimpleNamespace(send=None, equal=None))  # type: ignore[arg-type]
        opening = asyncio.ensure_future(comparison.open(PIN, True))
        await asyncio.sleep(0.01)
        opening.cancel()
        await asyncio.wait([opening])
        assert sent == [Type.COMPARE_OPEN]
        opened = messages.pack_compare_opened(CompareOpened(PIN.number, ""))
        comparison.frame(Type.COMPARE_OPENED, memoryview(opened))
        await asyncio.sleep(0.01)
        assert sent == [Type.COMPARE_OPEN, Type.COMPARE_END]

    asyncio.run(run())
