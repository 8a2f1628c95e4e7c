"""Stating in the log that the wall clock was found to have gone elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime

from revolume.volume.clocks.label_clock import ClockStep
from revolume.volume.clocks.volume_clocks import VolumeClocks
from revolume.volume.metadata import log_facts as facts
from revolume.volume.open_log import OpenLog
from revolume.volume.state.events import EventKind, Events

NEEDED_BLOCKS = 2


def follow_clock(clocks: VolumeClocks, log: OpenLog, events: Events) -> ClockStep | None:
    """Take the wall clock up for labels; if it has jumped, state that as a fact first. Nothing is done while the
    log has no room for it, or somebody else has the turn: labels go on as if it had not jumped."""
    due = clocks.labels.due()
    if due is None or log.turn.taken or log.commit.failure is not None or not log.writer.holds(NEEDED_BLOCKS, 0):
        return None
    from_ns, to_ns = max(due[0], log.appender.time_ns), due[1]
    clocks.labels.set(to_ns)
    log.appender.step_to(to_ns)
    write = log.appender.write
    log.writer.emit(facts.draft(facts.clock_stepped(from_ns, to_ns)))
    step = ClockStep(write, log.appender.position, from_ns, to_ns)
    clocks.steps.append(step)
    events.tell(
        f"the wall clock was set {'ahead' if step.by_ns > 0 else 'back'} by {abs(step.by_ns) / 1e9:.1f} s behind "
        f"w{write}: times go on at {_shown(to_ns)}; nothing ages by that",
        EventKind.CLOCK_STEP,
    )
    return step


def _shown(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
