"""Damaged blocks healed in place, with a sibling that has every version: whoever meets the damage, and what must
never happen on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.blocks.block_location import DATA
from revolume.blocks.digest import fragment_digest
from revolume.errors import Damaged
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.log.format.segment import segment_name
from revolume.log.write.operations import OP_WRITE
from revolume.volume.heal import rewriting
from revolume.volume.heal.damaged_block import IMAGE, DamagedBlock
from revolume.volume.heal.siblings import Contents, Wanted
from revolume.volume.heal.transfer_slice import WantedSlice

from .driver import BLOCK, Driver, abandon
from .store import TINY, inline_host, payload

SIZE = 2 << 20
pytestmark = pytest.mark.timeout(60)


class Sibling:
    """Has every version that the model knows. ``lies``: what it says that it has of a block instead."""

    name = "sibling"

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.asked: list[Wanted] = []
        self.lies: dict[int, bytes] = {}

    async def ask_slice(self, wanted: WantedSlice) -> bytes:
        return b""

    async def ask(self, wanted: Sequence[Wanted]) -> Contents:
        self.asked += wanted
        known: Contents = {}
        for _, blocks in self._driver.model.moments.values():
            known |= {(block, fragment_digest(data)): data for block, data in blocks.items()}
        return {each.key: self.lies.get(each.block, known[each.key]) for each in wanted if each.key in known}


def play(scenario: Callable[[Driver], Awaitable[None]], path: Path) -> None:
    async def run() -> None:
        driver = Driver(inline_host(), path / "v", SIZE, replace(TINY, spare_bytes=1 << 20))
        await driver.open()
        try:
            await scenario(driver)
        finally:
            if not driver.volume._closing:
                await abandon(driver.volume)

    asyncio.run(run())


async def history(driver: Driver, numbers: range = range(10)) -> None:
    """Points over some segments; each block is written once in every second of them."""
    for number in numbers:
        for at in range(4):
            block, seed = at * 8 + number % 2 * 4, number * 10 + at
            await driver.change([(OP_WRITE, block * BLOCK, payload(seed, 3 * BLOCK))])
        await driver.volume.point_maker.cut()
    await driver.volume.log.footers.written()


def bend(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def in_log(driver: Driver, block: int, content: bytes) -> tuple[DamagedBlock, Path, int]:
    """The place, the file, the offset in it."""
    for segment in driver.volume.log.pool.segments():
        path = driver.path / "log" / segment_name(segment.index)
        if (at := path.read_bytes().find(content)) >= 0:
            place = DamagedBlock(block, fragment_digest(content), DATA, segment.base + at // BLOCK)
            return place, path, at
    raise AssertionError("it is nowhere")


def in_image(driver: Driver, block: int) -> tuple[DamagedBlock, bytes]:
    """The place, and what should lie there."""
    content = (driver.path / "image").read_bytes()[block * BLOCK : (block + 1) * BLOCK]
    return DamagedBlock(block, fragment_digest(content), IMAGE, block), content


def is_there(path: Path, offset: int, content: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(BLOCK) == content


async def settled(driver: Driver) -> None:
    await driver.volume.tasks.settled()


def test_a_live_read_heals_the_log_by_reference(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        sibling = Sibling(driver)
        driver.volume.healer.siblings.attach(sibling)
        content = driver.model.blocks[9]
        place, path, offset = in_log(driver, 9, content)
        bend(path, offset + 5)
        await driver.check_live()
        await settled(driver)
        assert is_there(path, offset, content) and driver.volume.healer.healed_blocks == 1
        (wanted,) = sibling.asked
        assert wanted.key == place.key and wanted.position > 0
        assert driver.volume.reader.mismatches == 0 and not driver.volume.damage

    play(scenario, tmp_path)


def test_a_view_heals_an_older_version(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        driver.volume.healer.siblings.attach(Sibling(driver))
        write = driver.volume.points()[2].write
        content = driver.model.moments[write][1][9]
        assert content != driver.model.blocks[9]
        _, path, offset = in_log(driver, 9, content)
        bend(path, offset + 5)
        await driver.check_moment(write)
        await settled(driver)
        assert is_there(path, offset, content)

    play(scenario, tmp_path)


def test_a_point_heals_what_a_partial_write_stands_on(tmp_path: Path) -> None:
    """No block is lost, and the point's root is that of the right content."""

    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        volume.healer.siblings.attach(Sibling(driver))
        _, path, offset = in_log(driver, 9, driver.model.blocks[9])
        bend(path, offset + 5)
        await driver.change([(OP_WRITE, 9 * BLOCK + 512, payload(99, 512))])
        await volume.point_maker.cut()
        assert not volume.lost.still()
        await driver.check_live()
        assert volume.healer.healed_blocks == 1

    play(scenario, tmp_path)


def test_a_fold_heals_the_log_and_copies_no_damage(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        sibling = Sibling(driver)
        volume.healer.siblings.attach(sibling)
        plan = volume.folder.plan(True)
        assert plan is not None
        blocks = driver.model.moments[plan.target.write][1]
        for block in (8, 9, 16):
            _, path, offset = in_log(driver, block, blocks[block])
            bend(path, offset + block)
        assert await driver.fold()
        assert volume.folder.failure is None and volume.healer.healed_blocks == 3
        image = (driver.path / "image").read_bytes()
        for block in (8, 9, 16):
            assert image[block * BLOCK : (block + 1) * BLOCK] == blocks[block]
        await driver.check_live()
        await driver.check_moments(20)

    play(scenario, tmp_path)


def test_what_a_fold_took_as_it_was_is_healed_later(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        plan = volume.folder.plan(True)
        assert plan is not None
        content = driver.model.moments[plan.target.write][1][8]
        _, path, offset = in_log(driver, 8, content)
        bend(path, offset + 77)
        assert await driver.fold()
        assert [(each.block, each.place) for each in volume.healer.unhealed.blocks()] == [(8, "image")]
        assert not is_there(driver.path / "image", 8 * BLOCK, content)
        volume.healer.siblings.attach(Sibling(driver))
        await settled(driver)
        assert is_there(driver.path / "image", 8 * BLOCK, content) and not volume.healer.unhealed.blocks()

    play(scenario, tmp_path)


def test_the_image_is_healed_before_it_is_rescued(tmp_path: Path) -> None:
    """A snapshot stays whole though the image had rotted before the fold that leaves it."""

    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        await volume.snapshot("s")
        write = volume.write
        await history(driver, range(10, 20))
        while volume.folder.horizon.write < write:
            assert await driver.fold()
        volume.healer.siblings.attach(Sibling(driver))
        bend(driver.path / "image", 9 * BLOCK + 3)
        while volume.rescued.moment(write) is None and await driver.fold():
            pass
        assert volume.rescued.moment(write) is not None and volume.healer.healed_blocks == 1
        await driver.check_moment(write)

    play(scenario, tmp_path)


def test_a_rescue_file_is_healed(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        await volume.snapshot("s")
        write = volume.write
        await history(driver, range(10, 20))
        while volume.rescued.moment(write) is None and await driver.fold():
            pass
        content = driver.model.moments[write][1][9]
        (path,) = [p for p in (driver.path / "rescue").iterdir() if content in p.read_bytes()]
        offset = path.read_bytes().find(content)
        bend(path, offset + 9)
        volume.healer.siblings.attach(Sibling(driver))
        await driver.check_moment(write)
        await settled(driver)
        assert is_there(path, offset, content)
        assert any("in the rescue file, from sibling" in text for text in volume.events.texts())

    play(scenario, tmp_path)


def test_what_has_another_digest_is_not_taken(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        sibling = Sibling(driver)
        driver.volume.healer.siblings.attach(sibling)
        place, path, offset = in_log(driver, 9, driver.model.blocks[9])
        bend(path, offset + 5)
        before = path.read_bytes()
        for lie in (payload(1234, BLOCK), driver.model.blocks[9][:-1], b""):
            sibling.lies = {9: lie}
            driver.volume.healer.unhealed.remove([place])
            assert await driver.volume.healer.heal([place]) == [place]
            assert path.read_bytes() == before
        with pytest.raises(Damaged):
            await driver.volume.read(9 * BLOCK, memoryview(bytearray(BLOCK)))

    play(scenario, tmp_path)


def test_what_is_right_is_not_asked_for(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        sibling = Sibling(driver)
        driver.volume.healer.siblings.attach(sibling)
        place, _, _ = in_log(driver, 9, driver.model.blocks[9])
        assert await driver.volume.healer.heal([place, place]) == []
        assert sibling.asked == [] and driver.volume.healer.healed_blocks == 0

    play(scenario, tmp_path)


def test_a_place_that_the_columns_say_otherwise_of_is_not_written(tmp_path: Path) -> None:
    """Somebody has the wrong address: what lies there is another block."""

    async def scenario(driver: Driver) -> None:
        await history(driver)
        driver.volume.healer.siblings.attach(Sibling(driver))
        place, path, _ = in_log(driver, 9, driver.model.blocks[9])
        wrong = replace(place, address=place.address + 1)
        before = path.read_bytes()
        assert await driver.volume.healer.heal([wrong]) == [wrong]
        assert path.read_bytes() == before

    play(scenario, tmp_path)


def test_the_image_is_not_written_where_its_digests_say_otherwise(tmp_path: Path) -> None:
    """A fold has replaced the block since."""

    async def scenario(driver: Driver) -> None:
        await history(driver, range(2))
        while await driver.fold():
            pass
        place, _ = in_image(driver, 9)
        await history(driver, range(2, 14))
        while await driver.fold():
            pass
        driver.volume.healer.siblings.attach(Sibling(driver))
        before = (driver.path / "image").read_bytes()
        assert fragment_digest(before[9 * BLOCK : 10 * BLOCK]) != place.digest
        assert await driver.volume.healer.heal([place]) == []  # nothing needs it there any more
        assert (driver.path / "image").read_bytes() == before

    play(scenario, tmp_path)


def test_the_image_is_rewritten_only_while_no_fold_can_be(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        while await driver.fold():
            pass
        volume = driver.volume
        block = next(b for b in (8, 9, 16, 4, 5) if any(in_image(driver, b)[1]))
        place, content = in_image(driver, block)
        bend(driver.path / "image", block * BLOCK)
        volume.healer.siblings.attach(Sibling(driver))
        async with volume.folder._busy:
            healing = asyncio.ensure_future(volume.healer.heal([place]))
            await asyncio.sleep(0.05)
            assert not healing.done() and not is_there(driver.path / "image", block * BLOCK, content)
            assert (await volume.healer.contents([place])) == {place.key: content}
        assert await healing == []
        assert is_there(driver.path / "image", block * BLOCK, content)

    play(scenario, tmp_path)


def test_a_segment_is_not_used_again_while_a_block_of_it_is_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recycled in the middle of a repair: the fold waits with the file, and nothing else is written to
    it."""

    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        volume.healer.siblings.attach(Sibling(driver))
        plan = volume.folder.plan(True)
        assert plan is not None
        first = min(volume.log.pool.by_use)
        (segment,) = [each for each in volume.log.pool.segments() if each.use == first]
        path = driver.path / "log" / segment_name(segment.index)
        content = next(
            data
            for _, blocks in driver.model.moments.values()
            for data in blocks.values()
            if data in path.read_bytes()
        )
        block = next(
            block
            for _, blocks in driver.model.moments.values()
            for block, data in blocks.items()
            if data == content
        )
        place = DamagedBlock(
            block, fragment_digest(content), DATA, segment.base + path.read_bytes().find(content) // BLOCK
        )
        bend(path, path.read_bytes().find(content))
        begun, go_on = asyncio.Event(), asyncio.Event()
        rewrite = rewriting.rewrite

        async def held_up(*given: object) -> list[rewriting.Outcome]:
            begun.set()
            await go_on.wait()
            return await rewrite(*given)  # type: ignore[arg-type]

        monkeypatch.setattr("revolume.volume.heal.healer.rewrite", held_up)
        healing = asyncio.ensure_future(volume.healer.heal([place]))
        await begun.wait()
        folding = asyncio.ensure_future(driver.fold())
        while first in volume.log.pool.by_use:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert segment.index not in volume.log.pool.free and not folding.done()
        go_on.set()
        await healing
        assert await folding
        await driver.check_live()

    play(scenario, tmp_path)


def test_nothing_is_written_to_a_segment_that_has_been_recycled(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        volume.healer.siblings.attach(Sibling(driver))
        first = min(volume.log.pool.by_use)
        address = first * volume.log.pool.segment_blocks + 1
        while first in volume.log.pool.by_use:
            assert await driver.fold()
        gone = DamagedBlock(8, 77, DATA, address)
        assert await volume.healer.heal([gone]) == []

    play(scenario, tmp_path)


def test_a_disk_that_does_not_take_it_leaves_it_unhealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read back is what counts, not that the write was answered."""

    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        volume.healer.siblings.attach(Sibling(driver))
        place, path, offset = in_log(driver, 9, driver.model.blocks[9])
        bend(path, offset + 5)
        monkeypatch.setattr(rewriting, "_write", lambda file, rewrites: set(range(len(rewrites))))
        assert await volume.healer.heal([place]) == [place]
        assert volume.healer.healed_blocks == 0 and volume.healer.unhealed.blocks() == [place]

    play(scenario, tmp_path)


def test_a_heal_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        volume.healer.siblings.attach(Sibling(driver))
        place, path, offset = in_log(driver, 9, driver.model.blocks[9])
        bend(path, offset + 5)
        synced: list[object] = []
        call_sync = volume.log.work.call_sync
        monkeypatch.setattr(
            type(volume.log.work),
            "call_sync",
            lambda self, fn, *given: (synced.append(fn), call_sync(fn, *given))[1],
        )
        assert await volume.healer.heal([place]) == []
        files = [getattr(fn, "__self__", fn) for fn in synced]  # what syncs the manifest is a plain function
        assert path.name in [getattr(file, "name", "") for file in files]

    play(scenario, tmp_path)


def test_nobody_is_asked_again_at_once(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        sibling = Sibling(driver)
        sibling.lies = {9: b""}
        volume.healer.siblings.attach(sibling)
        _, path, offset = in_log(driver, 9, driver.model.blocks[9])
        bend(path, offset + 5)
        for _ in range(5):
            with pytest.raises(Damaged):
                await volume.read(9 * BLOCK, memoryview(bytearray(BLOCK)))
        assert len(sibling.asked) == 1
        volume.healer.siblings.attach(Sibling(driver))
        await settled(driver)
        assert is_there(path, offset, driver.model.blocks[9])

    play(scenario, tmp_path)


def test_good_neighbours_of_a_damaged_block_are_read(tmp_path: Path) -> None:
    async def scenario(driver: Driver) -> None:
        await history(driver)
        volume = driver.volume
        _, path, offset = in_log(driver, 9, driver.model.blocks[9])
        bend(path, offset + 5)
        view = await open_view(volume, ResolvedMoment(volume.write, 0), "all")
        try:
            for block, data in driver.model.blocks.items():
                found = memoryview(bytearray(BLOCK))
                if block == 9:
                    with pytest.raises(Damaged):
                        await view.reader.read(block * BLOCK, found)
                else:
                    await view.reader.read(block * BLOCK, found)
                    assert bytes(found) == data
        finally:
            view.close()

    play(scenario, tmp_path)
