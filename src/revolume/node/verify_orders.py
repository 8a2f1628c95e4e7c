"""Jobs of kind "verify": mirrors of a primary compared with it, one after the other, and put right."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from revolume.blocks.geometry import BLOCK
from revolume.errors import NotFound, Refused, RevolumeError, TimedOut, UsageError
from revolume.jobs.job import Job, JobPlan, Outcome
from revolume.jobs.jobs import Jobs
from revolume.mirror.source.comparison import Comparison
from revolume.mirror.source.mirror_source import MirrorSource
from revolume.node.mirror_links import MirrorLinks
from revolume.resync.verification import Verification, VerifyOrders, VerifyResult, refuse_outside
from revolume.volume.members.mirror import Mirror
from revolume.volume.primary import Volume

KIND: Final = "verify"
REGIONS_MAX: Final = 1024
PATIENCE_S: Final = 20.0
"""So long a mirror that was connected when the job was ordered, or has asked for it, is waited for."""
POLL_S: Final = 0.1
LOOK_S: Final = 60.0
"""How often it is looked whether one is due, at least; of a short period ten times in it."""
_WAITS: Final = "waits"


class VerifyJobs:
    """Of one open primary; one of them runs at a time. ``period_s``: a mirror is verified by itself when the last
    time is so long ago, or the volume was opened so long ago and it never was; 0: never."""

    def __init__(self, volume: Volume, links: MirrorLinks, jobs: Jobs, period_s: float = 0.0) -> None:
        self._volume = volume
        self._links = links
        self._jobs = jobs
        self._clock = volume.context.host.clock
        self._period_s = period_s
        self._opened_ns = self._clock.wall_ns()
        jobs.register(KIND, self.plan)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._begin_when_found(), name="verify what differs")]
        if period_s:
            self._tasks.append(loop.create_task(self._begin_when_due(), name="verify rounds"))

    async def stop(self) -> None:
        """No job begins by itself any more. Idempotent."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
            await asyncio.wait([task])

    async def _begin_when_due(self) -> None:
        while True:
            await self._clock.sleep(min(LOOK_S, self._period_s / 10))
            for mirror in self._volume.mirrors:
                if mirror.joined and self._due(mirror) and self._jobs.running(KIND) is None:
                    self._begin(mirror.name)
                    break

    def _due(self, mirror: Mirror) -> bool:
        verified = [
            each.time_ns
            for each in self._volume.manifest.state.verified
            if (each.name, each.node) == (mirror.name, mirror.node)
        ]
        return self._clock.wall_ns() - max(verified, default=self._opened_ns) >= self._period_s * 1e9

    async def _begin_when_found(self) -> None:
        """A mirror that differs is verified as soon as it can be. While one of these jobs runs that is once it has
        ended, if the mirror differs still."""
        while True:
            mirror = await self._volume.found_differences.next()
            while self._jobs.running(KIND) is not None:
                await self._clock.sleep(POLL_S)
            if mirror.differs_since and mirror in self._volume.mirrors:
                self._begin(mirror.name)

    def _begin(self, name: str) -> None:
        with contextlib.suppress(RevolumeError):  # it has been removed, or the volume is being closed
            self._jobs.start(KIND, {"mirror": name, _WAITS: True})

    def plan(self, asked: Mapping[str, Any]) -> JobPlan:
        """``mirror``: its name, all of them without; ``quick``, ``repair``; ``regions``: (offset, length) in
        bytes. NotFound: there is no such mirror; TimedOut: it is not connected; Refused: it can't be compared
        now, or a region lies outside the volume."""
        orders = _orders(asked)
        refuse_outside(orders, self._volume.size)
        names = self._names(asked.get("mirror"))
        if not asked.get(_WAITS):
            for name in names:
                self._source(name).comparison()
        what = f"compares {', '.join(names)} with {self._volume.name}"
        return JobPlan(what, lambda job: self._run(job, names, orders))

    def _names(self, asked: object) -> list[str]:
        if asked is not None:
            return [self._volume.mirrors.get(str(asked)).name]
        names = [mirror.name for mirror in self._volume.mirrors]
        if not names:
            raise NotFound("no-mirror", f"{self._volume.name} has no mirror.", "Add one: 'revolume mirror add'.")
        return names

    def _source(self, name: str) -> MirrorSource:
        source = self._links.get(name)
        if source is None:
            raise TimedOut(
                "mirror-unreachable", f"Mirror {name} has not been connected to since the volume was opened.",
                "Say where it is: 'revolume mirror set'.",
            )  # fmt: skip
        return source

    async def _run(self, job: Job, names: Sequence[str], orders: VerifyOrders) -> Outcome:
        results = {name: await self._verified(job, name, orders) for name in names}
        told = " ".join(_told(name, orders, result) for name, result in results.items())
        found = any(_found(result) for result in results.values())
        good = all(_good(result) for result in results.values())
        mirrors = {name: asdict(result) for name, result in results.items()}
        return Outcome({"mirrors": mirrors, "told": told, "good": good}, finding=found)

    async def _connected(self, name: str) -> Comparison:
        """Its session, once there is one that can be asked. TimedOut, Refused: there is none for a while."""
        for _ in range(round(PATIENCE_S / POLL_S)):
            with contextlib.suppress(TimedOut, Refused):
                return self._source(name).comparison()
            await self._clock.sleep(POLL_S)
        return self._source(name).comparison()

    async def _verified(self, job: Job, name: str, orders: VerifyOrders) -> VerifyResult:
        mirror, copy = self._volume.mirrors.get(name), await self._connected(name)
        verification = Verification(self._volume, mirror, copy, orders, self._links.pacer, job.report)
        try:
            result = await verification.run()
        except ConnectionError:
            raise TimedOut(
                "mirror-lost", f"The link to mirror {name} was lost while it was compared.",
                "Verify it again when it is back: what was found to differ is known, and is put right then.",
            ) from None  # fmt: skip
        self._volume.events.tell(_told(name, orders, result))
        return result


def _orders(asked: Mapping[str, Any]) -> VerifyOrders:
    regions = asked.get("regions") or []
    try:
        pairs = [(int(offset), int(length)) for offset, length in regions]
    except (TypeError, ValueError):
        raise UsageError("bad-region", "A region is an offset and a length.", "Say OFFSET+LENGTH.") from None
    if len(pairs) > REGIONS_MAX or any(offset < 0 or length <= 0 for offset, length in pairs):
        raise UsageError("bad-region", "A region is an offset and a length, of which there may be 1024.", "")
    blocks = [(offset // BLOCK, -(-(offset + length) // BLOCK) - offset // BLOCK) for offset, length in pairs]
    return VerifyOrders(bool(asked.get("quick", False)), bool(asked.get("repair", True)), blocks)


def _found(result: VerifyResult) -> bool:
    """Something was wrong, or is."""
    return bool(result.repaired or result.different or result.were_different) or not _good(result)


def _good(result: VerifyResult) -> bool:
    """Nothing is wrong any more."""
    damaged = result.damaged_here or result.damaged_there
    return not result.left and not damaged and result.roots_equal is not False


def _told(name: str, orders: VerifyOrders, result: VerifyResult) -> str:
    """What came of it, as a sentence."""
    if result.continued:
        found = (
            f"Mirror {name}: an interrupted verification was finished, {result.repaired} blocks were put right."
        )
    elif not result.different:
        found = f"Mirror {name} is equal to {'what was asked for' if orders.regions else 'its primary'}."
    else:
        done = f"{result.repaired} were put right, {result.overwritten} were overwritten by clients meanwhile"
        found = (
            f"Mirror {name}: {result.different} blocks differed; {done if orders.repair else 'none was touched'}."
        )
    if result.damaged_here or result.damaged_there:
        found += (
            f" Not what was written: {len(result.damaged_here)} blocks here, {len(result.damaged_there)} there."
        )
    if result.roots_equal is False:
        found += " What is stored there does not sum up to the volume's root."
    return found
