"""What simulated worlds have found, each as a scenario of its own: seeds forget when code changes, these don't."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from revolume.blocks.geometry import BLOCK
from revolume.errors import NotFound
from revolume.log.write.operations import OP_WRITE, OP_ZERO, Op, WouldBlock
from revolume.node.service_options import ServiceOptions
from revolume.offline.check.check import check
from revolume.offline.walk.report import CheckReport
from revolume.sim.actors.service import PATH
from revolume.sim.campaigns.power_cuts import Cuts
from revolume.sim.checks.clean import check_clean
from revolume.sim.checks.moments import check_moments
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.machine import Ended
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.simulated_fs import KEPT, NOTHING, Cut, Folder, Platter
from revolume.sim.oracle.sample_volume import inode
from revolume.sim.worlds.pair import PairWorld
from revolume.sim.worlds.primary import PrimaryWorld
from revolume.sim.worlds.world import KiB
from revolume.volume.primary import Volume
from tests.support.tally import SOAK


def test_check_after_a_fold_that_did_not_come_to_its_flip() -> None:
    """The image's digests are a point ahead of the horizon then: no reason to say that roots are wrong."""

    class Crash(PrimaryWorld):
        steps = 1

        def operations(self) -> dict[str, int]:
            return {"scenario": 1}

        async def op_scenario(self) -> None:
            await self.patiently("a fold stops half-way", self._half_folded, 60)
            assert self.a.process is None, "the power went between the fold's digests and its flip"
            assert check_clean(self.a, self.a.platter, "half-folded") == []
            await self.start()

        async def _half_folded(self) -> bool:
            seen: list[str] = []

            def before(number: int, what: str) -> None:
                """The write that follows on the digests' new name is the manifest's."""
                seen.append(what)
                volume = self.a.platter.root.memory["vol"]
                assert isinstance(volume, Folder)
                if seen[-3:] == ["rename", "dirsync", "write"] and "allocate" not in seen and "create" in seen:
                    self.service = None
                    self.a.power_cut(Cut(lambda ordinal: KEPT, Chance(0)))

            self.a.platter.before_change = before
            await self.op_point()
            return self.a.process is None

    verdict = Crash(7).live()
    assert verdict.wrong == []


def test_check_on_a_mirror_whose_base_is_under_way() -> None:
    """Half of a base was summed up and compared with the root of the whole. What has durably come of it is looked
    at, what is behind that is not, and the report says that it is half."""

    class NewMirror(PairWorld):
        steps = 1
        spoilt = 0

        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.pieces = 8, 32

        def operations(self) -> dict[str, int]:
            return {"scenario": 1}

        async def op_scenario(self) -> None:
            await asyncio.sleep(4)
            await self.rest()
            await self.crashes.op_wipe_mirror()
            path = self.fabric.path(self.pair.first.name, self.pair.second.name)
            path.bytes_per_s = 1e6
            ends = self.crashes.op_kill_mirror, self.crashes.op_power_mirror, self.running.op_stop_mirror
            for part, blow in enumerate(ends, 1):
                assert await self.patiently("some of the base is there", lambda part=part: self._has(part / 5), 20)
                self._judge_half()
                await blow()
            path.bytes_per_s = 200e6

        async def _has(self, part: float) -> bool:
            there = self.pair.there
            if there is None:
                return False
            assert there.base is not None, "not yet all of it"
            return there.base.next_block >= part * self.size / BLOCK

        def _judge_half(self) -> None:
            """The disk as it would be found after kill -9, whole and spoilt."""
            found = self._checked(self.pair.second.platter.copy())
            assert found.problems == () and not found.good and "% of it is here" in found.incomplete
            here = int(found.incomplete.split("(block ")[1].split()[0])
            assert 0 < here < self.size // BLOCK
            behind, below = (self._spoilt(*where) for where in ((here, self.size // BLOCK), (0, here)))
            assert behind.problems == ()
            assert below.problems and all(p.what == "is not what was written" for p in below.problems)
            self.spoilt += 1

        def _spoilt(self, begin: int, end: int) -> CheckReport:
            platter = self.pair.second.platter.copy()
            for block in range(begin, end):
                inode(platter, "image").memory[block * BLOCK] ^= 1
            return self._checked(platter)

        def _checked(self, platter: Platter) -> CheckReport:
            looker = Process("b", "b.look")
            try:
                return check(self.pair.second.host_for(looker, platter), PATH)
            finally:
                looker.die()

    worlds = [NewMirror(seed) for seed in range(3)]
    assert [world.live().wrong for world in worlds] == [[], [], []]
    assert [world.spoilt for world in worlds] == [3, 3, 3]
    assert all("resume-base" in " ".join(world.told) for world in worlds)


@pytest.mark.soak
def test_a_recovery_that_is_cut_short_after_its_footer_tells_the_manifest_next_time() -> None:
    """Else the headers behind that footer, which were copied away, are followed as soon as the footer is lost. All
    states of one history take long; without the repair, some of six show it in four."""
    drawn = [Cuts(seed, every=5, again=2, most=60) for seed in range(6)]
    tallies = [cuts.run() for cuts in ([Cuts(0, every=23, again=2, steps=4)] if SOAK else drawn)]
    assert [tally.wrong for tally in tallies] == [[] for _ in tallies]
    assert sum(tally.opened for tally in tallies) > 100


def test_footers_are_on_the_disk_after_a_clean_stop() -> None:
    """Nothing that is pending then matters. Without the repair each seed shows it."""

    class Stop(PrimaryWorld):
        steps = 3

        def operations(self) -> dict[str, int]:
            return {"stop": 1}

    assert [Stop(seed).live().wrong for seed in (1, 3)] == [[], []]


def test_footers_of_a_life_that_was_killed_are_on_the_disk_after_the_next_clean_stop() -> None:
    """They were written and never synced, and whoever was to sync them is dead. Without the repair each seed shows
    it."""

    class KillStop(PrimaryWorld):
        steps = 6

        def operations(self) -> dict[str, int]:
            return {"kill": 2, "stop": 2, "point": 1}

        async def op_kill(self) -> None:
            await super().op_kill()
            await self.op_stop()

    assert [KillStop(seed).live().wrong for seed in (1, 3)] == [[], []]


def test_a_footer_that_could_not_be_written_is_there_after_a_clean_stop() -> None:
    """The disk failed when it was its turn, and nobody tried again."""

    class Failing(PrimaryWorld):
        steps = 3

        def operations(self) -> dict[str, int]:
            return {"scenario": 1}

        async def op_scenario(self) -> None:
            assert self.service is not None
            log, until = self.service.volume.log, self.loop.time() + 3
            while not log.footers.unwritten and log.commit.failure is None and self.loop.time() < until:
                self.a.faults.write_error = 0.2
                await asyncio.sleep(0.002)
            self.a.faults.write_error = 0.0
            await self.op_stop()

    assert [Failing(seed).live().wrong for seed in range(2)] == [[], []]


def test_a_fold_waits_for_its_points_record() -> None:
    """The record has blocks of which the log before it has only sectors. A fold puts them into the image, where
    the rest of these blocks came from until then: if the record is lost, neither is there any more."""

    class Crash(PrimaryWorld):
        steps = 1

        def _geometry(self) -> ServiceOptions:
            return replace(super()._geometry(), cp_interval_s=3600.0, keep_s=0.01)

        def operations(self) -> dict[str, int]:
            return {"scenario": 1}

        async def op_scenario(self) -> None:
            await self.rest()
            assert self.service is not None
            await self.a.run(self._sector_in_a_folded_block(self.service.volume))
            self.a.platter.before_change = self._cut_when_the_image_is_synced
            await self.op_point()
            await asyncio.sleep(0.1)
            with contextlib.suppress(Ended):
                if self.service is not None:  # else the volume has folded by itself already
                    await self.a.run(self.service.volume.folder.step(True))
            assert self.service is None, "the power goes while it folds"
            self.powerless = True
            await self.start()

        async def _sector_in_a_folded_block(self, volume: Volume) -> None:
            await self._write_last_block(volume, (b"whole " * 700)[:BLOCK])
            point = await volume.cut()
            await asyncio.sleep(0.1)
            while volume.folder.horizon.write < point.write:
                assert await volume.folder.step(True)
            assert volume.folder.horizon.write == point.write
            for _ in range(volume.log.pool.segment_blocks):  # so that a fold to the next point frees a segment
                await self._write_last_block(volume, b"sector " * 73 + b"\n")

        async def _write_last_block(self, volume: Volume, data: bytes) -> None:
            write = (OP_WRITE, volume.size - BLOCK, len(data), memoryview(data))
            await volume.room([write])
            await volume.durable(volume.append([write]))

        def _cut_when_the_image_is_synced(self, number: int, what: str) -> None:
            if what == "create":
                self.service = None
                self.a.power_cut(NOTHING)

    assert Crash(10).live().wrong == []


def test_a_moment_that_is_opened_between_a_flips_record_and_its_effect() -> None:
    """The manifest has the new horizon then, memory the old digests: a map from the new one on would not fit."""

    class Slow(PrimaryWorld):
        steps = 1

        def _geometry(self) -> ServiceOptions:
            return replace(super()._geometry(), cp_interval_s=3600.0, keep_s=0.01)

        def operations(self) -> dict[str, int]:
            return {"scenario": 1}

        async def op_scenario(self) -> None:
            await self.rest()
            assert self.service is not None
            volume = self.service.volume
            with contextlib.suppress(NotFound):
                await self.a.run(volume.cut())
            await asyncio.sleep(0.1)
            self.a.faults.slow = 300.0
            before, flip = volume.folder.horizon, asyncio.ensure_future(self.a.run(volume.folder.step(True)))
            while volume.manifest.state.horizon == before and not flip.done():
                await asyncio.sleep(0.001)
            assert not flip.done() and volume.folder.horizon == before
            newest = volume.write
            self.a.faults.slow = 1.0
            self.wrong += await self.a.run(check_moments(volume, self.model, self.chance, "a", 3, newest))
            assert await flip

    assert [Slow(seed).live().wrong for seed in range(1, 4)] == [[], [], []]


def test_a_promoted_mirror_goes_on_above_numbers_that_only_points_have_named() -> None:
    """A source that lost its power counts on above its reservation; if nothing was written before its mirror took
    over, only its points said so. Numbers went back, and no mirror could follow the new primary."""

    class Promotion(PairWorld):
        steps = 1

        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            options = self.pair.options
            for name in options:
                options[name] = replace(options[name], cp_interval_s=3600.0, keep_s=3600.0)

        def operations(self) -> dict[str, int]:
            return {"scenario": 1}

        async def op_scenario(self) -> None:
            self.orders.stop = True
            await self.rest()
            assert self.pair.primary is not None
            await self.pair.first.run(self._written(self.pair.primary.volume, self._untouched() * 512))
            await self.crashes.op_power()
            await self.inspections.op_point()
            assert await self.patiently("the mirror agrees", self.pair.caught_up, 60)
            await self.takeover.op_promote()
            self.orders.stop = False
            self.start_clients(1)
            await asyncio.sleep(5)

        def _untouched(self) -> int:
            """A sector of zeroes: to zero it once more changes nothing that anybody knows."""
            known = self.register._lists
            return next(at for at, found in enumerate(known) if all(written.value == 0 for written in found))

        @staticmethod
        async def _written(volume: Volume, offset: int) -> None:
            ops: list[Op] = [(OP_ZERO, offset, 512, None)]
            while True:
                try:
                    position = volume.append(ops)
                    break
                except WouldBlock:
                    await volume.room(ops)
            await volume.durable(position)

    verdict = next(world for seed in range(20) if not (world := Promotion(seed)).pair.uneven).live()
    assert verdict.wrong == []
    assert verdict.answered > 50, "clients of the new primary were served"


def test_a_mirror_does_not_begin_behind_what_its_source_has_on_its_disk() -> None:
    """A new mirror's base was of a point that lay in its source's memory only. The source lost its power when the
    mirror had just joined; its log ended before the mirror's began, and it asked for the rest, for ever."""

    class NewMirror(PairWorld):
        steps = 1

        def operations(self) -> dict[str, int]:
            return {"scenario": 1}

        async def op_scenario(self) -> None:
            for _ in range(4):
                await self.crashes.op_wipe_mirror()
                assert await self.patiently("the mirror joins", self._joined, 60)
                await self.op_power_at_once()

        async def _joined(self) -> bool:
            primary = self.pair.primary
            return primary is not None and all(mirror.joined for mirror in primary.volume.mirrors)

        async def op_power_at_once(self) -> None:
            self.crashes.lose(self.pair.first, "lost power")
            await self.running.start_primary()

    worlds = [world for seed in range(8) if (world := NewMirror(seed)).pair.sync][:3]
    assert [world.live().wrong for world in worlds] == [[], [], []]


def test_a_disk_that_answers_errors_for_two_seconds_costs_no_block() -> None:
    """A point whose partial blocks could not be read, twice within a tenth of a second, stated them as lost: for
    every moment from there on, though the disk was well again."""

    class Hiccups(PrimaryWorld):
        steps = 3

        def operations(self) -> dict[str, int]:
            return {"scenario": 1}

        async def op_scenario(self) -> None:
            self.a.faults.read_error = 1.0
            await asyncio.sleep(2)
            self.a.faults.read_error = 0.0

    assert [Hiccups(seed).live().wrong for seed in range(3)] == [[], [], []]


def test_a_disk_that_fails_under_a_link_ends_it_in_order() -> None:
    """A source that could not read its log to compare with its mirror called that a fault of its own code."""

    class Unread(PairWorld):
        steps = 1

        def operations(self) -> dict[str, int]:
            return {"scenario": 1}

        async def op_scenario(self) -> None:
            self.crashes.lose(self.pair.second, "killed")
            await asyncio.sleep(1)
            self.pair.first.faults.read_error = 1.0
            await self.running.start_mirror()
            assert await self.patiently("the link fails", self._failed, 30)
            self.pair.first.faults.read_error = 0.0
            assert await self.patiently("the mirror is back", self._connected, 30)

        async def _failed(self) -> bool:
            assert self.pair.primary is not None
            return any("disk failed" in event for event in self.pair.primary.volume.events.texts())

        async def _connected(self) -> bool:
            assert self.pair.primary is not None
            return all(source.connected for source in self.pair.primary.role.links)

    assert [Unread(seed).live().wrong for seed in range(2)] == [[], []]


def test_a_mirror_does_not_fold_what_its_source_may_lose() -> None:
    """A point's record reached the mirror before the writes below it were on the source's disk. The mirror folded
    them; the source lost its power and a few of them, and its mirror had no log that began there any more."""

    class Eager(PairWorld):
        steps = 4

        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            options = self.pair.options
            small = {"cp_interval_s": 0.1, "keep_s": 0.0, "segment_bytes": 64 * KiB, "spare_bytes": 128 * KiB}
            for name in options:
                options[name] = replace(options[name], **small)

        def operations(self) -> dict[str, int]:
            return {"scenario": 1}

        async def op_scenario(self) -> None:
            await asyncio.sleep(2)
            self.crashes.lose(self.pair.first, "lost power")
            await self.running.start_primary()

    worlds = [world for seed in range(9) if (world := Eager(seed)).pair.sync][:2]
    assert [world.live().wrong for world in worlds] == [[], []]


def test_an_old_primary_does_not_become_the_newest_by_fetching_the_end_of_its_log() -> None:
    """Its mirror was promoted. It was led to the new one's mirror, asked that for what it lacked, took what the
    new primary had written, and opened as the newest of all: the primary was refused by its own mirror then."""

    class OldPrimary(PairWorld):
        steps = 1

        def operations(self) -> dict[str, int]:
            return {"scenario": 1}

        async def op_scenario(self) -> None:
            await asyncio.sleep(1)
            await self.rest()
            await self.inspections.op_point()
            assert await self.patiently("the mirror has everything", self.pair.caught_up, 60)
            self.crashes.lose(self.pair.first, "killed")
            await self.takeover.take_over()
            self.pair.old_disk = self.pair.second.platter.copy()
            self.pair.second.wipe()
            self.pair.forget_holder(self.pair.second.name)
            await self.running.start_mirror()
            self.fabric.path(self.pair.first.name, self.pair.second.name).bytes_per_s = 1e5
            await self.running.op_stop()
            assert await self.patiently("the new mirror begins", self.intruders.mirror_begins, 30)
            for _ in range(2):
                await self.intruders.op_stale()

    even = [world for seed in range(8) if not (world := OldPrimary(seed)).pair.uneven]
    worlds = [next(world for world in even if world.pair.sync is sync) for sync in (True, False)]
    assert [world.live().wrong for world in worlds] == [[], []]
