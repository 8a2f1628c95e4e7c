"""``--on-event``: one run at a time, the last of each kind; the service goes on whatever the command does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence

import pytest

from revolume.node.alarm import Alarm
from revolume.node.event_log import EventLog
from revolume.volume.state.events import Event, EventKind, Level


def event(kind: EventKind, message: str = "m", count: int = 1) -> Event:
    return Event(kind, Level.WARNING, message, 1, 2, count)


class Command:
    """What was run: kind and message of each, and how many ran at the same time at most."""

    def __init__(self, result: str | Exception = "") -> None:
        self.runs: list[tuple[str, str]] = []
        self.given: list[bytes] = []
        self.most = 0
        self._running = 0
        self._result = result

    async def __call__(self, argv: Sequence[str], extra: Mapping[str, str], given: bytes, seconds: float) -> str:
        self._running += 1
        self.most = max(self.most, self._running)
        self.runs.append((extra["REVOLUME_EVENT"], extra["REVOLUME_MESSAGE"]))
        self.given.append(given)
        await asyncio.sleep(0.01)
        self._running -= 1
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


async def rung(command: Command, *events: Event) -> None:
    alarm = Alarm(["cmd"], command)
    for each in events:
        alarm.ring("vm", each)
        await asyncio.sleep(0)
    await asyncio.sleep(0.1)
    await alarm.close()


def test_one_at_a_time_and_the_last_of_a_kind() -> None:
    command = Command()
    events = [event(EventKind.FULL, "1"), event(EventKind.DAMAGE, "2"), event(EventKind.DAMAGE, "3")]
    asyncio.run(rung(command, *events))
    assert command.runs == [("full", "1"), ("damage", "3")]
    assert command.most == 1
    assert json.loads(command.given[0]) == {
        "volume": "vm", "kind": "full", "level": "warning", "message": "1",
        "first_ns": 1, "last_ns": 2, "count": 1,
    }  # fmt: skip


def test_nobody_is_woken_for_notes() -> None:
    command = Command()
    asyncio.run(rung(command, event(EventKind.NOTE), event(EventKind.TROUBLE)))
    assert command.runs == []


@pytest.mark.parametrize("result", ["it exited with status 1", ValueError("no")])
def test_a_command_that_fails_is_run_for_the_next(result: str | Exception) -> None:
    command = Command(result)
    asyncio.run(rung(command, event(EventKind.FULL), event(EventKind.DAMAGE)))
    assert [kind for kind, _ in command.runs] == ["full", "damage"]


def test_what_waits_when_the_service_ends_is_not_run() -> None:
    command = Command()

    async def ended() -> None:
        alarm = Alarm(["cmd"], command)
        alarm.ring("vm", event(EventKind.FULL))
        alarm.ring("vm", event(EventKind.DAMAGE))
        await asyncio.sleep(0)
        await alarm.close()

    asyncio.run(ended())
    assert len(command.runs) == 1


def test_the_log_has_the_second_the_tenth_the_hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    class Log:
        def warning(self, message: str, *, count: int = 1, **more: str) -> None:
            told.append(count)

        info = error = warning

    monkeypatch.setattr("revolume.node.event_log.log", Log())
    events = EventLog(None)
    for count in range(1, 201):
        events.event("vm", event(EventKind.FULL, count=count))
    assert told == [1, 2, 10, 100]
