"""A moment brought to a primary from another copy of the volume: real volumes at both ends, without a link."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from revolume.blocks.digest import block_digests
from revolume.blocks.root import Root
from revolume.errors import NoSpace, Refused, RevolumeError
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.mirror.held_moments import HeldMoment, held_points, listed_moments, open_moment
from revolume.mirror.target.comparison import region_sums
from revolume.mirror.wire.block_messages import BlockRows
from revolume.mirror.wire.codec import NOWHERE
from revolume.mirror.wire.recall_messages import Recall, pack_recalled, unpack_recalled
from revolume.mirror.wire.tail_messages import Fetch
from revolume.offline.check.check import check
from revolume.pace.pacer import Pacer
from revolume.resync.moment_fetch import FetchResult, MomentFetch
from revolume.volume.metadata.layout import RESCUE
from revolume.volume.open.open import open_volume
from revolume.volume.primary import Volume

from .driver import BLOCK, SEGMENT, SMALL, Driver
from .store import inline_host, payload

U64 = npt.NDArray[np.uint64]
MEMORY = Path("/dev/shm")  # nothing here is about how long a sync takes
BLOCKS = 96
TIGHT = replace(SMALL, budget_bytes=20 * SEGMENT, spare_bytes=2 * SEGMENT, keep_s=0.0)
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-fetch-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


class Direct:
    """What a link asks of the other end, asked of that itself. ``bend``: what it says of digests; ``between`` is
    done before each answer."""

    def __init__(self, moment: HeldMoment) -> None:
        self.moment = moment
        self.asked = 0
        self.bend: Callable[[U64, U64], U64] = lambda blocks, digests: digests
        self.between: Callable[[], Awaitable[None]] = self._nothing

    async def _nothing(self) -> None:
        """By default."""

    async def sums(self, first: int, count: int) -> tuple[Root, ...]:
        return region_sums(first, await self.digests(first, count))

    async def digests(self, first: int, count: int) -> U64:
        await self.between()
        found, _, _ = await self.moment.scan(first, count, False)
        return self.bend(np.arange(first, first + count, dtype=np.uint64), found.copy())

    async def blocks(self, point: int, wanted: U64) -> BlockRows:
        await self.between()
        assert point == self.moment.recalled.start.number
        self.asked += len(wanted)
        digests, content = await self.moment.read(wanted)
        return BlockRows(wanted, self.bend(wanted, digests), content)


async def hold(other: Volume, moment: str) -> HeldMoment:
    state = other.manifest.state
    asked = Recall(Fetch(state.volume, state.node, NOWHERE), moment)
    held = await open_moment(other, asked, primary=True, fed=False)
    held.recalled = unpack_recalled(memoryview(pack_recalled(held.recalled)))
    return held


async def fetch(volume: Volume, link: Direct, name: str) -> FetchResult:
    bring = MomentFetch(
        volume,
        link,
        link.moment.recalled,
        Pacer(volume.context.host.clock),
        lambda *_: None,  # type: ignore[arg-type]
    )
    return await bring.run(name)


def some(chance: random.Random) -> tuple[int, int, Any]:
    """A change of any kind."""
    kind = chance.choice((OP_WRITE, OP_WRITE, OP_WRITE, OP_ZERO, OP_TRIM))
    at = chance.randrange(BLOCKS - 8) * BLOCK + chance.choice((0, 0, 512))
    length = chance.randrange(1, 8) * BLOCK - chance.choice((0, 0, 512))
    return kind, at, payload(chance.randrange(1 << 30), length) if kind == OP_WRITE else length


class Pair:
    """A volume that has lost its history, and the copy of it that has that: ``kept`` is a snapshot of both."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place = place
        self.chance = random.Random(seed)
        self.driver = Driver(inline_host(), place / "v", BLOCKS * BLOCK)
        self.other: Volume

    async def begin(self, grow: bool = False) -> None:
        driver = self.driver
        await driver.open()
        for number in range(60):
            await driver.change([some(self.chance) for _ in range(self.chance.randrange(1, 6))])
            if self.chance.random() < 0.4:
                await driver.volume.point_maker.cut()
            if number == 30:
                await driver.volume.snapshot("kept")
                if grow:
                    await driver.grow((BLOCKS + 40) * BLOCK)
        await driver.volume.point_maker.cut()
        await driver.volume.close()
        shutil.copytree(driver.path, self.place / "other")
        self.other = await open_volume(driver.host, str(self.place / "other"), SMALL)
        driver.options = TIGHT
        await driver.open()
        await self.overwrite(2)

    async def overwrite(self, times: float) -> None:
        """Until all of the log has been used so often."""
        written = 0
        while written < times * TIGHT.budget_bytes:
            change = some(self.chance)
            await self.driver.change([change])
            written += len(change[2]) if isinstance(change[2], bytes) else 0
            if self.chance.random() < 0.05:
                await self.driver.volume.point_maker.cut()

    def lacking(self) -> list[int]:
        """The points' writes that only the other has."""
        horizon = self.driver.volume.folder.horizon.write
        here = {each.moment.write for each in self.driver.volume.manifest.state.rescues}
        return [p.write for p in held_points(self.other) if p.write < horizon and p.write not in here]

    async def end(self) -> None:
        await self.driver.volume.close()
        await self.other.close()
        assert not check(self.driver.host, str(self.driver.path)).problems


@pytest.mark.parametrize("seed", range(4))
def test_moments_in_any_order_are_what_they_were_while_folds_go_on(place: Path, seed: int) -> None:
    async def run() -> None:
        pair = Pair(place, seed)
        await pair.begin(grow=bool(seed % 2))
        driver, chance = pair.driver, pair.chance
        lacking = pair.lacking()
        assert len(lacking) > 5
        fetched: list[int] = []
        for write in chance.sample(lacking, min(8, len(lacking))):
            held = await hold(pair.other, f"w{write}")
            link = Direct(held)

            async def meanwhile() -> None:
                if chance.random() < 0.3:
                    await pair.overwrite(0.3)

            link.between = meanwhile
            result = await fetch(driver.volume, link, f"f{write}")
            held.close()
            assert result.write == write and result.sent == link.asked <= result.differs
            fetched.append(write)
            for each in fetched:
                await driver.check_moment(each)
            if chance.random() < 0.3:
                await driver.crash()
            if chance.random() < 0.3:
                gone = chance.choice(fetched)
                fetched.remove(gone)
                await driver.volume.drop_snapshot(f"f{gone}")
            await pair.overwrite(0.5)
            while await driver.fold():
                pass
        names = {snapshot.write for snapshot in driver.volume.snapshots()}
        assert names >= set(fetched)
        await driver.reopen()
        for named in driver.volume.snapshots():
            await driver.check_moment(named.write)
        await pair.end()

    asyncio.run(run())


def rescue_files(driver: Driver) -> set[str]:
    place = driver.path / RESCUE
    return {each.name for each in place.iterdir()} if place.exists() else set()


async def refused(pair: Pair, link: Direct, name: str = "f") -> RevolumeError:
    """Nothing of it is left, and what was here is what it was."""
    before = rescue_files(pair.driver), pair.driver.volume.manifest.state.rescues
    with pytest.raises(RevolumeError) as found:
        await fetch(pair.driver.volume, link, name)
    assert (rescue_files(pair.driver), pair.driver.volume.manifest.state.rescues) == before
    assert name not in {s.name for s in pair.driver.volume.snapshots()} - {"kept"}
    for named in pair.driver.volume.snapshots():
        await pair.driver.check_moment(named.write)
    return found.value


def test_what_is_not_the_moment_is_refused_and_leaves_nothing(place: Path) -> None:
    async def run() -> None:
        pair = Pair(place, 1)
        await pair.begin()
        volume = pair.driver.volume
        kept = next(s.write for s in volume.snapshots() if s.name == "kept")
        older, newer = (
            [w for w in pair.lacking() if w < kept][-1],
            next(w for w in pair.lacking() if w > kept),
        )
        # Another content than its root says: with the digest that it has
        held = await hold(pair.other, f"w{older}")
        link = Direct(held)
        zero = block_digests(memoryview(bytes(BLOCK)), 1)[0]
        assert zero
        filled = int(np.flatnonzero((await held.scan(0, BLOCKS, False))[0])[0])
        link.bend = lambda blocks, digests: np.where(blocks == filled, np.uint64(0), digests).astype(np.uint64)
        lying = await refused(pair, link)
        assert lying.code == "moment-not-equal"
        # The name of another
        link.bend = lambda blocks, digests: digests
        assert (await refused(pair, link, "kept")).code == "snapshot-exists"
        between = await hold(pair.other, f"w{newer}")
        lies = Direct(between)
        # It is here already
        await fetch(volume, lies, "twice")
        assert (await refused(pair, lies)).code == "moment-is-here"
        held.close()
        between.close()
        await pair.end()

    asyncio.run(run())


def test_a_moment_of_another_past_is_refused(place: Path) -> None:
    """The other copy has gone on by itself: what it wrote since is none of this volume's past."""

    async def run() -> None:
        pair = Pair(place, 2)
        await pair.begin()
        ops = [(OP_WRITE, 0, BLOCK, memoryview(payload(1, BLOCK)))]
        pair.other.append(ops)
        point = await pair.other.cut()
        held = await hold(pair.other, f"cp{point.number}")
        assert (await refused(pair, Direct(held))).code == "moment-of-another-past"
        held.close()
        await pair.end()

    asyncio.run(run())


def test_what_has_no_room_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        pair = Pair(place, 3)
        await pair.begin()
        held = await hold(pair.other, f"w{pair.lacking()[0]}")
        with monkeypatch.context() as patched:
            patched.setattr(type(pair.driver.volume.context.directory), "free_bytes", lambda _: 0)
            error = await refused(pair, Direct(held))
        assert isinstance(error, NoSpace) and error.code == "moment-no-space"
        held.close()
        await pair.end()

    asyncio.run(run())


def test_moments_are_listed_with_what_they_are(place: Path) -> None:
    async def run() -> None:
        pair = Pair(place, 4)
        await pair.begin()
        there = listed_moments(pair.driver.volume, 8)
        (kept,) = [entry for entry in there.entries if "kept" in entry.names]
        assert kept.isolated and not kept.suspect
        assert [entry.write for entry in there.entries] == sorted(entry.write for entry in there.entries)
        with pytest.raises(RevolumeError, match="holds no such point"):
            await hold(pair.driver.volume, f"w{kept.write + 1}")
        with pytest.raises(Refused):
            await hold(pair.driver.volume, "branch:x")
        ago = await hold(pair.driver.volume, "now")
        assert ago.recalled.note
        ago.close()
        await pair.end()

    asyncio.run(run())
