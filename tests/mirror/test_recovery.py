"""A primary that was not closed cleanly asks its mirror for the end of its log: what it gets, when it stays
closed, what it says when it is opened all the same. The mirror is a real one, behind a real socket."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from revolume.errors import Refused
from revolume.host import real_host
from revolume.log.write.operations import OP_WRITE
from revolume.mirror.recovery import recover_from_mirrors as recovery
from revolume.mirror.recovery.recover_from_mirrors import MirrorAddress, fetch_longer_tail
from revolume.mirror.target.copy_directory import RealCopyDirectory
from revolume.mirror.target.target import Target
from revolume.volume.metadata.manifest_state import MirrorMode
from revolume.volume.open.open import open_secondary
from tests.mirror.scripted import MEMORY, content
from tests.volume import mirrored as mirrored_module
from tests.volume.driver import BLOCK, SMALL, abandon
from tests.volume.mirrored import THERE, Mirrored, abandon_secondary

SIZE = 4 << 20
pytestmark = pytest.mark.timeout(90)


class Lost(Mirrored):
    """The source has lost the end of its log; its mirror ``m`` has it, and can be asked at ``address``."""

    def __init__(self, folder: Path) -> None:
        calm = replace(SMALL, sync_interval_s=3600, rung_versions=1 << 20)  # a rung makes durable what it has
        super().__init__(real_host(), folder / "v", SIZE, calm)
        self.address = f"unix:{folder}/m.sock"
        self.target: Target | None = None
        self.told: list[str] = []

    async def happens(self) -> None:
        """The base, some writes that are durable here, more that only the mirror will have, and the power cut."""
        await self.open()
        await self.change([(OP_WRITE, 0, content(1, 8))])
        await self.begin()
        await self.send_base()
        await self.ship()
        await self.settle()
        await self.acknowledge()
        await self.change([(OP_WRITE, 20 * BLOCK, content(2, 4))])
        await self.volume.log.commit.synced()
        for seed in range(5):
            await self.change([(OP_WRITE, (30 + seed) * BLOCK, content(10 + seed, 3))])
        await self.ship()
        assert self.secondary is not None
        await self.secondary.make_durable(self.secondary.received)

    async def power_is_lost(self) -> None:
        places = self._places()
        durable = self.volume.log.commit.durable
        assert self.secondary is not None and self.secondary.received == durable + 5
        await abandon(self.volume)
        self._lose(behind=durable, places=places)

    async def serve(self) -> None:
        shelf = RealCopyDirectory(self.host, str(self.there), THERE, self.secondary)
        self.target = Target(self.host, shelf, None, lambda sentence: None)
        await self.target.listen(self.address)

    async def fetch(self, *, alone: bool = False, named: bool = True) -> None:
        places = [MirrorAddress("m", self.address)] if named else []
        await fetch_longer_tail(self.host, str(self.path), self.options, places, None, alone, self.told.append)

    async def opens(self, whole: bool) -> None:
        """With everything, or with what had been durable here."""
        self.options = replace(self.options, mirrors=("m",))
        await self.open()
        if whole:
            await self.check_live()
        await abandon(self.volume)

    async def end(self) -> None:
        if self.target is not None:
            await self.target.stop()
        if self.secondary is not None and not self.secondary._closing:
            await abandon_secondary(self.secondary)
        if not self.volume._closing:
            await abandon(self.volume)
        await self.host.work.close()


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MirrorMode:
    """How the mirror is one; the waits are short."""
    found = {"sync": MirrorMode.SYNC, "async": MirrorMode.ASYNC}[request.param]
    monkeypatch.setattr(mirrored_module, "MirrorMode", SimpleNamespace(ASYNC=found))
    monkeypatch.setattr(recovery, "REQUIRED_SECONDS", 1.0)
    monkeypatch.setattr(recovery, "ASYNC_SECONDS", 0.5)
    return found


def play(scenario: Callable[[Lost], Awaitable[None]]) -> None:
    async def run() -> None:
        folder = Path(tempfile.mkdtemp(prefix="rv-", dir=MEMORY if MEMORY.is_dir() else None))
        made = Lost(folder)
        try:
            async with asyncio.timeout(60):
                await made.happens()
                await scenario(made)
        finally:
            await made.end()
            shutil.rmtree(folder)

    asyncio.run(run())


def test_what_the_mirror_has_is_fetched_and_nothing_is_lost(mode: MirrorMode) -> None:
    async def scenario(made: Lost) -> None:
        await made.power_is_lost()
        await made.serve()
        await made.fetch()
        assert made.told == ["Mirror m had a longer log: 5 transfers were fetched from it."]
        await made.fetch()  # an opening that was cut short: it is here already
        assert len(made.told) == 1
        await made.opens(whole=True)

    play(scenario)


def test_alone_asks_who_can_be_asked_all_the_same(mode: MirrorMode) -> None:
    async def scenario(made: Lost) -> None:
        await made.power_is_lost()
        await made.serve()
        await made.fetch(alone=True)
        assert made.told == ["Mirror m had a longer log: 5 transfers were fetched from it."]
        await made.opens(whole=True)

    play(scenario)


@pytest.mark.parametrize("mode", ["sync"], indirect=True)
def test_a_required_mirror_that_is_starting_too_is_waited_for(mode: MirrorMode) -> None:
    async def scenario(made: Lost) -> None:
        await made.power_is_lost()
        asking = asyncio.ensure_future(made.fetch())
        await asyncio.sleep(0.5)
        assert not asking.done()
        await made.serve()
        await asking
        assert made.told == ["Mirror m had a longer log: 5 transfers were fetched from it."]
        await made.opens(whole=True)

    play(scenario)


def test_where_the_mirror_cannot_be_asked(mode: MirrorMode) -> None:
    """A required one keeps the volume closed, or is told of with the bound of what may be missing."""

    async def scenario(made: Lost) -> None:
        await made.power_is_lost()
        if mode == MirrorMode.SYNC:
            with pytest.raises(Refused) as refused:
                await made.fetch()
            assert refused.value.code == "mirror-not-asked"
            assert "Mirror m at unix:" in refused.value.cause and "can't be asked" in refused.value.cause
            assert "revolume detach DIR m" in refused.value.hint
            await made.fetch(alone=True)
            (bound,) = made.told
            assert bound.startswith("Opened alone, without asking m. ")
            assert "at most the writes of 3600 s and of 256 MiB" in bound
        else:
            await made.fetch()
            assert made.told[0].startswith("Mirror m was not asked for a longer log: ")
        await made.opens(whole=False)

    play(scenario)


def test_a_required_mirror_that_is_left_out_is_refused(mode: MirrorMode) -> None:
    async def scenario(made: Lost) -> None:
        await made.power_is_lost()
        if mode == MirrorMode.SYNC:
            with pytest.raises(Refused, match="m"):
                await made.fetch(named=False)
        else:
            await made.fetch(named=False)
        assert made.told == []

    play(scenario)


def test_a_mirror_that_holds_less_than_it_acknowledged_proves_nothing(mode: MirrorMode) -> None:
    """An older copy of its directory was put back."""

    async def scenario(made: Lost) -> None:
        there = made.secondary
        assert there is not None
        shutil.copytree(made.there, made.there.with_name("old"), ignore=shutil.ignore_patterns("*.sock"))
        await made.change([(OP_WRITE, 50 * BLOCK, content(50, 3))])
        await made.volume.point_maker.cut()
        await made.ship()
        await made.settle()
        await there.make_durable(there.received)
        await made.acknowledge()
        places, durable = made._places(), made.volume.log.commit.durable
        known = made.volume.manifest.state.mirrors[0].durable
        await abandon(made.volume)
        made._lose(behind=durable, places=places)
        await abandon_secondary(there)
        shutil.rmtree(made.there)
        made.there.with_name("old").rename(made.there)
        made.secondary = await open_secondary(made.host, str(made.there), THERE)
        assert made.secondary.end.position < there.end.position
        await made.serve()
        assert known > made.secondary.end.position
        if mode == MirrorMode.SYNC:
            with pytest.raises(Refused) as refused:
                await made.fetch()
            assert "it holds less than it had acknowledged" in refused.value.cause
            await made.fetch(alone=True)
            assert len(made.told) == 1 and "Opened alone, without asking m." in made.told[0]
        else:
            await made.fetch()
            assert made.told == []

    play(scenario)


def test_after_a_clean_stop_nobody_is_asked(mode: MirrorMode) -> None:
    async def scenario(made: Lost) -> None:
        await made.volume.close()
        await made.fetch()
        assert made.told == []
        await made.opens(whole=True)

    play(scenario)


def test_a_mirror_that_another_node_feeds_keeps_the_volume_closed(mode: MirrorMode) -> None:
    """Also an async one, and also with --alone: two primaries would write to one volume."""

    async def scenario(made: Lost) -> None:
        volume = made.volume.volume_id
        await made.power_is_lost()
        await made.serve()
        assert made.target is not None
        hello = SimpleNamespace(node=b"another primary.", volume=volume, name="v", epoch=9)
        made.target.current = SimpleNamespace(hello=hello)  # type: ignore[assignment]
        for alone in (False, True):
            with pytest.raises(Refused) as refused:
                await made.fetch(alone=alone)
            assert refused.value.code == "another-primary"
            assert "fed by another node, v in opening 9" in refused.value.cause

    play(scenario)
