"""What salvage says of a log that ends too early, and what only a point's record can give back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.host import Host
from revolume.log.format.segment import segment_name
from revolume.log.read.scan import SegmentReader
from revolume.log.write.operations import OP_WRITE
from revolume.offline.salvage.salvage import salvage
from revolume.offline.walk.report import SalvageReport
from tests.volume.driver import BLOCK, Driver, Model, assert_equal
from tests.volume.store import TINY, inline_host, payload

SIZE = 1 << 20
pytestmark = pytest.mark.timeout(60)


class Stopped:
    """A volume that was closed, where its transfers lie, and what it held."""

    def __init__(self, path: Path) -> None:
        self.host: Host = inline_host()
        self.driver = Driver(self.host, path / "v", SIZE, replace(TINY, spare_bytes=1 << 20))
        self.places: list[tuple[int, Path, int]] = []

    async def made(self, parts: bool = False) -> None:
        driver = self.driver
        await driver.open()
        for number in range(4):
            await driver.change([(OP_WRITE, number * 8 * BLOCK, payload(number, 6 * BLOCK))])
            await driver.volume.point_maker.cut()
        while await driver.fold():
            pass
        if parts:
            await driver.change([(OP_WRITE, 8 * BLOCK + 100, b"in part" * 10)])
            await driver.change([(OP_WRITE, 9 * BLOCK + 100, payload(20, 600))])
        for number in range(3):
            await driver.change([(OP_WRITE, (30 + number) * BLOCK, payload(40 + number, BLOCK))])
        await driver.volume.log.footers.written()
        await driver.volume.close()
        log = driver.path / "log"
        for segment in driver.volume.log.pool.segments():
            path = log / segment_name(segment.index)
            with path.open("rb") as file:
                segment.file = RawFile(file)  # type: ignore[assignment]
                for found in SegmentReader(segment, driver.volume.volume_id).anywhere():
                    self.places.append((found.transfer.position, path, found.block))
        self.places.sort()

    def flip(self, path: Path, offset: int) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))

    def salvaged(self) -> tuple[SalvageReport, bytes]:
        out = self.driver.path.with_name("out")
        out.unlink(missing_ok=True)
        return salvage(self.host, str(self.driver.path), str(out)), out.read_bytes()

    @property
    def want(self) -> bytearray:
        return Model.content(SIZE, self.driver.model.blocks)


class RawFile:
    """A file to read, where the volume's own is closed."""

    def __init__(self, file) -> None:  # type: ignore[no-untyped-def]
        self._file = file

    def preadv(self, buffers, offset: int) -> int:  # type: ignore[no-untyped-def]
        self._file.seek(offset)
        return sum(self._file.readinto(buffer) for buffer in buffers)


@pytest.fixture
def stopped(tmp_path: Path) -> Stopped:
    return Stopped(tmp_path)


def test_it_says_that_the_log_breaks_off(stopped: Stopped) -> None:
    """The last transfers are gone, and the manifest says that they were durable."""
    asyncio.run(stopped.made())
    assert not stopped.salvaged()[0].problems
    last = stopped.places[-1][0]
    for position, path, block in stopped.places[-2:]:
        stopped.flip(path, block * BLOCK + 100)
        assert position >= last - 1
    report, _ = stopped.salvaged()
    assert [(p.where, p.what) for p in report.problems] == [
        ("log", f"breaks off after position {last - 2}; position {last} was durable")
    ]
    assert not report.good


def test_it_says_which_positions_are_missing_in_between(stopped: Stopped) -> None:
    asyncio.run(stopped.made())
    position, path, block = stopped.places[-3]
    stopped.flip(path, block * BLOCK + 100)
    report, _ = stopped.salvaged()
    said = [p.what for p in report.problems if p.where == "log"]
    assert any(f"positions {position} to {position} are missing" in what for what in said), said


def test_a_block_that_only_a_points_record_has_whole(stopped: Stopped) -> None:
    """It was written in part over a block of the image, and that is damaged: the point carries it whole."""
    asyncio.run(stopped.made(parts=True))
    old = payload(1, 6 * BLOCK)
    image = (stopped.driver.path / "image").read_bytes()
    for number in (8, 9):
        content = old[(number - 8) * BLOCK : (number - 7) * BLOCK]
        assert image[number * BLOCK : (number + 1) * BLOCK] == content, "it was folded"
        stopped.flip(stopped.driver.path / "image", number * BLOCK + 7)
        for path in (stopped.driver.path / "log").iterdir():
            while (at := path.read_bytes().find(content)) >= 0:
                stopped.flip(path, at + 7)  # what an earlier use of the segment left
    report, content = stopped.salvaged()
    assert report.lost == ()
    assert_equal(content, stopped.want, "salvaged")
