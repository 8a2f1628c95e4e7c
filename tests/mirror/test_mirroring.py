"""Source and target together, over real sockets: what the source's log holds, the target's log holds."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from revolume.mirror.mirror_status import MirrorState
from revolume.mirror.target import reporter
from tests.mirror.harness import TRANSPORTS, run, until, world
from tests.mirror.storage import MirrorRecord

pytestmark = pytest.mark.timeout(60)
BLOCK = 4096


def fill(log, seed: int, count: int) -> None:
    """Transfers of every shape: alone, many writes, large, with fragments, points, facts."""
    chance = random.Random(seed)
    for _ in range(count):
        match chance.randrange(8):
            case 0:
                log.point(1, chance.randrange(1, 50))
            case 1:
                log.fact(b"a fact")
            case 2:
                log.writes([(0, os.urandom(BLOCK * 64))])
            case 3:
                log.writes([(BLOCK, os.urandom(BLOCK))], fragment=os.urandom(chance.randrange(1, 3000)))
            case 4:
                log.writes([], fragment=b"x" * 512)
            case 5:
                log.writes([(BLOCK * at, os.urandom(BLOCK)) for at in range(chance.randrange(1, 40))])
            case _:
                log.write(BLOCK * chance.randrange(1000), os.urandom(BLOCK))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_log_arrives_byte_for_byte(transport: str, folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder, transport) as w:
            fill(w.log, 1, 200)
            w.source.start()
            await w.arrived()
            for round in range(20):
                fill(w.log, round + 2, 10)
                await asyncio.sleep(0)
            await w.arrived()
            assert w.same()
            assert w.source.status().state == MirrorState.IN_SYNC
            assert any("log. " in text for text in w.source_told)
            assert w.source_told[0].split(": ")[1] == w.target_told[0].split(": ")[1]

    run(scenario)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_memory_forgot_is_read_from_the_log(transport: str, folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder, transport) as w:
            fill(w.log, 1, 300)
            w.log.in_memory = 5
            w.source.start()
            await w.arrived()
            assert w.log.asked_older > 1
            assert w.same()

    run(scenario)


def test_one_wake_up_is_one_store_and_one_acknowledgement(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            w.source.start()
            await until(lambda: w.mirror.acknowledgements == 1)  # where the target is at the beginning
            w.secondary.keeps.clear()
            before = w.mirror.acknowledgements
            for at in range(50):
                w.log.write(at * BLOCK, os.urandom(BLOCK))
            await w.arrived()
            assert sum(w.secondary.keeps) == 50
            assert len(w.secondary.keeps) <= 10
            assert w.mirror.acknowledgements - before <= len(w.secondary.keeps)

    run(scenario)


def test_a_lone_write_costs_no_more_than_a_thirtieth(folder: Path) -> None:
    """Frame, description and columns; the point's reference comes on top: 28 bytes for the worst case."""

    async def scenario() -> None:
        async with world(folder) as w:
            w.source.start()
            await until(lambda: w.source.status().state == MirrorState.IN_SYNC)
            for _ in range(100):
                w.log.write(0, os.urandom(BLOCK))
            await w.arrived()
            status = w.source.status()
            assert status.client_bytes == 100 * BLOCK
            assert status.log_bytes + 100 * 28 <= 1.03 * status.client_bytes

    run(scenario)


def test_references_are_counted_as_saved(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            w.log.writes([(0, os.urandom(BLOCK * 40))])
            w.log.point(1, 40)
            w.source.start()
            await w.arrived()
            status = w.source.status()
            assert status.saved_bytes == 40 * BLOCK
            assert 0 < status.point_bytes < 400

    run(scenario)


def test_another_epoch_is_announced(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            fill(w.log, 3, 5)
            w.source.start()
            await w.arrived()
            w.log.epoch, w.log.reign = 2, b"second reign id!"
            fill(w.log, 4, 5)
            w.log.epoch, w.log.reign = 9, b"third reign id.."
            fill(w.log, 5, 5)
            await w.arrived()
            assert w.same()
            assert w.secondary.end.epoch == 9

    run(scenario)


def test_a_position_is_made_durable_when_asked_for(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            w.source.start()
            await until(lambda: w.source.status().state == MirrorState.IN_SYNC)
            position = w.log.write(0, os.urandom(BLOCK))
            w.mirror.ask_durable(position)
            await until(lambda: w.mirror.durable >= position)
            assert w.secondary.syncs == [position]
            for _ in range(20):
                w.mirror.ask_durable(w.log.write(0, os.urandom(BLOCK)))
            await until(lambda: w.mirror.durable >= w.log.end)
            assert len(w.secondary.syncs) < 20

    run(scenario)


def test_what_a_client_waits_for_is_asked_again_when_the_link_is_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "SYNC_SECONDS", 3600.0)  # not by itself

    async def scenario() -> None:
        async with world(folder) as w:
            position = w.log.write(0, os.urandom(BLOCK))
            waiting = asyncio.ensure_future(w.mirror.wait_durable(position))  # asked of nobody: there is no link
            w.source.start()
            await waiting
            assert w.mirror.durable >= position

    run(scenario, 10)


def test_the_target_syncs_by_itself(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            w.source.start()
            position = w.log.write(0, os.urandom(BLOCK))
            await until(lambda: w.mirror.durable >= position)

    run(scenario)


def test_an_agreed_point_is_told(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            fill(w.log, 3, 5)
            w.source.start()
            await w.arrived()
            w.secondary.agree(42)
            await until(lambda: w.mirror.agreed_point == 42)
            assert w.mirror.agreed_position == w.log.end
            await until(lambda: w.origin.passed_points == [42])
            assert w.mirror.durable == w.log.end  # not before

    run(scenario)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_room_holds_the_source_up_and_loses_nothing(transport: str, folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder, transport) as w:
            w.secondary.room_for = 7
            w.source.start()
            for at in range(60):
                w.log.write(0, os.urandom(BLOCK * 64))
                if at % 7 == 0:
                    await asyncio.sleep(0)
            await until(lambda: w.mirror.received == 7 and bool(w.secondary.room_asked))
            await asyncio.sleep(0.05)
            assert w.mirror.received == 7
            for _ in range(60):
                w.secondary.room_for += 3
                await asyncio.sleep(0.003)
            await w.arrived()
            assert w.same()

    run(scenario)


def test_a_slow_target_costs_the_source_no_memory(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            w.secondary.room_for = 1
            w.source.start()
            for _ in range(200):
                w.log.write(0, os.urandom(BLOCK * 64))
            await until(lambda: w.mirror.received == 1)
            await asyncio.sleep(0.05)
            session = w.source._session
            assert session is not None
            assert session.link.backlog <= 4 << 20 | 2 << 20
            log = w.source.progress.log
            assert log is not None
            assert log.sent < w.log.end
            assert w.source.status().lag_bytes > 20 << 20
            w.secondary.room_for = 1 << 60
            await w.arrived()
            assert w.same()

    run(scenario)


def test_a_lost_link_comes_back_and_goes_on(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            w.source.start()
            for round in range(5):
                fill(w.log, round, 20)
                await w.arrived()
                current = w.target.current
                assert current is not None
                current.link.break_off("Pulled.")
                fill(w.log, round + 100, 20)
                await w.arrived()
            assert w.same()
            assert len(w.shelf.created) == 0

    run(scenario)


class TestBase:
    def content(self, count: int) -> dict[int, bytes]:
        chance = random.Random(5)
        return {block: os.urandom(BLOCK) for block in chance.sample(range(16000), count)}

    @pytest.mark.parametrize("transport", TRANSPORTS)
    def test_an_empty_target_gets_the_base_and_then_the_log(self, transport: str, folder: Path) -> None:
        async def scenario() -> None:
            async with world(folder, transport, empty=True) as w:
                fill(w.log, 1, 30)
                w.origin.content = self.content(3000)
                w.source.start()
                await until(lambda: w.shelf.secondary is not None)
                began = w.secondary.log.start.position
                while not w.origin.joined_mirrors:
                    assert w.secondary.base is None or w.secondary.received == began, "log before the base"
                    fill(w.log, 2, 1)
                    await asyncio.sleep(0.001)
                assert w.source.status().state in (MirrorState.IN_SYNC, MirrorState.CATCHING_UP)
                await w.arrived()
                assert w.same()
                assert w.secondary.blocks == w.origin.content
                assert w.secondary.base is None
                assert w.origin.joined_mirrors == ["m1"]
                assert w.mirror.required
                assert all(reader.closed for reader in w.origin.readers)
                (start,) = w.shelf.created
                assert (start.number, start.size, start.epochs[0].number) == (7, w.origin.size, 1)
                assert w.source.status().base_bytes >= 3000 * BLOCK

        run(scenario)

    def test_a_base_goes_on_where_it_was(self, folder: Path) -> None:
        async def scenario() -> None:
            async with world(folder, empty=True) as w:
                fill(w.log, 1, 5)
                w.origin.content = self.content(12000)
                w.source.start()
                await until(lambda: len(w.secondary.blocks) > 500 if w.shelf.secondary else False)
                assert w.target.current is not None
                w.target.current.link.break_off("Pulled.")
                await until(lambda: bool(w.origin.joined_mirrors))
                assert w.secondary.blocks == w.origin.content
                assert len(w.shelf.created) == 1
                assert any("resume-base" in text for text in w.source_told)
                assert w.source.status().base_bytes < 1.5 * 12000 * BLOCK

        run(scenario)

    def test_a_base_whose_point_was_given_up_begins_anew(self, folder: Path) -> None:
        async def scenario() -> None:
            async with world(folder, empty=True) as w:
                fill(w.log, 1, 5)
                w.origin.content = self.content(12000)
                w.source.start()
                await until(lambda: len(w.secondary.blocks) > 500 if w.shelf.secondary else False)
                w.mirror.pin = None
                assert w.target.current is not None
                w.target.current.link.break_off("Pulled.")
                await until(lambda: bool(w.origin.joined_mirrors))
                assert len(w.shelf.created) == 2
                assert w.secondary.blocks == w.origin.content

        run(scenario)

    def test_a_wrong_root_is_refused_and_nothing_has_joined(self, folder: Path) -> None:
        async def scenario() -> None:
            async with world(folder, empty=True) as w:
                fill(w.log, 1, 5)
                w.origin.content = self.content(10)
                w.shelf.wrong_root = True
                w.source.start()
                await until(lambda: any("sum up" in text for text in w.source_told))
                assert w.origin.joined_mirrors == []
                assert w.source.status().state == MirrorState.REFUSED

        run(scenario)

    def test_an_empty_volume_has_a_base_too(self, folder: Path) -> None:
        async def scenario() -> None:
            async with world(folder, empty=True) as w:
                fill(w.log, 1, 1)
                w.source.start()
                await until(lambda: bool(w.origin.joined_mirrors))
                assert w.secondary.base is None

        run(scenario)


class TestWhole:
    def test_blocks_are_asked_for_and_given(self, folder: Path) -> None:
        async def scenario() -> None:
            async with world(folder) as w:
                fill(w.log, 1, 3)
                w.origin.content = {block: os.urandom(BLOCK) for block in range(0, 2000, 2)}
                w.source.start()
                await w.arrived()
                point = await w.origin.pin_base(MirrorRecord())
                found = await w.secondary.source.fetch_blocks(point, list(range(1000)))
                assert found == {block: w.origin.content.get(block) for block in range(1000)}
                assert w.source.status().whole_bytes > 500 * BLOCK

        run(scenario)

    def test_a_point_that_is_gone_is_told(self, folder: Path) -> None:
        from revolume.errors import NotFound

        async def scenario() -> None:
            async with world(folder) as w:
                fill(w.log, 1, 3)
                w.source.start()
                await w.arrived()
                point = await w.origin.pin_base(MirrorRecord())
                w.origin.points.clear()
                with pytest.raises(NotFound):
                    await w.secondary.source.fetch_blocks(point, [1])
                fill(w.log, 2, 3)
                await w.arrived()

        run(scenario)
