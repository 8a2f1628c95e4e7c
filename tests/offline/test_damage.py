"""Damage planted into a stopped store, and into one that is being served: told, or without effect.

Every case ends in one of these: `check` says so, opening refuses, a read is an error, or all bytes are right
at every moment that is looked at. `make test` draws a sample from a seed; `make soak` flips every byte (where
a sector holds nothing or belongs to no transfer any more, the sector is spoilt at once).
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from revolume.host import Host, real_host
from revolume.log.format.segment import segment_name
from revolume.log.write.operations import OP_WRITE
from revolume.offline.check.check import check
from revolume.volume.metadata.manifest import load
from tests.volume.driver import BLOCK, Driver, abandon
from tests.volume.regions import IDLE, TOLD, Region, regions
from tests.volume.store import (
    TINY,
    Store,
    Verdict,
    checked,
    inline_host,
    judge,
    judged,
    make_store,
    payload,
    read_live,
    read_moment,
)

SOAK = bool(os.environ.get("REVOLUME_SOAK"))
SEED = int(os.environ.get("REVOLUME_SEED", "1"))
MEMORY = Path("/dev/shm")
PARTS = 8
FLIPS_A_REGION = 6
SECTOR = 512


class Bench:
    """The store, a spoilt copy of it that is repaired after each case, and room for copies."""

    def __init__(self, place: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.host: Host = inline_host()
        self.place = place
        self.store: Store = self.loop.run_until_complete(make_store(self.host, place / "v"))
        self.spoilt = place / "spoilt"
        shutil.copytree(self.store.path, self.spoilt)
        self.regions = regions(self.host, self.store.path)

    def repair(self, name: Path) -> None:
        shutil.copyfile(self.store.path / name, self.spoilt / name)

    def judge(self) -> Verdict:
        return judge(self.loop, self.host, self.store, self.spoilt, self.place)

    def size(self, name: Path) -> int:
        return (self.store.path / name).stat().st_size

    def flip(self, name: Path, at: int, length: int = 1) -> None:
        """Change a bit of every byte in [at, at + length)."""
        with open(self.spoilt / name, "r+b") as file:
            file.seek(at)
            old = file.read(length)
            file.seek(at)
            file.write(bytes(byte ^ 1 << (at + index) % 8 for index, byte in enumerate(old)))

    def live_segments(self) -> set[str]:
        """Files of the log that hold transfers which a retained moment may need."""
        directory = self.host.disk.open(str(self.store.path))
        state = load(directory).state
        directory.close()
        assert state.clean is not None
        blocks = state.segment_blocks
        first, last = state.horizon.address // blocks, state.clean.address // blocks
        return {segment_name(index) for index, use in state.uses.items() if first <= use <= last and use}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    place = Path(tempfile.mkdtemp(prefix="revolume-damage-", dir=MEMORY if MEMORY.is_dir() else None))
    made = Bench(place)
    yield made
    made.loop.close()
    shutil.rmtree(place)


def tell(problems: list[str]) -> None:
    assert not problems, f"REVOLUME_SEED={SEED}\n" + "\n".join(problems[:20])


def test_the_store_has_everything_in_it_and_the_judge_lets_it_pass(bench: Bench) -> None:
    names = {str(name) for name in bench.store.files()}
    assert {"image", "image.sums", "image.pages", "manifest.a", "manifest.b"} <= names
    assert any(name.startswith("maps/base") for name in names)
    assert len(bench.live_segments()) >= 2
    assert bench.judge() == Verdict()


# --- flipped bytes -------------------------------------------------------------------------------------


Flip = tuple[Path, int, int, bool]
"""File, offset, length; and whether it must be told, not only be without effect."""


def places(bench: Bench) -> list[Flip]:
    """What to flip."""
    return every_place(bench) if SOAK else sample(bench)


def sample(bench: Bench) -> list[Flip]:
    """Of every kind of region in every file: its first byte, its last, and some between."""
    chance = random.Random(SEED)
    groups: dict[tuple[str, str], list[Region]] = {}
    for region in bench.regions:
        groups.setdefault((region.kind, str(region.name)), []).append(region)
    chosen = []
    for (kind, _), found in sorted(groups.items()):
        some = [chance.choice(found) for _ in range(FLIPS_A_REGION)]
        offsets = [some[0].start, some[1].end - 1, *(chance.randrange(one.start, one.end) for one in some[2:])]
        chosen += [(one.name, at, 1, kind in TOLD) for one, at in zip(some, offsets, strict=True)]
    return chosen


def every_place(bench: Bench) -> list[Flip]:
    live = bench.live_segments()
    told = told_bytes(bench)
    chosen = []
    for name in bench.store.files():
        content = (bench.store.path / name).read_bytes()
        unused = name.parent.name == "log" and name.name not in live
        for at in range(0, len(content), SECTOR):
            sector = content[at : at + SECTOR]
            if unused or not any(sector):
                chosen.append((name, at, len(sector), bool(told[name][at : at + SECTOR].any())))
            else:
                chosen += [(name, at + byte, 1, bool(told[name][at + byte])) for byte in range(len(sector))]
    return chosen


def told_bytes(bench: Bench) -> dict[Path, np.ndarray]:  # type: ignore[type-arg]
    told = {name: np.zeros(bench.size(name), bool) for name in bench.store.files()}
    for region in bench.regions:
        told[region.name][region.start : region.end] = region.kind in TOLD
    return told


def test_every_kind_of_region_is_in_the_store(bench: Bench) -> None:
    """And every byte of every file is in one, so that the sample misses nothing."""
    assert {region.kind for region in bench.regions} == TOLD | IDLE
    for name in bench.store.files():
        assert sum(r.end - r.start for r in bench.regions if r.name == name) == bench.size(name)
    sampled = {(name, at) for name, at, _, _ in sample(bench)}
    for region in bench.regions:
        alike = [r for r in bench.regions if (r.kind, r.name) == (region.kind, region.name)]
        assert any(r.start <= at < r.end for r in alike for name, at in sampled if name == r.name)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(14400 if SOAK else 300)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_flipped_byte(bench: Bench, part: int) -> None:
    tell(problems_of(bench, places(bench)[part::PARTS]))


def problems_of(bench: Bench, flips: list[Flip]) -> list[str]:
    problems = []
    for number, (name, at, length, must_tell) in enumerate(flips):
        bench.flip(name, at, length)
        verdict = checked(bench.host, bench.spoilt) if SOAK and number % 16 else Verdict()
        if not verdict.told:
            verdict = bench.judge()
        problems += [f"{name} at {at}: {wrong}" for wrong in verdict.wrong]
        if must_tell and not verdict.told:
            problems.append(f"{name} at {at}: nobody says so")
        bench.repair(name)
    return problems


class AnyNumber(int):
    """A checksum that agrees with every other."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


class AnyBytes(bytes):
    """The same of 128 bits."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


class NoHash:
    """In the place of the hash library in one module: what is written is right, what is compared agrees."""

    @staticmethod
    def xxh3_64_intdigest(*args: Any) -> int:
        return AnyNumber(xxhash.xxh3_64_intdigest(*args))

    @staticmethod
    def xxh3_128_digest(*args: Any) -> bytes:
        return AnyBytes(xxhash.xxh3_128_digest(*args))


def any_number(*_: object) -> AnyNumber:
    return AnyNumber()


LEFT_OUT = {
    "of blocks that are read": ("volume.livemap.reader.block_digests", any_number, ["whole block", "image block"]),
    "of blocks that are checked": (
        "offline.walk.log_walk.payload_holds", lambda _: True, ["whole block", "fragments"],
    ),
    "of the image when checked": ("offline.walk.tolerant_read.block_digests", any_number, ["image block"]),
    "of fragments in a view": ("history.views.fragment_digest", any_number, ["fragments"]),
    "of a transfer's node header": ("log.read.scan.node_header_holds", lambda *_: True, ["node header"]),
    "of a transfer's header": (
        "log.format.transfer.xxhash", NoHash(), ["header", "columns", "fact", "point record"],
    ),
    "of a footer": ("log.format.segment.xxhash", NoHash(), ["footer columns", "trailer"]),
    "of manifests": ("volume.metadata.manifest.xxhash", NoHash(), ["manifest header", "manifest edit"]),
    "of pages": (
        "chain.page_cache.checksums", lambda table, *_: table[:, 0],
        ["map header", "map page", "map ranges", "map fences", "sums header", "sums page"],
    ),
    "of tags": ("volume.image.digest_pages._tags_checksum", any_number, ["tags header"]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("check", LEFT_OUT)
def test_a_check_that_is_left_out_is_missed(bench: Bench, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this checksum flipped bytes do harm, or pass unseen: so the sample sees each of them at work."""
    where, without, kinds = LEFT_OUT[check]
    module, name = f"revolume.{where}".rsplit(".", 1)
    assert hasattr(importlib.import_module(module), name)
    monkeypatch.setattr(f"{module}.{name}", without)
    assert bench.judge() == Verdict(), "whole it still passes"
    for kind in kinds:
        assert any(problems_of(bench, [flip]) for flip in some_of(bench, kind)), kind


def some_of(bench: Bench, kind: str) -> list[Flip]:
    chance = random.Random(SEED)
    found = [region for region in bench.regions if region.kind == kind]
    chosen = [chance.choice(found) for _ in range(24)]
    return [(one.name, chance.randrange(one.start, one.end), 1, True) for one in chosen]


# --- cut, grown, missing, swapped ----------------------------------------------------------------------


def lengths(chance: random.Random, size: int) -> list[int]:
    anywhere = [chance.randrange(size) for _ in range(2)]
    return [0, size - 1, *anywhere, *(at - at % SECTOR for at in anywhere), anywhere[0] - anywhere[0] % BLOCK]


@pytest.mark.slow
def test_a_file_cut_short_or_missing_or_with_something_behind_it(bench: Bench) -> None:
    chance = random.Random(SEED)
    problems = []
    for name in bench.store.files():
        for length in lengths(chance, bench.size(name)):
            os.truncate(bench.spoilt / name, length)
            problems += [f"{name} cut at {length}: {wrong}" for wrong in bench.judge().wrong]
            bench.repair(name)
        with open(bench.spoilt / name, "ab") as file:
            file.write(chance.randbytes(chance.choice([1, 64, BLOCK])))
        problems += [f"{name} grown: {wrong}" for wrong in bench.judge().wrong]
        (bench.spoilt / name).unlink()
        problems += [f"{name} missing: {wrong}" for wrong in bench.judge().wrong]
        bench.repair(name)
    tell(problems)


@pytest.mark.parametrize("name", ["log", "maps"])
def test_a_directory_missing(bench: Bench, name: str) -> None:
    aside = bench.place / "aside"
    (bench.spoilt / name).rename(aside)
    verdict = bench.judge()
    found = check(bench.host, str(bench.spoilt))
    aside.rename(bench.spoilt / name)
    assert verdict.told and not verdict.wrong
    assert [problem.what for problem in found.problems] == [f"{name} is missing."]


def swap(bench: Bench, one: tuple[Path, int], other: tuple[Path, int]) -> None:
    contents = []
    for name, block in (one, other):
        with open(bench.spoilt / name, "rb") as file:
            file.seek(block * BLOCK)
            contents.append(file.read(BLOCK))
    for (name, block), content in zip((one, other), reversed(contents), strict=True):
        with open(bench.spoilt / name, "r+b") as file:
            file.seek(block * BLOCK)
            file.write(content)
            if bench.size(name) < BLOCK:
                file.truncate(len(content))


@pytest.mark.slow
def test_two_blocks_swapped(bench: Bench) -> None:
    """Each is whole in itself, and in the wrong place: of the same file, or of another."""
    chance = random.Random(SEED)
    live = bench.live_segments()
    blocks = []
    for name in bench.store.files():
        content = (bench.store.path / name).read_bytes()
        if name.parent.name != "log" or name.name in live:
            whole = range(max(1, len(content) // BLOCK))
            blocks += [(name, block) for block in whole if any(content[block * BLOCK : (block + 1) * BLOCK])]
    problems = []
    for _ in range(2000 if SOAK else 120):
        one, other = chance.sample(blocks, 2)
        swap(bench, one, other)
        problems += [f"{one} with {other}: {wrong}" for wrong in bench.judge().wrong]
        bench.repair(one[0])
        bench.repair(other[0])
    tell(problems)


def test_an_older_state_of_a_file_among_newer_ones(bench: Bench) -> None:
    """What a disk that loses writes leaves, or a backup put back in part."""
    newer = bench.place / "newer"
    shutil.copytree(bench.store.path, newer)

    async def go_on() -> Store:
        driver = Driver(bench.host, newer, bench.store.model.size, TINY)
        driver.model = copy.deepcopy(bench.store.model)
        await driver.open()
        await driver.change([(OP_WRITE, at * BLOCK, payload(60 + at, BLOCK)) for at in range(0, 40, 3)])
        await driver.volume.point_maker.cut()
        await driver.volume.folder.step(True)
        await driver.change([(OP_WRITE, 5 * BLOCK + 1, payload(90, BLOCK))])
        await driver.volume.close()
        return Store(newer, driver.model, ())

    store = bench.loop.run_until_complete(go_on())
    problems = []
    for name in bench.store.files():
        if not (newer / name).exists():
            continue
        mixed = bench.place / "mixed"
        shutil.copytree(newer, mixed)
        shutil.copyfile(bench.store.path / name, mixed / name)
        verdict = judge(bench.loop, bench.host, store, mixed, bench.place)
        problems += [f"{name} older: {wrong}" for wrong in verdict.wrong]
        shutil.rmtree(mixed)
    shutil.rmtree(newer)
    tell(problems)


# --- while it is served --------------------------------------------------------------------------------


class Served:
    """A copy of the store, opened and gone on with: transfers, points and a partial block in the open segment."""

    def __init__(self, bench: Bench, path: Path) -> None:
        self.driver = Driver(bench.host, path, bench.store.model.size, TINY)
        self.driver.model = copy.deepcopy(bench.store.model)
        self.moments = list(bench.store.moments)
        self.verdict = Verdict()

    async def go_on(self) -> None:
        driver = self.driver
        await driver.open()
        await driver.change([
            (OP_WRITE, 110 * BLOCK, payload(100, BLOCK * 3)), (OP_WRITE, 11 * BLOCK + 9, payload(101, 100)),
        ])  # fmt: skip
        await driver.volume.point_maker.cut()
        for at in (111, 112):
            await driver.change([(OP_WRITE, at * BLOCK, payload(at, BLOCK))])
            self.moments.append(driver.volume.write)
        await driver.volume.point_maker.cut()
        await driver.change([(OP_WRITE, 113 * BLOCK + 7, payload(104, BLOCK))])
        self.moments.append(driver.volume.write)
        await driver.volume.durable(driver.volume.position)

    def place(self, chance: random.Random) -> tuple[Path, int]:
        """Mostly in the open segment: of it there is no footer yet."""
        appender = self.driver.volume.log.appender
        assert appender.segment is not None
        name = self.driver.path / "log" / segment_name(appender.segment.index)
        blocks = appender.next_block
        if chance.random() < 0.3:
            name = chance.choice(sorted(p for p in self.driver.path.rglob("*") if p.is_file()))
            blocks = name.stat().st_size // BLOCK + 1
        at = chance.randrange(blocks) * BLOCK + chance.choice([chance.randrange(300), chance.randrange(BLOCK)])
        return name, min(at, name.stat().st_size - 1)

    async def live(self) -> None:
        self.driver.volume.live.overlay.sweep(1 << 30)
        await read_live(self.driver.volume, self.driver.model, self.verdict)

    async def everything(self) -> None:
        """Reads, views, a fold over it all, a new base map, a clean stop, and opened again."""
        driver, volume, verdict = self.driver, self.driver.volume, self.verdict
        await self.live()
        for number in self.moments:
            await read_moment(volume, driver.model, number, verdict)
        with verdict.watching("fold"):
            await volume.drop_snapshot("keep-me")
            await volume.cut()
            await volume.folder.step(True)
        await self.live()
        with verdict.watching("rebase"):
            await driver.change([(OP_WRITE, 115 * BLOCK, payload(105, BLOCK))])
            await volume.cut()
            await volume.base_maps.renew(force=True)
        await self.live()
        with verdict.watching("close"):
            await volume.close()


@pytest.mark.slow
def test_a_byte_flipped_under_a_running_volume(bench: Bench) -> None:
    chance = random.Random(SEED)
    problems = []
    for _ in range(2000 if SOAK else 40):
        path = bench.place / "served"
        shutil.copytree(bench.store.path, path)
        served = Served(bench, path)
        bench.loop.run_until_complete(served.go_on())
        name, at = served.place(chance)
        with open(name, "r+b") as file:
            file.seek(at)
            old = file.read(1)[0]
            file.seek(at)
            file.write(bytes([old ^ 1 << chance.randrange(8)]))
        bench.loop.run_until_complete(served.everything())
        again = Store(path, served.driver.model, ())
        reading = bench.loop.run_until_complete(judged(bench.host, path, again))
        problems += [f"{name.relative_to(path)} at {at}: {w}" for w in served.verdict.wrong + reading.wrong]
        shutil.rmtree(path)
    tell(problems)


def test_a_fragment_spoilt_after_a_kill(bench: Bench) -> None:
    """No point has made its block whole, and it was durable: nothing of it is read again before it is merged."""
    path = bench.place / "killed"
    shutil.copytree(bench.store.path, path)
    served = Served(bench, path)

    async def go_on() -> None:
        await served.go_on()
        await served.driver.change([(OP_WRITE, 114 * BLOCK, payload(106, BLOCK))])  # states that it was durable
        await served.driver.volume.durable(served.driver.volume.position)
        await abandon(served.driver.volume)

    bench.loop.run_until_complete(go_on())
    fragment = payload(104, BLOCK)[: BLOCK - 7]
    (holder,) = [name for name in (path / "log").iterdir() if fragment in name.read_bytes()]
    with open(holder, "r+b") as file:
        file.seek(holder.read_bytes().index(fragment) + 99)
        file.write(b"X" if fragment[99:100] != b"X" else b"Y")
    verdict = bench.loop.run_until_complete(judged(bench.host, path, Store(path, served.driver.model, ())))
    shutil.rmtree(path)
    assert verdict.told and not verdict.wrong


def test_the_real_helper_tells_damage_in_our_words(bench: Bench) -> None:
    """The same errors come through threads and the helper process."""
    path = bench.place / "helped"
    shutil.copytree(bench.store.path, path)

    async def run(host: Host) -> Verdict:
        served = Served(bench, path)
        served.driver.host = host
        try:
            await served.go_on()
            appender = served.driver.volume.log.appender
            assert appender.segment is not None
            name = path / "log" / segment_name(appender.segment.index)
            with open(name, "r+b") as file:
                file.seek(64)
                file.write(b"XXXX")
            await read_moment(served.driver.volume, served.driver.model, served.moments[-1], served.verdict)
            await abandon(served.driver.volume)
        finally:
            await host.work.close()
        return served.verdict

    verdict = asyncio.run(run(real_host()))
    shutil.rmtree(path)
    assert not verdict.wrong
    assert len(verdict.told) == 1 and verdict.told[0].endswith(": log-damaged")
