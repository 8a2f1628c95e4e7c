"""What ``salvage`` brings back: all of it without manifests and maps, and of what was damaged all that still has
a copy with its digest; the rest is named."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from revolume.host import real_host
from revolume.host.real_disk import RealFile
from revolume.log.scan import Found, SegmentReader
from revolume.log.segment import Segment, segment_name
from revolume.log.transfer import Kind
from revolume.offline.lineage import lineage
from revolume.offline.report import SalvageReport
from revolume.offline.salvage import salvage
from revolume.volume.pagetags import PER_PAGE

from .driver import BLOCK, SEGMENT, Model, assert_equal
from .store import Store, inline_host, make_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
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

    def in_the_log(self, block: int) -> list[tuple[str, int]]:
        """(file, offset) of every copy of a block's content in the log's files."""
        data, found = self.store.model.blocks[block], []
        for path in sorted((self.path / "log").iterdir()):
            raw, at = path.read_bytes(), -1
            while (at := raw.find(data, at + 1)) >= 0:
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
        if image[block * BLOCK : (block + 1) * BLOCK] == data and copy.in_the_log(block):
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
    found = sorted(all_found(copy), key=lambda one: one.address)
    writes = [one for one in found if one.transfer.kind == Kind.WRITES]
    middle = writes[-3]
    copy.flip(f"log/{segment_name(middle.segment.index)}", middle.block * BLOCK + 70)
    report, _ = copy.salvaged()
    position, first = middle.transfer.position, middle.transfer.write
    words = f"positions {position} to {position} are missing, behind w{first - 1}"
    assert [(p.where, p.what) for p in report.problems] == [("log", words)]
    assert report.write == max(copy.store.model.moments)


def all_found(copy: Copy) -> list[Found]:
    host = real_host()
    log = host.disk.open(str(copy.path / "log"))
    found: list[Found] = []
    for name in log.names():
        file = log.open(name, write=False)
        segment = Segment(int(name.split(".")[0]), 0, SEGMENT // BLOCK, file)
        first = SegmentReader(segment, volume_of(copy)).first_of_any_use()
        if first is not None:
            found += SegmentReader(first.segment, volume_of(copy)).anywhere()
    return found


def volume_of(copy: Copy) -> bytes:
    return (copy.path / "image.sums").read_bytes()[24:40]


def test_what_was_never_promised_ends_the_log(copy: Copy) -> None:
    """Of the transfers at the end one is not there: those behind it are not taken, unless they were durable."""
    found = sorted(all_found(copy), key=lambda one: one.address)
    last = [one for one in found if one.transfer.kind != Kind.FIXUP][-4:]
    holed = [one for one in found if one is not last[1]]
    position = last[0].transfer.position
    assert lineage(holed, durable=position)[-1] is last[0]
    assert lineage(holed, durable=last[3].transfer.position)[-1] is last[3]
    assert lineage(found, durable=position)[-1] is last[3]
