"""A mirror is given up while the volume does not run: an edit of its manifest, and of nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import Damaged, NotFound, Refused, TimedOut
from revolume.log.write.operations import OP_WRITE
from revolume.offline.check.check import check
from revolume.volume.members.offline_orders import detach_stopped
from revolume.volume.metadata.manifest import load
from revolume.volume.metadata.manifest_state import MirrorMode

from .driver import BLOCK, Driver, abandon
from .store import TINY, inline_host, payload

SIZE = 1 << 20
pytestmark = pytest.mark.timeout(60)


class Mirrors(Driver):
    """A driver whose volume has a required mirror ``m`` and another, ``n``."""

    def __init__(self, path: Path) -> None:
        super().__init__(inline_host(), path, SIZE, replace(TINY, spare_bytes=1 << 20, mirrors=("m", "n")))

    async def begin(self) -> None:
        await self.open()
        await self.change([(OP_WRITE, 0, payload(1, 3 * BLOCK))])
        mirrors = self.volume.mirrors
        for name, mode in (("m", MirrorMode.SYNC), ("n", MirrorMode.ASYNC)):
            mirror = await mirrors.register(name, mode)
            await mirrors.pin_base(mirror)
            await mirrors.joined(mirror, name.encode() * 16)
        await self.change([(OP_WRITE, 5 * BLOCK + 9, payload(2, 3 * BLOCK))])

    def detach(self, name: str) -> None:
        detach_stopped(self.host, str(self.path), name)

    def known(self) -> set[str]:
        directory = self.host.disk.open(str(self.path))
        try:
            return {mirror.name for mirror in load(directory).state.mirrors}
        finally:
            directory.close()

    async def opens_without(self) -> None:
        self.options = replace(self.options, mirrors=("n",))
        await self.open()
        await self.check_live()
        assert [mirror.name for mirror in self.volume.mirrors] == ["n"]
        await self.change([(OP_WRITE, 9 * BLOCK, payload(3, BLOCK))])
        assert self.volume.released(self.volume.position), "no answer waits for it"
        await self.volume.close()
        report = check(self.host, str(self.path))
        assert report.good, report.problems


def play(scenario: Callable[[Mirrors], Awaitable[None]], path: Path) -> None:
    async def run() -> None:
        driver = Mirrors(path / "v")
        await driver.begin()
        try:
            await scenario(driver)
        finally:
            if not driver.volume._closing:
                await abandon(driver.volume)

    asyncio.run(run())


@pytest.mark.parametrize("clean", [True, False])
def test_a_mirror_is_given_up_and_the_volume_opens_without_it(clean: bool, tmp_path: Path) -> None:
    """After a clean stop and after a kill: what the log has beyond its durable end is still recovered."""

    async def scenario(driver: Mirrors) -> None:
        await (driver.volume.close() if clean else abandon(driver.volume))
        driver.options = replace(driver.options, mirrors=("n",))
        with pytest.raises(Refused, match="m"):
            await driver.open()
        driver.detach("m")
        assert driver.known() == {"n"}
        await driver.opens_without()

    play(scenario, tmp_path)


def test_a_mirror_that_there_is_none_of(tmp_path: Path) -> None:
    async def scenario(driver: Mirrors) -> None:
        await driver.volume.close()
        with pytest.raises(NotFound) as missing:
            driver.detach("x")
        assert missing.value.code == "no-mirror" and missing.value.hint == "It has: m, n."
        for name in ("m", "n"):
            driver.detach(name)
        with pytest.raises(NotFound) as missing:
            driver.detach("m")
        assert missing.value.hint == "It has: none."

    play(scenario, tmp_path)


def test_a_volume_that_runs_is_left_alone(tmp_path: Path) -> None:
    async def scenario(driver: Mirrors) -> None:
        with pytest.raises(Refused) as refused:
            driver.detach("m")
        assert refused.value.code == "dir-in-use"
        assert driver.known() == {"m", "n"}

    play(scenario, tmp_path)


def test_a_manifest_that_has_lost_its_end_is_not_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log states a later edit than the manifest holds: written anew, it would look whole."""
    monkeypatch.setattr("revolume.volume.primary.CONFIRMED_SECONDS", 0.01)

    async def scenario(driver: Mirrors) -> None:
        older = {name: (driver.path / name).read_bytes() for name in ("manifest.a", "manifest.b")
                 if (driver.path / name).exists()}  # fmt: skip
        with pytest.raises(TimedOut):  # the mirrors are away
            await driver.volume.snapshot("later")
        await driver.change([(OP_WRITE, 0, payload(9, BLOCK))])  # its header states the edit
        await driver.volume.log.commit.synced()
        await abandon(driver.volume)
        for path in driver.path.glob("manifest.*"):
            path.unlink()
        for name, raw in older.items():
            (driver.path / name).write_bytes(raw)
        with pytest.raises(Damaged):
            driver.detach("m")
        assert {name: (driver.path / name).read_bytes() for name in older} == older

    play(scenario, tmp_path)
