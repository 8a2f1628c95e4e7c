"""A small store with everything in it, and the judge of what a spoilt copy of it may do.

What may happen is little: `check` says so, opening refuses, a read ends in an error, or the bytes are right.
Never wrong bytes, and never an exception that is not one of ours: whoever serves a volume could not tell it.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from revolume.errors import RevolumeError
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.host import Host, real_host
from revolume.host.real.disk import RealDisk
from revolume.log.format.columns import RANGE_BLOCKS
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO
from revolume.offline.check.check import check
from revolume.volume.open.open import open_volume
from revolume.volume.open.options import OpenOptions
from revolume.volume.primary import Volume

from .driver import BLOCK, SMALL, Driver, Model, abandon, climb

FAR = RANGE_BLOCKS + 20
SIZE = (FAR + 100) * BLOCK
TINY = replace(SMALL, spare_bytes=0, sync_interval_s=0.01)
PIECE = 64 * BLOCK


class Inline:
    """Work done at once in this process, jobs too: opening costs milliseconds and nothing runs beside it."""

    async def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return fn(*args)

    call_sync = call

    async def job(self, fn: Callable[..., Any], *args: Any) -> Any:
        return fn(RealDisk(), *args)

    async def close(self) -> None:
        """Nothing is held."""


def inline_host(disk: Any = None) -> Host:
    real = real_host()
    return Host(real.clock, real.entropy, disk or real.disk, Inline(), real.network)


@dataclass
class Store:
    """A stopped volume in ``path``, what it must hold, and two of its retained moments."""

    path: Path
    model: Model
    moments: tuple[int, ...]

    def files(self) -> list[Path]:
        """Names of its files, relative."""
        return sorted(p.relative_to(self.path) for p in self.path.rglob("*") if p.is_file())


def payload(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


async def make_store(host: Host, path: Path) -> Store:
    """Several segments, whole and partial blocks, zero ranges, a folded image, a base map, rungs, a snapshot, a
    clean stop, which leaves two manifests."""
    driver = Driver(host, path, SIZE, TINY)
    await driver.open()
    volume = driver.volume
    for at in range(4):
        await driver.change([(OP_WRITE, at * 7 * BLOCK, payload(at, 4 * BLOCK))])
    await driver.change([
        (OP_WRITE, 50 * BLOCK + 100, payload(10, 5000)), (OP_ZERO, 3 * BLOCK + 5, 5000),
        (OP_WRITE, (FAR + 10) * BLOCK, payload(11, BLOCK)),
    ])  # fmt: skip
    await volume.point_maker.cut()
    await driver.change([(OP_ZERO, 40 * BLOCK, FAR * BLOCK)])
    await driver.change([(OP_WRITE, 60 * BLOCK + 1, payload(12, 3000)), (OP_WRITE, 90 * BLOCK, payload(13, 8192))])
    for at in range(6):
        await driver.change([(OP_WRITE, (at * 5 + 2) * BLOCK, payload(20 + at, 3 * BLOCK))])
    await volume.point_maker.cut()
    assert await driver.fold()
    await driver.change([
        (OP_WRITE, (FAR + 60) * BLOCK + 512, payload(30, 512)), (OP_WRITE, 9 * BLOCK, payload(31, 8192)),
    ])  # fmt: skip
    await volume.snapshot("keep-me")
    pinned = volume.write
    await driver.change([(OP_TRIM, 50 * BLOCK, FAR * BLOCK), (OP_WRITE, 51 * BLOCK + 7, payload(33, 1000))])
    for at in range(4):
        await driver.change([(OP_WRITE, (at * 3 + 80) * BLOCK, payload(40 + at, 3 * BLOCK))])
    await volume.point_maker.cut()
    await volume.base_maps.renew(force=True)
    assert await climb(volume)
    await driver.change([(OP_WRITE, 11 * BLOCK + 7, payload(50, 1000)), (OP_WRITE, 85 * BLOCK, payload(51, 8192))])
    between = volume.write  # a moment with a block written only in part
    await driver.change([(OP_WRITE, 11 * BLOCK + 500, payload(52, 1000)), (OP_ZERO, 80 * BLOCK, 2 * BLOCK)])
    await volume.close()
    return Store(path, driver.model, (pinned, between))


@dataclass
class Verdict:
    """What a spoilt copy did. ``told``: somebody said that something is wrong; ``wrong``: what must not be."""

    told: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """An error of ours tells; any other exception is wrong."""
        try:
            yield
        except RevolumeError as error:
            assert error.cause, "an error without words"
            self.told.append(f"{what}: {error.code}")
        except Exception as error:
            self.wrong.append(f"{what}: {error!r}")


def checked(host: Host, path: Path) -> Verdict:
    """What the verifier says."""
    verdict = Verdict()
    with verdict.watching("check"):
        verdict.told += [f"{p.where}: {p.what}" for p in check(host, str(path)).problems]
    return verdict


async def opened(host: Host, path: Path, options: OpenOptions = TINY) -> Volume:
    return await open_volume(host, str(path), options)


async def judged(host: Host, path: Path, store: Store) -> Verdict:
    """Open the copy in ``path`` and read all of it at every moment of the store's."""
    verdict = Verdict()
    with verdict.watching("open"):
        volume = await opened(host, path)
        try:
            await read_live(volume, store.model, verdict)
            for number in store.moments:
                await read_moment(volume, store.model, number, verdict)
        finally:
            await abandon(volume)
    return verdict


async def read_live(volume: Volume, model: Model, verdict: Verdict) -> None:
    if volume.size != model.size:
        verdict.wrong.append(f"live: {volume.size} bytes")
    await _read(volume, Model.content(model.size, model.blocks), "live", verdict)


async def read_moment(volume: Volume, model: Model, number: int, verdict: Verdict) -> None:
    size, blocks = model.moments[number]
    with verdict.watching(f"view w{number}"):
        view = await open_view(volume, ResolvedMoment(number, 0), "test")
        try:
            if view.size != size:
                verdict.wrong.append(f"w{number}: {view.size} bytes")
            await _read(view.reader, Model.content(size, blocks), f"w{number}", verdict)
        finally:
            view.close()


async def _read(reader: Any, want: bytearray, what: str, verdict: Verdict) -> None:
    for at in range(0, len(want), PIECE):
        piece = bytearray(min(PIECE, len(want) - at))
        with verdict.watching(f"{what} at {at}"):
            if reader.read_now([(at, memoryview(piece))]):
                await reader.read(at, memoryview(piece))
            if piece != want[at : at + PIECE]:
                verdict.wrong.append(f"{what}: wrong bytes at {at}")


def judge(loop: asyncio.AbstractEventLoop, host: Host, store: Store, spoilt: Path, room: Path) -> Verdict:
    """Everything about a spoilt copy, which stays as it is: opening writes, so it is done on a copy of it."""
    verdict = checked(host, spoilt)
    opened_copy = room / "opened"
    shutil.copytree(spoilt, opened_copy)
    try:
        reading = loop.run_until_complete(judged(host, opened_copy, store))
    finally:
        shutil.rmtree(opened_copy)
    if reading.told and not verdict.told:
        verdict.wrong.append(f"check saw nothing, but {reading.told[0]}")
    return Verdict(verdict.told + reading.told, verdict.wrong + reading.wrong)
