"""Small parts of an open volume, each made alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from revolume.chain.point import Point
from revolume.host.real.disk import RealDisk
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.map_files import MapFiles
from revolume.volume.metadata.manifest_state import Horizon, State
from revolume.volume.points.retained_points import RetainedPoints
from revolume.volume.size_history import SizeHistory
from revolume.volume.uncancelled_tasks import UncancelledTasks


def point(number: int) -> Point:
    return Point(number, number - 1, number, number * 10, 0, 1, 0, (0, 0), b"", 0, number * 100, number * 100 + 5)


def test_sizes_are_those_of_their_writes() -> None:
    sizes = SizeHistory(1000, [(5, 2000)])
    sizes.grow(9, 3000)
    assert [sizes.at(write) for write in (1, 4, 5, 8, 9, 100)] == [1000, 1000, 2000, 2000, 3000, 3000]
    assert (sizes.now, sizes.changed_at) == (3000, 9)
    assert (SizeHistory(7).now, SizeHistory(7).changed_at) == (7, 0)


def test_points_before_the_horizon_are_forgotten_the_last_is_not() -> None:
    retained = RetainedPoints([point(1), point(2), point(3)])
    assert retained.newest == point(3) and retained.newest_address == 300
    retained.forget_before(3)
    retained.append(point(4))
    assert [each.number for each in retained] == [3, 4]
    retained.forget_before(9)
    assert not retained and retained.newest is None and retained.newest_address == 0
    assert retained.last.number == 0, "what the next point is computed from is not among the retained"


def test_stale_maps_go_when_no_job_may_still_open_them(tmp_path: Path) -> None:
    directory = RealDisk().open(str(tmp_path))
    for name in ("a", "b"):
        directory.open(name, create=True).close()
    maps = MapFiles(directory, bytes(16), "base")
    with maps.in_use():
        with maps.in_use():
            maps.retire("a")
        assert directory.names() == ["a", "b"]
    assert directory.names() == ["b"] and not maps.stale
    maps.retire("b")
    maps.retire("was never there")
    assert directory.names() == [] and not maps.stale


class Closing:
    def close(self) -> None: ...

    def size(self) -> int:
        return 4096


def image_at(horizon: Horizon) -> tuple[VolumeImage, Any]:
    manifest: Any = SimpleNamespace(state=State(horizon=horizon))
    file: Any = Closing()
    return VolumeImage(file, file, manifest), manifest


def test_a_flip_is_one_step_behind_its_record() -> None:
    old, new = Horizon(point=1), Horizon(point=2)

    async def scenario() -> None:
        image, manifest = image_at(old)

        async def record() -> None:
            manifest.state = State(horizon=new)
            await asyncio.sleep(0)
            assert image.horizon == old, "recorded, and nobody has seen it yet"

        async with image.flip(record()):
            assert image.horizon == new and image.lock.locked() and image.generation == 0
        assert image.generation == 1 and not image.lock.locked()

    asyncio.run(scenario())


def test_a_flip_that_is_not_recorded_has_not_happened() -> None:
    async def scenario() -> None:
        image, _ = image_at(Horizon(point=1))

        async def record() -> None:
            raise OSError(5, "no")

        with pytest.raises(OSError):
            async with image.flip(record()):
                raise AssertionError("nothing is exchanged")
        assert image.horizon.point == 1 and image.generation == 0

    asyncio.run(scenario())


def test_cancelling_who_waits_does_not_cancel_the_work() -> None:
    async def scenario() -> None:
        tasks, gate, done = UncancelledTasks(), asyncio.Event(), list[int]()

        async def work() -> int:
            await gate.wait()
            done.append(1)
            return 7

        waiter = asyncio.ensure_future(tasks.finish(work()))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        settled = asyncio.ensure_future(tasks.settled())
        await asyncio.sleep(0)
        assert not done and not settled.done()
        gate.set()
        await settled
        assert done == [1]
        assert await tasks.finish(work()) == 7

    asyncio.run(scenario())
