"""Starting either service as it was left, and stopping it in order."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from functools import partial

from revolume.api.schemas import MirrorOrder
from revolume.errors import Refused, RevolumeError
from revolume.sim.actors.service import MIRROR_PORT, MirrorService, PrimaryService, mirror_at
from revolume.sim.checks.clean import check_clean
from revolume.sim.checks.names import check_names
from revolume.sim.checks.prefix import check_recovered
from revolume.sim.kernel.machine import Ended
from revolume.sim.kernel.simulated_fs import NOTHING
from revolume.sim.oracle.jump_watch import JumpWatch
from revolume.sim.worlds.pair.state import PairState

START_S = 60.0


class Running:
    """Starts and stops the two services, and looks at a volume before clients are let in."""

    def __init__(self, pair: PairState, watch: JumpWatch) -> None:
        self.pair = pair
        self.watch = watch
        self.world = pair.world
        self.loop = pair.world.loop
        self.chance = pair.world.chance

    async def all_up(self) -> None:
        pair = self.pair
        while pair.primary is None or pair.mirror is None:
            if pair.mirror is None:
                await self.start_mirror()
            if pair.primary is None:
                await self.start_primary()

    async def start_mirror(self) -> None:
        """The mirror, as it was left."""
        pair = self.pair
        if pair.second.process is not None:
            pair.second.stopped()
        try:
            asked = pair.options[pair.second.name]
            host = pair.second.boot()
            pair.mirror = await pair.second.run(
                MirrorService.open(host, pair.second.name, replace(asked, size=None), self.world.tell)
            )
            if pair.mirror.secondary is not None:
                self.world.lives(pair.mirror.secondary, pair.second.name)
        except Ended:
            pair.mirror = None

    async def start_primary(self, *, mirrored: bool = True) -> None:
        """The primary, as it was left. Its clients are let in when it has been looked at."""
        pair = self.pair
        mirror = replace(mirror_at(pair.second.name, pair.sync), history=pair.history)
        mirrors = (mirror,) if mirrored else ()
        asked = replace(pair.options[pair.first.name], mirrors=mirrors)
        if self._fresh_volume() is False:
            asked = replace(asked, size=None)
        deadline = self.loop.time() + START_S
        while pair.primary is None:
            if pair.first.process is not None:
                pair.first.stopped()
            host = pair.first.boot()
            try:
                await self.look_and_serve(await pair.first.run(
                    PrimaryService.open(host, pair.first.name, asked, self.world.model, self.world.tell)
                ))  # fmt: skip
            except Refused as error:  # its mirror can't be asked: somebody has to see to that
                self.world.tell(f"{error!r}")
                if not mirrored or self.loop.time() > deadline:
                    raise
                await asyncio.sleep(0.5)
                if pair.mirror is None:
                    await self.start_mirror()
                await pair.heal()
            except Ended:
                continue

    def _fresh_volume(self) -> bool:
        return "vol" not in self.pair.first.platter.root.memory

    async def look_and_serve(self, opened: PrimaryService) -> None:
        pair = self.pair
        self.world.lives(opened.volume, pair.first.name)
        pair.labelled = opened.volume
        crash = pair.crashes.pop(pair.first.name, "")
        if crash:
            sources = (pair.first, pair.second) if crash != "promoted" else (pair.first,)
            content = await pair.first.run(opened.content())
            if crash == "promoted" and self.world.model.since(pair.at_least, content) is None:
                self.world.say(f"{pair.first.name} was at w{pair.at_least}, and was promoted without it")
            self.world.wrong += check_recovered(
                self.world.model, self.world.register, content, opened.volume.write, pair.promised_by(*sources),
                f"{pair.first.name}: {crash}",
            )  # fmt: skip
            self.world.wrong += check_names(
                pair.names, opened.volume, f"{pair.first.name}: {crash}",
                partial(self.watch.lacks, opened.volume.manifest.state.node),
            )  # fmt: skip
        elif self.world.model.numbers == [0]:
            self.world.model.begin(opened.volume.write)
        pair.watch_releases(opened.volume)
        await pair.first.run(opened.serve())
        pair.answering = opened, pair.first.name, pair.second.name
        pair.primary = opened
        self.world.serve_at(pair.first.name)

    async def op_stop(self) -> None:
        """The primary is stopped in order, and started."""
        await self.stop_primary()
        await asyncio.sleep(self.chance.delay(0.3))
        await self.start_primary()

    async def stop_primary(self) -> None:
        pair = self.pair
        service, pair.primary = pair.primary, None
        if service is None:
            return
        pair.crashes[pair.first.name] = "stopped"
        await self.world.readers.leave()
        with contextlib.suppress(Ended):
            try:
                await pair.first.run(service.close())
            except RevolumeError as error:
                if service.volume.log.commit.failure is None:
                    self.world.say(f"a clean stop failed: {error}")
        if pair.first.process is not None:
            pair.first.stopped()

    async def close_mirror(self, service: MirrorService) -> None:
        """What is poisoned can't be closed cleanly."""
        await self.world.readers.leave()
        there = service.secondary
        with contextlib.suppress(Ended):
            try:
                await self.pair.second.run(service.close())
            except RevolumeError as error:
                if there is None or there.log.commit.failure is None:
                    self.world.say(f"a clean stop of the mirror failed: {error}")

    async def op_stop_mirror(self, *, start: bool = True) -> None:
        """The mirror is stopped in order."""
        pair = self.pair
        service, pair.mirror = pair.mirror, None
        if service is not None:
            await self.close_mirror(service)
            if pair.second.process is not None:
                pair.second.stopped()
            self.world.wrong += check_clean(pair.second, pair.second.platter, "the mirror after a clean stop")
            after = pair.second.platter.after(NOTHING)
            self.world.wrong += check_clean(pair.second, after, "the mirror after a clean stop and a power cut")
        if start:
            await self.start_mirror()

    async def op_set_mode(self) -> None:
        """The mirror's mode is changed by order while the primary runs. To sync only while it is in sync, since
        answers would wait for it at once: otherwise that is refused."""
        pair = self.pair
        if pair.primary is None or not any(m.name == pair.second.name for m in pair.primary.volume.mirrors):
            return
        order = MirrorOrder(pair.second.name, mode="async" if pair.sync else "sync")
        with contextlib.suppress(Ended):
            try:
                await pair.first.run(pair.primary.role.set_mirror(order))
            except RevolumeError as error:
                self.world.tell(f"{error!r}")
                return
            pair.sync = not pair.sync
            if not pair.sync:
                pair.give_up_mirror()

    async def op_remove(self) -> None:
        """The mirror is removed by order, and added again after a while, as the copy that it is."""
        pair = self.pair
        if pair.primary is None or not any(m.name == pair.second.name for m in pair.primary.volume.mirrors):
            return
        with contextlib.suppress(Ended):
            await pair.first.run(pair.primary.role.detach(pair.second.name))
        pair.give_up_mirror()
        pair.forget_holder(pair.second.name)
        pair.detached_at = len(self.world.told)
        await asyncio.sleep(self.chance.delay(0.5))
        if pair.primary is None:
            return
        mode, address = "sync" if pair.sync else "async", f"{pair.second.name}:{MIRROR_PORT}"
        order = MirrorOrder(pair.second.name, address=address, mode=mode, history=pair.history.value)
        with contextlib.suppress(Ended):
            try:
                await pair.first.run(pair.primary.role.add_mirror(order))
            except RevolumeError as error:  # a fault of the disk; or it is known again, by a start meanwhile
                self.world.tell(f"{error!r}")

    async def op_mode(self) -> None:
        """From async to sync: an option of the next start, but not while the mirror is lost, since answers would
        wait for it until it is made anew. The other way answers rest on it: it has to be given up first."""
        pair = self.pair
        if pair.primary is not None and any(mirror.log_given_up for mirror in pair.primary.volume.mirrors):
            return
        if pair.primary is not None and pair.required():
            with contextlib.suppress(Ended):
                await pair.first.run(pair.primary.role.detach(pair.second.name))
                pair.give_up_mirror()
                pair.forget_holder(pair.second.name)
                pair.detached_at = len(self.world.told)
            if pair.primary is None:
                return
        pair.sync = not pair.sync
        await self.op_stop()
