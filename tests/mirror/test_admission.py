"""Who gets in at a mirror's door while others stand there, and what is said of a mirror that is away."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path

import pytest

from revolume.mirror.recovery.examine import examine, has_more
from revolume.mirror.target import target as target_module
from revolume.mirror.target.link_listener import STRANGERS_MAX
from revolume.mirror.wire.frames import Type, control
from revolume.mirror.wire.session_messages import unpack_refusal
from revolume.mirror.wire.tail_messages import Fetch, pack_fetch, unpack_tail
from tests.mirror.harness import NODE, OTHER_NODE, Raw, World, run, until, world
from tests.mirror.scripted import stage
from tests.mirror.storage import VOLUME
from tests.mirror.test_hostile import BLOCK, connect

pytestmark = pytest.mark.timeout(60)
OTHER_REIGN = b"another reign..."


@pytest.mark.parametrize("transport", ["unix", "tcp-tls"])
def test_a_crowd_of_strangers_keeps_no_source_out(folder: Path, transport: str) -> None:
    """The oldest of them has to go for it, not it for them."""

    async def scenario() -> None:
        async with world(folder, transport) as w:
            crowd = [await silent(w) for _ in range(STRANGERS_MAX + 3)]
            w.log.write(0, os.urandom(BLOCK))
            w.source.start()
            async with asyncio.timeout(5):  # they may stand there for ten seconds
                await w.arrived()
            assert w.same()
            for one in crowd:
                one.close()

    run(scenario)


async def silent(w: World) -> asyncio.StreamWriter:
    """Somebody who connects and says nothing, not even a TLS hello."""
    if w.address.startswith("unix:"):
        _, writer = await asyncio.open_unix_connection(w.address.removeprefix("unix:"))
    else:
        host, _, port = w.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
    return writer


class TestACopiedNode:
    """The same node id from two processes: one of them runs on a copy of the other's directory."""

    def test_it_is_refused_while_the_first_is_heard(self, folder: Path) -> None:
        async def scenario() -> None:
            async with world(folder) as w:
                w.log.write(0, os.urandom(BLOCK))
                w.source.start()
                await w.arrived()
                told = await self.refused(w, reign=OTHER_REIGN, epoch=9)
                assert "node-twice" in told and "fed by the same node already" in told
                assert "one of the two runs on a copied directory" in await self.fetch_refused(w)
                w.log.write(0, os.urandom(BLOCK))
                await w.arrived()
                assert w.same() and not any("replaced" in text for text in w.target_told)

        run(scenario)

    async def refused(self, w: World, **changes: object) -> str:
        peer = await connect(w)
        with pytest.raises(AssertionError) as refusal:
            await peer.greet(w, **changes)
        await peer.ended.wait()
        return str(refusal.value)

    async def fetch_refused(self, w: World) -> str:
        peer = await Raw.connect(w)
        peer.send(control(Type.FETCH, 0, pack_fetch(Fetch(VOLUME, NODE, w.log.last))))
        kind, _, body = await peer.frame()
        assert kind == Type.REFUSED
        return unpack_refusal(body).cause

    def test_another_copy_than_the_one_that_is_asked_sends_no_tail(self, folder: Path) -> None:
        """It has not acknowledged what the asker was promised."""

        async def scenario() -> None:
            async with world(folder) as w:
                for expected, kind in ((b"u" * 16, Type.REFUSED), (w.shelf.node, Type.TAIL)):
                    peer = await Raw.connect(w)
                    peer.send(control(Type.FETCH, 0, pack_fetch(Fetch(VOLUME, NODE, w.log.start, expected))))
                    found, _, body = await peer.frame()
                    assert found == kind
                    if kind == Type.REFUSED:
                        assert unpack_refusal(body).code == "member-replaced"
                    else:
                        assert unpack_tail(body).node == w.shelf.node
                    peer.wire.abort()
                    await peer.ended.wait()
                assert w.target.refusals == 1

        run(scenario)

    def test_who_only_asks_cuts_nobody_off(self, folder: Path) -> None:
        async def scenario() -> None:
            async with world(folder) as w:
                w.log.write(0, os.urandom(BLOCK))
                w.source.start()
                await w.arrived()
                asked = Fetch(VOLUME, OTHER_NODE, w.log.last)
                welcome = await examine(w.host, w.address, None, asked)
                assert welcome.end == w.log.last and welcome.node == w.shelf.node
                assert not has_more(welcome, VOLUME, w.log.last)
                assert "its log ends at position 1" in has_more(welcome, VOLUME, w.log.start)
                assert not has_more(welcome, bytes(16), w.log.start)
                w.log.write(0, os.urandom(BLOCK))
                await w.arrived()
                assert w.source.connected and not any("replaced" in text for text in w.target_told)

        run(scenario)

    def test_one_that_is_silent_gives_way(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same node, started again; nobody has told us that its old connection is dead."""
        monkeypatch.setattr(target_module, "HEARD_SECONDS", 0.3)

        async def scenario() -> None:
            async with world(folder) as w:
                old, new = await connect(w), await connect(w)
                await old.begin(w)
                await new.greet(w, reign=OTHER_REIGN, epoch=9)
                await old.ended.wait()
                new.wire.abort()

        run(scenario)


def test_what_a_mirror_lacks_is_told_while_it_is_away(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            for _ in range(5):
                w.log.write(0, os.urandom(BLOCK))
            assert w.source.status().lag_bytes == 5 * BLOCK, "it was never here: by the block"
            w.source.start()
            await w.arrived()
            assert w.source.status().lag_bytes == 0
            await w.target.stop()
            await until(lambda: not w.source.connected)
            assert w.source.status().lag_bytes == 0
            for _ in range(20):
                w.log.write(0, os.urandom(BLOCK))
            assert w.source.status().lag_bytes == 40 * BLOCK, "as it lies in the log, each with its header"

    run(scenario)


def test_a_new_mirror_has_nothing_to_recover() -> None:
    async def scenario() -> None:
        async with stage() as made:
            assert not any("unclean" in text for text in made.secondary.events.texts())
            made.script.whole(1, 1)
            await made.agreed()
            await made.crash()
            assert any("after an unclean stop" in text for text in made.secondary.events.texts())

    asyncio.run(scenario())


@pytest.mark.parametrize("lie", ["root", "write", "chain", "position", "a block of it"])
def test_the_record_of_the_point_at_which_a_mirror_began_can_only_repeat_it(lie: str) -> None:
    async def scenario() -> None:
        async with stage() as made:
            made.script.number = 0  # that point's record comes behind the base
            claim = made.script.claim()
            if lie == "a block of it":
                claim.partials[min(made.script.base)] = b"bent" * 1024
            else:
                value = getattr(claim, lie)
                other = {"root": (1, 2), "chain": b"another log....."}.get(lie)
                claim = dataclasses.replace(claim, **{lie: other or value - 1})
            made.script.point(claim=claim)
            await made.ship()
            await made.settle()
            failure = made.secondary.failure
            assert failure is not None and "does not say what its base was proved to be" in failure.cause

    asyncio.run(scenario())


def test_an_honest_record_of_that_point_is_agreed() -> None:
    async def scenario() -> None:
        async with stage() as made:
            made.script.number = 0
            made.script.point()
            await made.ship()
            await made.settle()
            assert made.secondary.failure is None
            assert made.secondary.manifest.state.agreed.position == made.script.position

    asyncio.run(scenario())


def test_what_a_mirror_lacks_only_falls_while_it_catches_up(folder: Path) -> None:
    """Small transfers first, then large ones: the average of what was sent says nothing of what was not."""

    async def scenario() -> None:
        async with world(folder) as w:
            for _ in range(300):
                w.log.write(0, os.urandom(BLOCK))
            for _ in range(60):
                w.log.write(0, os.urandom(64 * BLOCK))
            w.log.in_memory = 0
            began = w.log.end_address * BLOCK
            w.secondary.room_for = 0
            w.source.start()
            await until(lambda: w.source.connected)
            told = [w.source.status().lag_bytes]
            while w.mirror.received < w.log.end:
                w.secondary.room_for = max(w.secondary.room_for, 8)
                await asyncio.sleep(0.001)
                told.append(w.source.status().lag_bytes)
            assert told[0] == began
            assert told == sorted(told, reverse=True)
            assert w.source.status().lag_bytes == 0
            assert len(set(told)) > 4

    run(scenario)
