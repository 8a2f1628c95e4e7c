"""Marks over a link: durable at the target before they are answered, and none believed that do not hold."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from revolume.errors import RevolumeError
from revolume.mirror.wire.frames import ProtocolError, Type
from revolume.mirror.wire.session_messages import pack_number
from revolume.mirror.wire.suspect_messages import (
    MARKS_ROWS_MAX,
    ROWS_MAX,
    SUSPECT_BODY_MAX,
    pack_suspect_parts,
    unpack_suspect_part,
)
from revolume.volume.suspect.marks import Marks
from revolume.volume.suspect.suspect_rows import OPEN, ROW
from tests.mirror.harness import World, run, until, world
from tests.mirror.storage import REIGN
from tests.mirror.test_hostile import BLOCK, Scripted, against_target, broken_off

pytestmark = pytest.mark.timeout(60)


def marks(count: int, cause: str = "it was compared") -> Marks:
    rows = np.zeros(count, ROW)
    rows["first"], rows["count"], rows["since"], rows["until"] = np.arange(count) * 2, 1, 5, OPEN
    return Marks(REIGN, 9, 0, cause, rows)


@pytest.mark.parametrize("count", [0, 1, ROWS_MAX, ROWS_MAX + 1, 3 * ROWS_MAX])
def test_there_and_back(count: int) -> None:
    parts = [unpack_suspect_part(memoryview(body)) for body in pack_suspect_parts(4, marks(count))]
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert {(part.number, part.reign, part.point, part.cause) for part in parts} == {
        (4, REIGN, 9, "it was compared")
    }
    assert np.array_equal(np.concatenate([part.rows for part in parts]), marks(count).rows)
    assert all(len(body) + 8 <= SUSPECT_BODY_MAX for body in pack_suspect_parts(4, marks(count, "x" * 300)))


def test_what_is_no_mark_is_not_taken_for_one() -> None:
    (body,) = pack_suspect_parts(4, marks(3))
    for size in range(len(body)):
        with pytest.raises(ProtocolError):
            unpack_suspect_part(memoryview(body[:size]))
    for bad in ((1, 0, 5, 6), (1, 1, 6, 6), (1, 1, 5, 1 << 63), (1 << 63, 1, 5, 6)):
        (body,) = pack_suspect_parts(4, replace(marks(1), rows=np.array([bad], ROW)))
        with pytest.raises(ProtocolError):
            unpack_suspect_part(memoryview(body))
    (body,) = pack_suspect_parts(4, marks(1, "a\x1b[2Jb"))
    assert "\x1b" not in unpack_suspect_part(memoryview(body)).cause


def test_the_target_has_them_before_the_source_hears_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            w.log.write(0, os.urandom(BLOCK))
            w.source.start()
            await w.arrived()
            session = w.source._session
            assert session is not None
            for count in (1, 2 * ROWS_MAX + 1):
                await session.suspect.send(marks(count))
                there = w.shelf.secondary
                assert there is not None and len(there.marks[-1].rows) == count
            await session.suspect.send(marks(0))
            assert len(there.marks) == 2, "nothing is sent where there is nothing"
            await session.suspect.equal(dataclasses.replace(there.agreed, number=12))
            assert there.equal_at == 12
            with pytest.raises(RevolumeError, match="can be kept"):
                await session.suspect.send(marks(MARKS_ROWS_MAX + 1))
            session.suspect.version = 6
            with pytest.raises(RevolumeError, match="release"):
                await session.suspect.send(marks(1))

    run(scenario)


@pytest.mark.parametrize("what", ["marks", "proof"])
def test_whoever_stops_waiting_leaves_the_link_as_it_was(tmp_path: Path, what: str) -> None:
    """A verification is cancelled when its marks, or its proof, are on their way: they are answered still."""

    async def scenario() -> None:
        async with world(tmp_path) as w:
            w.log.write(0, os.urandom(BLOCK))
            w.source.start()
            await w.arrived()
            session = w.source._session
            there = w.shelf.secondary
            assert session is not None and there is not None
            point = dataclasses.replace(there.agreed, number=12)
            sent = session.suspect.send(marks(2 * ROWS_MAX)) if what == "marks" else session.suspect.equal(point)
            sending = asyncio.ensure_future(sent)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            sending.cancel()
            await asyncio.wait([sending])
            assert sending.cancelled()
            await session.suspect.send(marks(1))
            assert len(there.marks[-1].rows) == 1 and len(there.marks) == 1 + (what == "marks")
            assert w.source._session is session and session.link.open

    run(scenario)


def test_a_link_that_ends_ends_the_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            w.log.write(0, os.urandom(BLOCK))
            w.source.start()
            await w.arrived()
            session = w.source._session
            assert session is not None and w.shelf.secondary is not None
            stuck = asyncio.Event()
            w.shelf.secondary.add_marks = lambda _: stuck.wait()  # type: ignore[method-assign,assignment]
            sending = asyncio.ensure_future(session.suspect.send(marks(1)))
            await asyncio.sleep(0.05)
            assert not sending.done()
            await session.link.close()
            with pytest.raises(ConnectionError):
                await sending

    run(scenario)


@pytest.mark.parametrize("bent", ["garbage", "another", "too many"])
def test_a_source_that_says_nonsense(tmp_path: Path, bent: str) -> None:
    async def scenario(w: World, peer: Scripted) -> None:
        await peer.begin(w)
        if bent == "garbage":
            peer.say(Type.SUSPECT, os.urandom(100))
            sentence = "not what its type says"
        elif bent == "another":
            first, _ = pack_suspect_parts(1, marks(ROWS_MAX + 1))
            (other,) = pack_suspect_parts(2, marks(1))
            peer.say(Type.SUSPECT, first)
            peer.say(Type.SUSPECT, other)
            sentence = "Other marks have begun"
        else:
            first, _ = pack_suspect_parts(1, marks(ROWS_MAX + 1))
            for _ in range(MARKS_ROWS_MAX // ROWS_MAX + 1):
                peer.say(Type.SUSPECT, first)
            sentence = "More than"
        await broken_off(w, peer, sentence)
        assert w.shelf.secondary is not None and not w.shelf.secondary.marks

    against_target(scenario, tmp_path)


def test_a_target_that_answers_what_it_was_not_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            w.log.write(0, os.urandom(BLOCK))
            w.source.start()
            await w.arrived()
            target = w.target.current
            assert target is not None
            target.link.send_control(Type.SUSPECT_AT, pack_number(1))
            await until(lambda: any("marks that it was not sent" in text for text in w.source_told))

    run(scenario)
