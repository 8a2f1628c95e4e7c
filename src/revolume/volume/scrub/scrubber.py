"""The scrub of one open volume: from the log to the maps, a slice at a time, paced, and resumed where it was.

How far it has come is in the manifest (SCRUBBED), a few seconds behind at most: a crash repeats those. Each stage
finds the slices and knows what moves beneath them; what is found is given to the healer at once, told as an event,
and counted. Nothing here grows with the volume.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from revolume.errors import RevolumeError
from revolume.host.clock import Clock
from revolume.pace.pacer import Pacer
from revolume.volume.heal.healer import Healer
from revolume.volume.heal.transfer_healer import TransferHealer
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.scrub_record import (
    LastScrub,
    ScrubCounts,
    ScrubPlace,
    ScrubRecord,
    ScrubStage,
    pack_scrub,
)
from revolume.volume.scrub.finding import Finding
from revolume.volume.scrub.log_stage import LogStage
from revolume.volume.scrub.stage import SliceRead, Stage
from revolume.volume.state.events import EventKind, Events
from revolume.volume.state.scrub_status import ScrubStatus

RECORDED_NS: Final = 5_000_000_000
"""At most so much time of a pass is read again after a crash."""
SLICE_PIECES: Final = 8
"""Pieces of bulk in a slice: another process reads it, and the loop only waits."""
TOLD_MAX: Final = 64
STAGE_WORDS: Final = {
    ScrubStage.LOG: "log", ScrubStage.IMAGE: "image", ScrubStage.RESCUED: "rescued blocks",
    ScrubStage.MAPS: "maps", ScrubStage.BRANCHES: "branches",
}  # fmt: skip
Report = Callable[[str, int, int], None]


class VolumeClosed(RevolumeError):
    """The volume is being closed; what has been scrubbed is recorded."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """A pass that has come to its end. ``found``: the first sentences of what was wrong, of this opening."""

    last: LastScrub
    found: tuple[str, ...]


class Scrubber:
    """Of one open volume. One pass runs at a time; ``stop`` ends it for good, before the volume is closed."""

    def __init__(
        self,
        *,
        clock: Clock,
        manifest: ManifestWriter,
        log_stage: LogStage,
        stages: Mapping[ScrubStage, Stage],
        healer: Healer,
        transfer_healer: TransferHealer,
        events: Events,
    ) -> None:
        """``stages``: those behind the log, by their names."""
        self._clock = clock
        self._manifest = manifest
        self._log_stage = log_stage
        self._stages: dict[ScrubStage, Stage] = {ScrubStage.LOG: log_stage, **stages}
        self._healer = healer
        self._transfer_healer = transfer_healer
        self._events = events
        self._now = manifest.state.scrub
        self._recorded_ns = 0
        self._total = 0
        self._found: list[str] = []
        self._task: asyncio.Task[Scrubbed] | None = None
        self._stopped = False

    @property
    def record(self) -> ScrubRecord:
        """How far it has come, and the last pass; ahead of the manifest while it runs."""
        return self._now

    @property
    def status(self) -> ScrubStatus:
        """Plain values."""
        now = self._now
        return ScrubStatus(
            running=self._task is not None,
            under_way=now.under_way,
            stage=STAGE_WORDS[now.place.stage] if now.under_way else "",
            started_ns=now.started_ns,
            bytes_read=now.counts.read if now.under_way else 0,
            bytes_total=self._total,
            damaged=now.counts.damaged if now.under_way else 0,
            healed=now.counts.healed if now.under_way else 0,
            rate=now.rate if now.under_way else 0,
            last_started_ns=now.last.started_ns,
            last_ended_ns=now.last.ended_ns,
            last_bytes_read=now.last.counts.read,
            last_damaged=now.last.counts.damaged,
            last_healed=now.last.counts.healed,
        )

    async def run(self, pacers: Sequence[Pacer], report: Report, rate: int = 0) -> Scrubbed:
        """Go on with the pass that is under way, or begin one; return at its end. ``pacers``: all of them are
        asked before each slice. ``rate``: what is recorded as the pass's own limit, in bytes a second. Cancelled,
        it stays under way. VolumeClosed: ``stop`` was called."""
        assert self._task is None, "one pass at a time"
        if self._stopped:
            raise _closed()
        task = self._task = asyncio.get_running_loop().create_task(self._pass(pacers, report, rate))
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            if self._stopped:
                raise _closed() from None
            raise
        finally:
            self._task = None

    async def stop(self) -> None:
        """End what runs, durably noted how far it has come; nothing begins any more. Idempotent."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def give_up(self) -> None:
        """No pass is under way any more, durably; the next one begins anew."""
        await self._record(ScrubRecord(last=self._now.last))

    async def _pass(self, pacers: Sequence[Pacer], report: Report, rate: int) -> Scrubbed:
        begun = self._now.under_way
        self._found = []
        started_ns = self._now.started_ns if begun else max(1, self._clock.wall_ns())
        place = self._now.place if begun else ScrubPlace()
        counts = self._now.counts if begun else ScrubCounts()
        await self._record(replace(self._now, started_ns=started_ns, place=place, counts=counts, rate=rate))
        self._log_stage.begin()
        self._total = counts.read + sum(self._stages[each].total() for each in ScrubStage if each >= place.stage)
        try:
            with ExitStack() as held:
                for pacer in pacers:
                    held.enter_context(pacer.sending())
                for stage in ScrubStage:
                    if stage >= self._now.place.stage:
                        await self._scrub(stage, pacers, report)
        except asyncio.CancelledError:
            await self._record(self._now)
            raise
        return await self._ended()

    async def _scrub(self, stage: ScrubStage, pacers: Sequence[Pacer], report: Report) -> None:
        """One stage, from the place where it is."""
        place = self._now.place if self._now.place.stage == stage else ScrubPlace(stage)
        while True:
            began_ns = [await pacer.turn() for pacer in pacers]
            size = SLICE_PIECES * min(pacer.piece_bytes for pacer in pacers)
            found = await self._stages[stage].read(place, size)
            for pacer, began in zip(pacers, began_ns, strict=True):
                pacer.sent(found.bytes_read, began)
            counts = await self._dealt_with(found)
            following = found.following or ScrubPlace(stage, place.number, place.block)
            self._now = replace(self._now, place=following, counts=counts)
            report(STAGE_WORDS[stage], counts.read, max(counts.read, self._total))
            if self._clock.monotonic_ns() - self._recorded_ns > RECORDED_NS:
                await self._record(self._now)
            if found.following is None:
                return
            place = found.following

    async def _dealt_with(self, found: SliceRead) -> ScrubCounts:
        """Heal what can be healed, and tell it all."""
        findings = await self._healed_in_log(await self._healed_blocks(found.findings))
        for finding in findings:
            self._tell(finding)
        counts = self._now.counts
        return ScrubCounts(
            counts.read + found.bytes_read,
            counts.damaged + len(findings),
            counts.healed + sum(finding.healed for finding in findings),
        )

    async def _healed_blocks(self, findings: Sequence[Finding]) -> list[Finding]:
        blocks = [each.block for each in findings if each.block is not None]
        left = set(await self._healer.heal(blocks)) if blocks else set()
        return [each if each.block is None else replace(each, healed=each.block not in left) for each in findings]

    async def _healed_in_log(self, findings: Sequence[Finding]) -> list[Finding]:
        transfers = [each.transfer for each in findings if each.transfer is not None]
        left = await self._transfer_healer.heal(transfers)
        return [
            each if each.transfer is None else replace(each, healed=each.transfer not in left) for each in findings
        ]

    def _tell(self, finding: Finding) -> None:
        if len(self._found) < TOLD_MAX:
            self._found.append(finding.sentence)
        self._events.tell(f"scrub: {finding.sentence}", EventKind.TROUBLE if finding.healed else EventKind.DAMAGE)

    async def _ended(self) -> Scrubbed:
        now = self._now
        last = LastScrub(now.started_ns, max(now.started_ns, self._clock.wall_ns()), now.counts)
        await self._record(ScrubRecord(last=last))
        found = tuple(self._found)
        self._events.tell(f"scrub: {sentence(last)}")
        return Scrubbed(last, found)

    async def _record(self, record: ScrubRecord) -> None:
        self._recorded_ns = self._clock.monotonic_ns()
        self._now = record
        await self._manifest.record((EditKind.SCRUBBED, pack_scrub(record)))


def sentence(last: LastScrub) -> str:
    """How a pass ended, in words without a full stop."""
    counts = last.counts
    read = f"everything was read, {counts.read >> 20} MiB"
    if not counts.damaged:
        return f"{read}: all of it is what was written"
    places = "place was" if counts.damaged == 1 else "places were"
    return f"{read}: {counts.damaged} {places} damaged, {counts.healed} of them healed"


def _closed() -> VolumeClosed:
    return VolumeClosed("closing", "The volume is being closed.", "The scrub goes on when it is served again.")
