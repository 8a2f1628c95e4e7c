"""Earlier moments as a new mirror's storage takes them: what is durable when one is there, and what is not kept of
one that did not come whole."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from revolume.blocks.digest import digest_array
from revolume.errors import Refused
from revolume.log.write.operations import OP_WRITE
from revolume.volume.metadata.layout import RESCUE
from revolume.volume.metadata.manifest_state import Horizon
from revolume.volume.secondary import Secondary

from .driver import BLOCK, abandon
from .faulty import Faults
from .mirrored import Mirrored
from .store import payload
from .test_rescue_steps import faulty_host

MEMORY = Path("/dev/shm")
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-moments-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


async def put(there: Secondary, moment: Horizon, blocks: list[int], last: bool, seed: int = 1) -> None:
    content = b"".join(payload(seed + block, BLOCK) for block in blocks)
    digests = digest_array(memoryview(content), len(blocks))
    await there.put_moment(moment, np.array(blocks, np.uint64), digests, content, last)


def play(scenario: Callable[[Secondary, Horizon, Faults], Awaitable[None]], place: Path) -> None:
    """With the storage of a mirror whose base is to come, and a moment before that base."""

    async def run() -> None:
        faults = Faults()
        driver = Mirrored(faulty_host(faults), place / "v", 64 * BLOCK)
        await driver.open()
        await driver.change([(OP_WRITE, at * BLOCK, payload(at, BLOCK)) for at in range(8)])
        await driver.volume.point_maker.cut()
        there = await driver.begin()
        horizon = there.manifest.state.horizon
        assert horizon.write > 3
        try:
            await scenario(there, replace(horizon, write=3, point=0), faults)
        finally:
            await there.close()
            await abandon(driver.volume)

    asyncio.run(run())


def test_a_moment_is_durable_before_it_is_known(place: Path) -> None:
    async def scenario(there: Secondary, moment: Horizon, faults: Faults) -> None:
        await put(there, moment, [1, 2], False)
        assert not there.manifest.state.rescues
        faults.calls.clear()
        await put(there, moment, [4], True)
        calls = faults.calls

        def last(operation: str, part: str) -> int:
            return max(at for at, (called, name) in enumerate(calls) if called == operation and part in name)

        edit = last("pwritev", "manifest")
        assert last("pwritev", ".blocks") < last("datasync", ".blocks") < edit
        assert last("pwritev", ".map") < last("datasync", ".map") < edit
        assert last("open", ".map") < last("sync", RESCUE) < edit
        (rescue,) = there.manifest.state.rescues
        assert rescue.moment == moment and rescue.files[0].blocks == 3 and rescue.tables[0].entries == 3

    play(scenario, place)


def test_what_came_of_a_moment_when_the_link_broke_is_not_kept_beside_what_comes_again(place: Path) -> None:
    async def scenario(there: Secondary, moment: Horizon, faults: Faults) -> None:
        await put(there, moment, [1, 2, 3], False)
        await there.settle_base()
        await put(there, moment, [1, 2, 3, 4], True)
        (rescue,) = there.manifest.state.rescues
        assert rescue.files[0].blocks == 4 and [table.entries for table in rescue.tables] == [4]

    play(scenario, place)


def test_blocks_that_come_in_two_passes_are_all_there(place: Path) -> None:
    """Of a block that comes twice the first is right; both are the same content."""

    async def scenario(there: Secondary, moment: Horizon, faults: Faults) -> None:
        await put(there, moment, [5, 7], False)
        await put(there, moment, [2, 5], False)
        await put(there, moment, [9], True)
        (rescue,) = there.manifest.state.rescues
        assert [table.entries for table in rescue.tables] == [2, 3]
        blocks = np.array([2, 5, 7, 9, 3], np.uint64)
        found = there.rescued.get(moment.write, blocks, False)
        assert found is not None
        want = digest_array(memoryview(b"".join(payload(1 + at, BLOCK) for at in (2, 5, 7, 9))), 4)
        assert found[1].tolist() == [*want.tolist(), 0]

    play(scenario, place)


def test_a_moment_at_the_base_is_refused(place: Path) -> None:
    async def scenario(there: Secondary, moment: Horizon, faults: Faults) -> None:
        with pytest.raises(Refused, match="not before its base"):
            await put(there, there.manifest.state.horizon, [1], True)
        assert not there.manifest.state.rescues

    play(scenario, place)
