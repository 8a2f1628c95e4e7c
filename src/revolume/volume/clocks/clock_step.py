"""Stating in the log that the wall clock was found to have gone elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime

from revolume.volume import facts
from revolume.volume.core import Core
from revolume.volume.events import EventKind
from revolume.volume.label_clock import ClockStep

NEEDED_BLOCKS = 2


def follow_clock(core: Core) -> ClockStep | None:
    """Take the wall clock up for labels; if it has jumped, state that as a fact first. Nothing is done while the
    log has no room for it: labels go on as if it had not jumped."""
    due = core.labels.due()
    if due is None or core.commit.failure is not None or not core.writer.holds(NEEDED_BLOCKS, 0):
        return None
    from_ns, to_ns = max(due[0], core.appender.time_ns), due[1]
    core.labels.set(to_ns)
    core.appender.step_to(to_ns)
    write = core.appender.write
    core.writer.emit(facts.draft(facts.clock_stepped(from_ns, to_ns)))
    step = ClockStep(write, core.appender.position, from_ns, to_ns)
    core.steps.append(step)
    core.events.tell(
        f"the wall clock was set {'ahead' if step.by_ns > 0 else 'back'} by {abs(step.by_ns) / 1e9:.1f} s behind "
        f"w{write}: times go on at {_shown(to_ns)}; nothing ages by that",
        EventKind.CLOCK_STEP,
    )
    return step


def _shown(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
