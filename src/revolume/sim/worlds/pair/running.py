"""Starting either service as it was left, and stopping it in order."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from revolume.errors import Refused, RevolumeError
from revolume.sim.checks.clean import check_clean
from revolume.sim.checks.names import check_names
from revolume.sim.checks.prefix import check_recovered
from revolume.sim.machine import Ended
from revolume.sim.platter import NOTHING
from revolume.sim.service import MirrorService, PrimaryService, mirror_at
from revolume.sim.worlds.pair.ground import PairGround

START_S = 60.0


class PairRunning(PairGround):
    """See the module's text."""

    async def _all_up(self) -> None:
        while self.primary is None or self.mirror is None:
            if self.mirror is None:
                await self.start_mirror()
            if self.primary is None:
                await self.start_primary()

    async def start_mirror(self) -> None:
        """The mirror, as it was left."""
        if self.second.process is not None:
            self.second.stopped()
        try:
            asked = self._asked[self.second.name]
            host = self.second.boot()
            self.mirror = await self.second.run(
                MirrorService.open(host, self.second.name, replace(asked, size=None), self.tell)
            )
            if self.mirror.secondary is not None:
                self.lives(self.mirror.secondary.core, self.second.name)
        except Ended:
            self.mirror = None

    async def start_primary(self, *, promote: bool = False) -> None:
        """The primary, as it was left. Its clients are let in when it has been looked at."""
        mirrors = () if promote else (replace(mirror_at(self.second.name, self.sync), history=self.history),)
        asked = replace(self._asked[self.first.name], mirrors=mirrors)
        if self._fresh_volume() is False:
            asked = replace(asked, size=None)
        deadline = self.loop.time() + START_S
        while self.primary is None:
            if self.first.process is not None:
                self.first.stopped()
            host = self.first.boot()
            try:
                await self._opened(await self.first.run(
                    PrimaryService.open(host, self.first.name, asked, self.model, self.tell, promote=promote)
                ))  # fmt: skip
            except Refused as error:  # its mirror can't be asked: somebody has to see to that
                self.tell(f"{error!r}")
                if promote or self.loop.time() > deadline:
                    raise
                await asyncio.sleep(0.5)
                if self.mirror is None:
                    await self.start_mirror()
                await self._heal()
            except Ended:
                continue

    def _fresh_volume(self) -> bool:
        return "vol" not in self.first.platter.root.memory

    async def _opened(self, opened: PrimaryService) -> None:
        self.lives(opened.volume.core, self.first.name)
        crash = self._crashes.pop(self.first.name, "")
        if crash:
            sources = (self.first, self.second) if crash != "promoted" else (self.first,)
            content = await self.first.run(opened.content())
            self.wrong += check_recovered(
                self.model, self.register, content, opened.volume.write, self.promised_by(*sources),
                f"{self.first.name}: {crash}",
            )  # fmt: skip
            self.wrong += check_names(self.names, opened.volume, f"{self.first.name}: {crash}")
        elif self.model.numbers == [0]:
            self.model.begin(opened.volume.write)
        self._watch_releases(opened.volume)
        await self.first.run(opened.serve())
        self._answering = opened, self.first.name, self.second.name
        self.primary = opened
        self.serve_at(self.first.name)

    async def op_stop(self) -> None:
        """The primary is stopped in order, and started."""
        await self._stop_primary()
        await asyncio.sleep(self.chance.delay(0.3))
        await self.start_primary()

    async def _stop_primary(self) -> None:
        service, self.primary = self.primary, None
        if service is None:
            return
        self._crashes[self.first.name] = "stopped"
        await self.readers.leave()
        with contextlib.suppress(Ended):
            try:
                await self.first.run(service.close())
            except RevolumeError as error:
                if service.volume.core.commit.failure is None:
                    self.say(f"a clean stop failed: {error}")
        if self.first.process is not None:
            self.first.stopped()

    async def _closed(self, service: MirrorService) -> None:
        """What is poisoned can't be closed cleanly."""
        await self.readers.leave()
        there = service.secondary
        with contextlib.suppress(Ended):
            try:
                await self.second.run(service.close())
            except RevolumeError as error:
                if there is None or there.core.commit.failure is None:
                    self.say(f"a clean stop of the mirror failed: {error}")

    async def op_stop_mirror(self, *, start: bool = True) -> None:
        """The mirror is stopped in order."""
        service, self.mirror = self.mirror, None
        if service is not None:
            await self._closed(service)
            if self.second.process is not None:
                self.second.stopped()
            self.wrong += check_clean(self.second, self.second.platter, "the mirror after a clean stop")
            after = self.second.platter.after(NOTHING)
            self.wrong += check_clean(self.second, after, "the mirror after a clean stop and a power cut")
        if start:
            await self.start_mirror()

    async def op_mode(self) -> None:
        """From async to sync: an option of the next start. The other way answers rest on the mirror: it has to be
        given up first."""
        if self.primary is not None and self._required():
            with contextlib.suppress(Ended):
                await self.first.run(self.primary.role.detach(self.second.name))
                self._given_up()
                self._forget_holder(self.second.name)
                self._detached_at = len(self.told)
            if self.primary is None:
                return
        self.sync = not self.sync
        await self.op_stop()
