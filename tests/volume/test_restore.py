"""A volume goes back to a retained moment: at every one of its model, through folds, crashes and power cuts."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from revolume.errors import Damaged, NoSpace, NotFound, Poisoned, Refused
from revolume.history import restoring as restoring_module
from revolume.history.exports import VolumeExports
from revolume.history.moments import AtTime
from revolume.log.format.columns import RANGE_BLOCKS
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.offline.check.check import check
from revolume.offline.salvage.salvage import salvage
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.simulated_fs import KEPT, LOST, Cut, Platter, state_of
from revolume.sim.oracle.sample_volume import SimProcess
from revolume.volume import whole_writes
from revolume.volume.metadata.keep_policy import WhenFull
from revolume.volume.metadata.manifest import read_file
from revolume.volume.open.open import open_volume

from .driver import BLOCK, SEGMENT, SMALL, Model, abandon
from .restoring import Restorer
from .store import inline_host, payload

BLOCKS = RANGE_BLOCKS + 90
SIZE = BLOCKS * BLOCK
pytestmark = pytest.mark.timeout(300)


async def scribbled(driver: Restorer, rng: random.Random) -> None:
    """Some writes, whole and in part, and zeroes, some of them large."""
    for _ in range(rng.randrange(1, 5)):
        kind = rng.choice((OP_WRITE, OP_WRITE, OP_ZERO, OP_TRIM))
        size = driver.model.size
        offset = rng.randrange(size // 512) * 512
        longest = rng.choice((600, 3 * BLOCK, 20 * BLOCK, SIZE if kind != OP_WRITE else 40 * BLOCK))
        length = min(size - offset, max(512, rng.randrange(longest) // 512 * 512))
        if rng.random() < 0.5:
            offset, length = offset // BLOCK * BLOCK, max(BLOCK, length // BLOCK * BLOCK)
            length = min(length, size - offset)
        what = rng.randbytes(length) if kind == OP_WRITE else length
        await driver.change([(kind, offset, what)])


def moments_of(driver: Restorer) -> list[int]:
    """Those that can be gone back to, oldest first."""
    oldest = driver.volume.oldest.write
    pinned = set(driver.volume.holders.pinned_writes())
    return [number for number in sorted(driver.model.moments) if number >= oldest or number in pinned]


async def stepped(driver: Restorer, rng: random.Random, number: int) -> None:
    volume = driver.volume
    match rng.randrange(9):
        case 0:
            await volume.point_maker.cut()
        case 1:
            await driver.fold()
        case 2:
            await volume.base_maps.renew(force=True)
        case 3:
            await volume.snapshot(f"s{number}")
            driver.model.seal(volume.write)
        case 4 if rng.random() < 0.3:
            await driver.grow(driver.model.size + rng.randrange(1, 40) * 512)
        case 5:
            await (driver.crash() if rng.random() < 0.5 else driver.reopen())
        case 6 | 7:
            moments = moments_of(driver)[:-1]
            if moments:
                first = rng.randrange(BLOCKS) if rng.random() < 0.3 else 0
                end = rng.randrange(first + 1, BLOCKS + 1) if rng.random() < 0.3 else None
                await driver.restore(rng.choice(moments), first, end)
                await driver.check_live()
        case _:
            await scribbled(driver, rng)


@pytest.mark.parametrize("seed", range(8))
def test_every_moment_is_what_it_was_whatever_is_restored(place: Path, seed: int) -> None:
    asyncio.run(_whatever_is_restored(place, seed))


async def _whatever_is_restored(place: Path, seed: int) -> None:
    rng = random.Random(seed)
    driver = Restorer(inline_host(), place / "v", SIZE, replace(SMALL, spare_bytes=0))
    await driver.open()
    for number in range(60):
        await scribbled(driver, rng)
        await stepped(driver, rng, number)
    await driver.check_live()
    await driver.check_moments(40)
    await driver.reopen()
    await driver.check_live()
    await driver.check_moments(15)
    for pinned in driver.volume.holders.pinned_writes():
        await driver.check_moment(pinned)
    await driver.volume.close()
    assert not check(driver.host, str(driver.path)).problems


Play = Callable[[Restorer], Awaitable[None]]


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-restore-", dir="/dev/shm"))  # how long a sync takes is no matter
    yield made
    shutil.rmtree(made)


@pytest.fixture
def play(place: Path) -> Callable[[Play], None]:
    """Plays something on a new volume."""

    async def played(story: Play) -> None:
        driver = Restorer(inline_host(), place / "v", SIZE)
        await driver.open()
        await story(driver)
        await driver.volume.close()
        assert not check(driver.host, str(driver.path)).problems

    return lambda story: asyncio.run(played(story))


def test_only_what_differs_is_written(play: Callable[[Play], None]) -> None:
    async def story(driver: Restorer) -> None:
        await driver.change([(OP_WRITE, 0, payload(1, 20 * BLOCK))])
        then = driver.volume.write
        await driver.change([(OP_WRITE, 0, payload(1, 10 * BLOCK)), (OP_WRITE, 15 * BLOCK, payload(2, 2 * BLOCK))])
        await driver.change([(OP_WRITE, 30 * BLOCK, payload(3, BLOCK)), (OP_ZERO, 19 * BLOCK, BLOCK)])
        difference = await driver.restore(then)
        assert difference.held.tolist() == [15, 16, 19]
        assert difference.zeroes.blocks().tolist() == [30]
        await driver.check_live()
        assert (await driver.restore(then)).empty

    play(story)


def test_no_moment_lies_within_a_restore(play: Callable[[Play], None]) -> None:
    async def story(driver: Restorer) -> None:
        for block in range(0, 60, 2):
            await driver.change([(OP_WRITE, block * BLOCK, payload(block, BLOCK))])
        then = driver.volume.write
        await driver.change([(OP_WRITE, 0, payload(99, 60 * BLOCK))])
        before = driver.volume.write
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(whole_writes, "SLICE_BLOCKS", 3)
            patch.setattr(whole_writes, "SLICES_IN_SEGMENT", 4)
            await driver.restore(then)
        after = driver.volume.write
        assert after - before > 20
        for _ in range(2):
            found = [driver.resolved(number) for number in range(before - 1, after + 1)]
            assert found == [before - 1, *[before] * (after - before), after]
            await driver.reopen()
        exports = VolumeExports(driver.volume, driver.volume)
        times = [t for segment in exports._history.columns_between(0, 1 << 40) for t in segment.rows["time_ns"]]
        whole = {exports.resolver.resolve(AtTime(int(t))).write for t in times}
        assert not whole & set(range(before + 1, after)), whole

    play(story)


def test_a_moment_with_blocks_written_in_part(play: Callable[[Play], None]) -> None:
    async def story(driver: Restorer) -> None:
        await driver.change([(OP_WRITE, 3 * BLOCK, payload(1, BLOCK))])
        await driver.volume.point_maker.cut()
        await driver.change(
            [(OP_WRITE, 3 * BLOCK + 100, payload(2, 700)), (OP_WRITE, 8 * BLOCK + 5, payload(3, 9))]
        )
        then = driver.volume.write
        await driver.change([(OP_WRITE, 0, payload(4, 12 * BLOCK))])
        await driver.restore(then)
        await driver.check_live()
        await driver.check_moments()

    play(story)


def test_what_is_behind_the_size_of_then_reads_as_zeroes(play: Callable[[Play], None]) -> None:
    async def story(driver: Restorer) -> None:
        await driver.change([(OP_WRITE, SIZE - BLOCK, payload(1, BLOCK))])
        then = driver.volume.write
        await driver.grow(SIZE + 5 * BLOCK + 512)
        await driver.change([(OP_WRITE, SIZE - BLOCK, payload(2, 6 * BLOCK + 512))])
        await driver.restore(then)
        assert driver.volume.size == SIZE + 5 * BLOCK + 512
        await driver.check_live()

    play(story)


def test_a_snapshot_that_the_horizon_has_left(play: Callable[[Play], None]) -> None:
    async def story(driver: Restorer) -> None:
        await driver.change([(OP_WRITE, 0, payload(1, 20 * BLOCK))])
        await driver.volume.snapshot("old")
        then = driver.volume.write
        for at in range(3):
            await driver.change(
                [(OP_WRITE, at * 4 * BLOCK, payload(at + 5, 3 * BLOCK)), (OP_ZERO, 17 * BLOCK, BLOCK)]
            )
            await driver.volume.point_maker.cut()
        while await driver.fold():
            pass
        assert driver.volume.oldest.write > then
        await driver.restore(then)
        await driver.check_live()
        await driver.check_moment(then)

    play(story)


def test_a_moment_that_is_restored_is_not_folded_away_meanwhile(play: Callable[[Play], None]) -> None:
    async def story(driver: Restorer) -> None:
        await driver.change([(OP_WRITE, 0, payload(1, 9 * BLOCK))])
        await driver.volume.point_maker.cut()
        await driver.change([(OP_WRITE, 0, payload(2, 8 * BLOCK))])
        then = driver.volume.write
        await driver.change([(OP_WRITE, 0, payload(3, 9 * BLOCK))])
        await driver.volume.point_maker.cut()
        async with driver.restoring(then) as restoring:
            while await driver.fold():
                pass
            driver.volume.evictions.evict()
            difference = await restoring.difference(lambda done, total: None)
            await restoring.write(difference, lambda: None)
        driver.took(then)
        await driver.check_live()

    play(story)


def test_a_moment_that_is_folded_away_is_refused(play: Callable[[Play], None]) -> None:
    async def story(driver: Restorer) -> None:
        await driver.change([(OP_WRITE, 0, payload(1, 9 * BLOCK))])
        then = driver.volume.write
        await driver.change([(OP_WRITE, 0, payload(3, 9 * BLOCK))])
        await driver.volume.point_maker.cut()
        while await driver.fold():
            pass
        with pytest.raises(NotFound):
            await driver.restore(then)

    play(story)


def test_a_moment_that_cant_be_read_changes_nothing(play: Callable[[Play], None]) -> None:
    async def story(driver: Restorer) -> None:
        await driver.change([(OP_WRITE, 0, payload(1, 9 * BLOCK))])
        then = driver.volume.write
        words, _ = driver.volume.live.versions_of([4])
        await driver.change([(OP_WRITE, 0, payload(3, 9 * BLOCK))])
        segment_blocks = driver.volume.log.pool.segment_blocks
        use, inside = divmod(words[0] & ((1 << 60) - 1), segment_blocks)
        file = driver.volume.log.pool.by_use[use].file
        right = bytearray(BLOCK)
        file.preadv([right], inside * BLOCK)
        file.pwritev([b"rotten"], inside * BLOCK)
        position = driver.volume.position
        with pytest.raises(Damaged, match="Block 4"):
            await driver.restore(then)
        assert driver.volume.write == then + 1 and driver.volume.position <= position + 2
        await driver.check_live()
        file.pwritev([right], inside * BLOCK)

    play(story)


def test_what_goes_wrong_behind_the_first_transfer_stops_the_store(play: Callable[[Play], None]) -> None:
    async def story(driver: Restorer) -> None:
        await driver.change([(OP_WRITE, 0, payload(1, 60 * BLOCK))])
        then = driver.volume.write
        await driver.change([(OP_WRITE, 0, payload(3, 60 * BLOCK))])
        async with driver.restoring(then) as restoring:
            difference = await restoring.difference(lambda done, total: None)
            load, calls = restoring._view.reader.load, []

            def failing(blocks: Any) -> memoryview:
                calls.append(blocks)
                if len(calls) > 2:
                    raise Damaged("read-mismatch", "Not what was written.")
                return load(blocks)

            restoring._view.reader.load = failing  # type: ignore[method-assign]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(whole_writes, "SLICE_BLOCKS", 1)
                with pytest.raises(Poisoned):
                    await restoring.write(difference, lambda: None)
        with pytest.raises(Poisoned):
            driver.volume.append([(OP_WRITE, 0, BLOCK, memoryview(bytes(BLOCK)))])
        await driver.crash()
        await driver.check_live()
        await driver.restore(then)
        await driver.check_live()

    play(story)


def test_more_than_the_map_holds_is_refused(play: Callable[[Play], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(driver: Restorer) -> None:
        await driver.change([(OP_WRITE, 0, payload(1, 9 * BLOCK))])
        then = driver.volume.write
        await driver.change([(OP_WRITE, 0, payload(3, 9 * BLOCK))])
        monkeypatch.setattr(driver.volume.live.overlay, "room", lambda: 8)
        with pytest.raises(Refused, match="more than fit the memory"):
            await driver.restore(then)
        await driver.check_live()

    play(story)


def test_what_the_log_has_no_room_for_is_refused_and_writes_go_on(place: Path) -> None:
    async def story() -> None:
        tight = replace(
            SMALL, segment_bytes=4 * SEGMENT, budget_bytes=56 * SEGMENT, spare_bytes=8 * SEGMENT, keep_s=0.0
        )
        driver = Restorer(inline_host(), place / "v", SIZE, tight)
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, 290 * BLOCK))])
        await driver.volume.point_maker.cut()
        then = driver.volume.write
        while await driver.fold():
            pass
        for seed in (2, 3):
            await driver.change([(OP_WRITE, 0, payload(seed, 250 * BLOCK))])
        with pytest.raises(Refused, match="KiB of log are needed"):
            await driver.restore(then)
        await driver.check_live()
        driver.volume.admission._when_full = lambda: WhenFull.BLOCK
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(restoring_module.Restoring, "_refuse_beyond_budget", lambda *_: None)
            with pytest.raises(NoSpace):  # clients are kept away meanwhile: it does not wait for ever
                await asyncio.wait_for(driver.restore(then), 60)
        assert not driver.volume.admission.full and not driver.volume.admission.blocked
        await driver.restore(then, 0, 50)  # a part of it
        await driver.check_live()
        await driver.volume.snapshot("kept")  # keeps no log
        pinned = driver.volume.write
        driver.model.seal(pinned)
        for at in range(3):
            while await driver.fold():
                pass
            await driver.change([(OP_WRITE, 0, payload(4 + at, 250 * BLOCK))])
            await driver.volume.point_maker.cut()
        await driver.restore(pinned)
        await driver.check_live()
        await driver.volume.close()

    asyncio.run(story())


# Power cuts


class Story:
    """A volume that is restored and goes on, and the states in which a power cut left it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = Chance(seed, "restore")
        self.crashes: list[tuple[Platter, str, bool]] = []
        self.seen: set[int] = set()
        self.then = self.before = self.after = 0
        self.durable = False
        self.model = Model(SIZE)

    def play(self) -> None:
        with SimProcess(Platter(256 << 20), self.seed) as life:
            life.run(self._play(life))

    async def _play(self, life: SimProcess) -> None:
        driver = Restorer(life.host, Path("/v"), SIZE, replace(SMALL, spare_bytes=0))
        self.model = driver.model
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, 30 * BLOCK)), (OP_WRITE, 40 * BLOCK + 9, payload(2, 700))])
        await driver.volume.snapshot("kept")
        await driver.change([(OP_WRITE, 2 * BLOCK, payload(3, 9 * BLOCK))])
        self.then = driver.volume.write
        await driver.change([(OP_WRITE, 0, payload(4, 60 * BLOCK)), (OP_ZERO, 5 * BLOCK, 9 * BLOCK)])
        await driver.volume.point_maker.cut()
        await driver.fold()
        await driver.volume.durable(driver.volume.position)
        self.before = driver.volume.write
        life.platter.before_change = lambda number, what: self._cut_here(life.platter, number, what)
        await driver.restore(self.then)
        self.after = driver.volume.write
        await driver.volume.durable(driver.volume.position)
        self.durable = True
        await driver.volume.point_maker.cut()
        life.platter.before_change = lambda number, what: None
        await driver.check_live()
        await abandon(driver.volume)

    def _cut_here(self, platter: Platter, number: int, what: str) -> None:
        cuts: dict[str, Callable[..., Any]] = {
            "nothing": lambda n: LOST, "all": lambda n: KEPT, "some": Cut.drawn(self.chance).decide,
        }  # fmt: skip
        for how, decide in cuts.items():
            cut = platter.after(Cut(decide, self.chance))
            if (state := state_of(cut)) not in self.seen:
                self.seen.add(state)
                self.crashes.append((cut, f"change {number} ({what}), {how}", self.durable))

    def content(self, write: int) -> bytes:
        return bytes(Model.content(*self.model.moments[write]))

    def judge(self, platter: Platter, where: str, durable: bool) -> str:
        """What was found: the state before, or the one that was restored, and nothing between them."""
        with SimProcess(platter.copy(), self.seed) as looker:
            assert not check(looker.host, "/v").problems, where
            report = salvage(looker.host, "/v", "/out")
            assert report.good, where
            salvaged = read_file(looker.host.disk.open("/"), "out")
        with SimProcess(platter, self.seed) as life:
            found = life.run(self._found(life))
        states = {self.content(self.before): "before", self.content(self.then): "restored"}
        assert found in states, f"{where}: neither of the two"
        assert salvaged == found, f"{where}: salvage"
        assert not durable or states[found] == "restored", f"{where}: it was durable"
        return states[found]

    async def _found(self, life: SimProcess) -> bytes:
        driver = Restorer(life.host, Path("/v"), SIZE, replace(SMALL, spare_bytes=0))
        driver.volume = await open_volume(life.host, "/v", driver.options)
        driver.model.moments = self.model.moments
        found = await driver.read_all()
        await driver.check_moment(self.then)
        await driver.volume.close()
        return found


def test_after_a_power_cut_all_of_it_is_there_or_none() -> None:
    story = Story(3)
    story.play()
    found = [story.judge(*crash) for crash in story.crashes]
    assert len(found) > 20 and {*found} == {"before", "restored"}, found
