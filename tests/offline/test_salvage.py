"""What ``salvage`` brings back: all of it without manifests and maps, and of what was damaged all that still has
a copy with its digest; the rest is named."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revolume.host import real_host
from revolume.host.real.disk import RealFile
from revolume.log.format.segment import Segment, segment_name
from revolume.log.format.transfer import Kind, NodeHeader, pack_shared_header, unpack_shared_header
from revolume.log.read.recovery import TailCopy
from revolume.log.read.scan import FoundTransfer
from revolume.log.write.operations import OP_WRITE, OP_ZERO
from revolume.log.write.segment_pool import SegmentPool
from revolume.offline.salvage.salvage import salvage
from revolume.offline.salvage.transfer_search import search
from revolume.offline.walk.lineage import lineage
from revolume.offline.walk.report import SalvageReport
from revolume.volume.image.digest_pages import PER_PAGE
from tests.volume.driver import BLOCK, SMALL, Driver, Model, abandon, assert_equal
from tests.volume.store import Store, inline_host, make_store, payload


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Nothing of its log is written over: what a fold gives back is not used again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentPool, "release", lambda pool, edit: None)
        return asyncio.run(make_store(inline_host(), tmp_path_factory.mktemp("store") / "v"))


@dataclass
class Copy:
    """A copy of the store, to be spoilt."""

    store: Store
    path: Path

    @property
    def want(self) -> bytes:
        return bytes(Model.content(self.store.model.size, self.store.model.blocks))

    def flip(self, name: str, offset: int) -> None:
        with open(self.path / name, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))

    def salvaged(self) -> tuple[SalvageReport, bytes]:
        out = self.path.with_name("out")
        out.unlink(missing_ok=True)
        return salvage(real_host(), str(self.path), str(out)), out.read_bytes()

    def bare(self) -> None:
        for name in ("manifest.a", "manifest.b"):
            (self.path / name).unlink()
        shutil.rmtree(self.path / "maps")

    def in_the_log(self, block: int, most: int = 1 << 20) -> list[tuple[str, int]]:
        """(file, offset) of every copy of a block's content in the log's files, or of so many: zeroes are
        everywhere."""
        data, found = self.store.model.blocks[block], list[tuple[str, int]]()
        for path in sorted((self.path / "log").iterdir()):
            raw, at = path.read_bytes(), -1
            while len(found) < most and (at := raw.find(data, at + 1)) >= 0:
                found.append((f"log/{path.name}", at))
        return found


@pytest.fixture
def copy(made: Store, tmp_path: Path) -> Iterator[Copy]:
    shutil.copytree(made.path, tmp_path / "v")
    yield Copy(made, tmp_path / "v")


@pytest.mark.parametrize("bare", [False, True], ids=["whole", "bare"])
def test_it_is_all_there(copy: Copy, bare: bool) -> None:
    if bare:
        copy.bare()
    report, content = copy.salvaged()
    assert_equal(content, copy.want, "salvaged")
    assert (report.good, [p.where for p in report.problems]) == (not bare, ["manifest"] if bare else [])
    assert report.write == max(copy.store.model.moments) and report.size == copy.store.model.size


def in_the_image(copy: Copy) -> int:
    """A block that reads of now take from the image, and that has a copy in the log too."""
    image = (copy.path / "image").read_bytes()
    for block, data in copy.store.model.blocks.items():
        if image[block * BLOCK : (block + 1) * BLOCK] == data and copy.in_the_log(block, 1):
            return block
    raise AssertionError("the store has no such block")


def test_a_block_of_the_image_is_found_elsewhere(copy: Copy) -> None:
    block = in_the_image(copy)
    copy.flip("image", block * BLOCK + 100)
    report, content = copy.salvaged()
    assert report.good
    assert_equal(content, copy.want, "salvaged")
    for name, offset in copy.in_the_log(block):
        copy.flip(name, offset + 7)
    report, content = copy.salvaged()
    assert report.lost == ((block, 1),) and not report.problems
    assert content[block * BLOCK : (block + 1) * BLOCK] == bytes(BLOCK)


def test_a_disk_that_refuses_a_sector_costs_its_block(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    block, real = in_the_image(copy), RealFile.preadv
    places = [("image", block * BLOCK), *copy.in_the_log(block)]
    bad = {((copy.path / name).stat().st_ino, offset + 512) for name, offset in places}

    def refusing(file: RealFile, buffers: Sequence[Any], offset: int) -> int:
        end = offset + sum(len(memoryview(buffer).cast("B")) for buffer in buffers)
        inode = os.fstat(file._fd).st_ino
        if any(inode == one and offset <= at < end for one, at in bad):
            raise OSError(errno.EIO, "Input/output error")
        return real(file, buffers, offset)

    monkeypatch.setattr(RealFile, "preadv", refusing)
    report, content = copy.salvaged()
    assert report.lost == ((block, 1),)
    want = bytearray(copy.want)
    want[block * BLOCK : (block + 1) * BLOCK] = bytes(BLOCK)
    assert_equal(content, want, "salvaged")


def test_blocks_whose_digests_are_lost_are_taken_as_they_are(copy: Copy) -> None:
    sums = np.fromfile(copy.path / "image.sums", np.uint8)
    for page in range(BLOCK, len(sums), BLOCK):
        copy.flip("image.sums", page + 2000)
    report, content = copy.salvaged()
    assert report.unproved and not report.lost
    assert sum(count for _, count in report.unproved) <= 2 * PER_PAGE
    assert_equal(content, copy.want, "salvaged")


def test_a_transfer_that_is_missing_is_said(copy: Copy) -> None:
    with records_of(copy.path) as found:
        middle = [one for one in found if one.transfer.kind == Kind.WRITES][-3]
    copy.flip(f"log/{segment_name(middle.segment.index)}", middle.block * BLOCK + 70)
    report, _ = copy.salvaged()
    position, first = middle.transfer.position, middle.transfer.write
    words = f"positions {position} to {position} are missing, behind w{first - 1}"
    assert [(p.where, p.what) for p in report.problems] == [("log", words)]
    assert report.write == max(copy.store.model.moments)


@contextmanager
def records_of(path: Path) -> Iterator[list[FoundTransfer]]:
    """What the log's files hold, in order of place; they are open meanwhile."""
    with ExitStack() as held, closing(real_host().disk.open(str(path / "log"))) as log:
        found = search(log, bytes(16), 0, held, lambda *_: None).found
        yield sorted(found, key=lambda one: one.address)


def test_what_was_never_promised_ends_the_log(copy: Copy) -> None:
    """Of the transfers at the end one is not there: those behind it are not taken, unless they were durable."""
    with records_of(copy.path) as found:
        last = [one for one in found if one.transfer.kind != Kind.LOCAL_BLOCKS][-4:]
        holed = [one for one in found if one is not last[1]]
        position = last[0].transfer.position
        assert lineage(holed, position, {})[-1] is last[0]
        assert lineage(holed, last[3].transfer.position, {})[-1] is last[3]
        assert lineage(found, position, {})[-1] is last[3]


def record(position: int, epoch: int, previous: bytes) -> FoundTransfer:
    """A transfer without payload; each epoch has a segment of its own."""
    identity = (b"v" * 16, b"r" * 16, epoch)
    packed, _ = pack_shared_header(
        Kind.WRITES, 0, 0, 0, identity, position, position, position, previous, b"", (0, 0, 0)
    )
    transfer = unpack_shared_header(memoryview(packed))
    assert transfer is not None
    segment = Segment(epoch, epoch, 100, None)  # type: ignore[arg-type]
    return FoundTransfer(segment, position, NodeHeader(epoch, position, 0, 0, 0, 0), transfer)


def chained(first: int, end: int, epoch: int, previous: bytes) -> list[FoundTransfer]:
    found: list[FoundTransfer] = []
    for position in range(first, end):
        found.append(record(position, epoch, found[-1].transfer.chain if found else previous))
    return found


def test_a_gap_does_not_lead_to_where_the_log_never_went_on() -> None:
    """Opening 2 began behind position 4; opening 1 had come to 7. Of 2's, 5 to 7 are missing."""
    first = chained(1, 8, 1, bytes(16))
    second = chained(5, 10, 2, first[3].transfer.chain)
    known = {1: 0, 2: 4}
    assert lineage(first + second, 9, known) == first[:4] + second
    assert lineage(first + second[3:], 9, known) == first[:4] + second[3:]


def test_a_recovery_that_the_power_cut_short_takes_nothing(tmp_path: Path) -> None:
    """It had begun to write the end of the log once more; of one payload nothing arrived. The old place has it."""
    path = tmp_path / "v"

    async def crashed() -> Model:
        driver = Driver(inline_host(), path, 64 * BLOCK, replace(SMALL, sync_interval_s=3600))
        await driver.open()
        for block in range(5):
            await driver.change([(OP_WRITE, block * BLOCK, payload(block, BLOCK))])
        await driver.volume.durable(driver.volume.position)
        await abandon(driver.volume)
        return driver.model

    model = asyncio.run(crashed())
    copy = Copy(Store(path, model, ()), path)
    with ExitStack() as held, closing(real_host().disk.open(str(path / "log"))) as log:
        records = search(log, bytes(16), 0, held, lambda *_: None)
        tail = sorted((one for one in records.found if one.transfer.position > records.durable), key=by_position)
        assert len(tail) == 5
        free = next(name for name in log.names() if name not in {segment_name(one.segment.index) for one in tail})
        segment = Segment(int(free[:8]), 50, tail[0].segment.blocks, held.enter_context(closing(log.open(free))))
        second = TailCopy(segment, records.volume, (records.durable, 1, 0))
        for one in tail:
            at = second.next_block
            second.add(one)
            if one is tail[1]:
                segment.file.pwritev([bytes(BLOCK)], (at + one.transfer.header_blocks) * BLOCK)
    report, content = copy.salvaged()
    assert report.good and report.write == max(model.moments)
    assert_equal(content, copy.want, "salvaged")


def by_position(found: FoundTransfer) -> int:
    return found.transfer.position


def test_digests_of_an_older_fold_are_not_believed(tmp_path: Path) -> None:
    """As if the rename of the new ones had been lost. Blocks would be looked for by what they once were."""
    path = tmp_path / "v"
    older: list[bytes] = []

    async def folded_twice() -> Model:
        driver = Driver(inline_host(), path, 64 * BLOCK)
        await driver.open()
        for seed in (1, 2):
            await driver.change(
                [(OP_WRITE, at * BLOCK, payload(seed * 100 + at, BLOCK)) for at in range(0, 40, 2)]
            )
            await driver.volume.point_maker.cut()
            assert await driver.fold()
            older.append((path / "image.pages").read_bytes())
        await driver.change([(OP_WRITE, 3 * BLOCK, payload(900, BLOCK))])
        await driver.volume.close()
        return driver.model

    copy = Copy(Store(path, asyncio.run(folded_twice()), ()), path)
    (path / "image.pages").write_bytes(older[0])
    for bare in (False, True):
        if bare:
            copy.bare()
        report, content = copy.salvaged()
        assert report.unproved and any(problem.where == "image.sums" for problem in report.problems)
        assert_equal(content, copy.want, "salvaged")


def test_an_image_that_is_gone_is_found_in_the_log_or_named(copy: Copy) -> None:
    (copy.path / "image").unlink()
    report, content = copy.salvaged()
    assert not report.lost  # nothing of this store's log has been written over
    assert [problem.where for problem in report.problems] == ["image"]
    assert_equal(content, copy.want, "salvaged")
    for block in copy.store.model.blocks:
        for name, offset in copy.in_the_log(block, 20):
            copy.flip(name, offset + 9)
    report, content = copy.salvaged()
    named = {b for first, count in report.lost for b in range(first, first + count)}
    want = copy.want
    wrong = [at for at in range(0, len(want), BLOCK) if content[at : at + BLOCK] != want[at : at + BLOCK]]
    assert wrong and {at // BLOCK for at in wrong} <= named


def test_a_size_that_is_no_multiple_of_a_block(tmp_path: Path) -> None:
    path = tmp_path / "v"

    async def odd() -> Model:
        driver = Driver(inline_host(), path, 10 * BLOCK + 512)
        await driver.open()
        await driver.change([(OP_WRITE, 10 * BLOCK, payload(1, 512))])
        await driver.grow(20 * BLOCK + 1024)
        await driver.change([(OP_WRITE, 20 * BLOCK + 512, payload(2, 512)), (OP_ZERO, 5 * BLOCK + 7, 6 * BLOCK)])
        await driver.volume.point_maker.cut()
        assert await driver.fold()
        await driver.change([(OP_WRITE, 20 * BLOCK + 100, payload(3, 300))])
        await driver.volume.close()
        return driver.model

    copy = Copy(Store(path, asyncio.run(odd()), ()), path)
    for bare in (False, True):
        if bare:
            copy.bare()
        report, content = copy.salvaged()
        assert report.size == len(content) == copy.store.model.size
        assert_equal(content, copy.want, "salvaged")
