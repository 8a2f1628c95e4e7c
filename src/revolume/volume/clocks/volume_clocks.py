"""The clocks of an open volume: its labels', its age's, and at a mirror its source's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from revolume.blocks.numbers import Position
from revolume.host.clock import Clock
from revolume.volume.clocks.label_clock import UNKNOWN_BOOT, ClockStep, LabelClock, SourceClock
from revolume.volume.clocks.lived_time import LivedTime
from revolume.volume.metadata.clock_mark import ClockMark, pack_clock
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Role
from revolume.volume.metadata.manifest_writer import ManifestWriter


@dataclass(frozen=True, slots=True)
class OpenedClocks:
    """The clocks as an opening makes them. ``steps``: clock steps that the log states, oldest first."""

    lived: LivedTime
    labels: LabelClock
    source: SourceClock
    steps: Iterable[ClockStep]


class VolumeClocks:
    """``steps``: clock steps that the log states, oldest first."""

    def __init__(self, clock: Clock, manifest: ManifestWriter, opened: OpenedClocks) -> None:
        self._clock = clock
        self._manifest = manifest
        self.lived = opened.lived
        self.labels = opened.labels
        self.source = opened.source
        self.steps = list(opened.steps)

    def now_ns(self) -> int:
        """The time by which the newest labels are made, now, in ns since 1970."""
        mirror = self._manifest.state.role == Role.SECONDARY
        return self.source.now_ns() if mirror else self.labels.now_ns()

    async def remember_steps(self, position: Position) -> None:
        """A clock step that is in the log alone is folded away with it; how labels go on after a kill would be
        unknown then. So the newest one is followed by a mark. ``position``: of the log's end."""
        if self.steps and self.steps[-1].position > self._manifest.state.clock.position:
            await self._manifest.record((EditKind.CLOCK, pack_clock(self.mark(position))))

    def mark(self, position: Position) -> ClockMark:
        """What this copy knows of time now, for the opening that follows this one. ``position``: of the log's
        end."""
        clock, primary = self._clock, self._manifest.state.role == Role.PRIMARY
        boot_id = clock.boot_id() if primary else UNKNOWN_BOOT
        return ClockMark(self.lived.now_ns(), self.now_ns(), clock.boot_ns(), boot_id, position)
