"""Recording edits, and reserving write numbers by them, each alone over a manifest in memory."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from revolume.errors import NoSpace, Poisoned, RevolumeError
from revolume.log.write.appender import NodeHeaderState
from revolume.volume.metadata.manifest_edits import EditKind, apply, pack_number
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.number_reservation import NumberReservation
from revolume.volume.uncancelled_tasks import UncancelledTasks

from .store import Inline


class Memory:
    """A manifest without a file; its next edits meet ``errors``, the last of them for good if ``sync_fails``."""

    def __init__(self) -> None:
        self.state = State()
        self.number = 0
        self.failure: OSError | None = None
        self.errors: list[int] = []
        self.sync_fails = False

    def record(self, *edits: tuple[EditKind, bytes]) -> None:
        if self.errors:
            error = OSError(self.errors.pop(0), "no")
            self.failure = error if self.sync_fails else None
            raise error
        for kind, body in edits:
            self.state = apply(self.state, kind, body)
            self.number += 1


class Made:
    def __init__(self, room: bool = False) -> None:
        self.manifest: Any = Memory()
        self.header = NodeHeaderState()
        self.emptied = 0
        self.room = room
        self.writer = ManifestWriter(Inline(), self.manifest, self.header, self._find_room, UncancelledTasks())

    def _find_room(self) -> bool:
        self.emptied += 1
        return self.room


RESERVE = (EditKind.RESERVE, pack_number(77))


def test_an_edit_is_in_the_state_and_in_the_headers_that_follow() -> None:
    made = Made()
    asyncio.run(made.writer.record(RESERVE, (EditKind.FOLDING, pack_number(5))))
    assert (made.writer.state.reserved, made.writer.state.folding) == (77, 5)
    assert made.writer.number == made.header.edit == 2


@pytest.mark.parametrize("room", [True, False])
def test_without_room_it_is_recorded_with_what_was_kept_back(room: bool) -> None:
    made = Made(room)
    made.manifest.errors = [errno.ENOSPC]
    if room:
        asyncio.run(made.writer.record(RESERVE))
        assert made.writer.state.reserved == 77
    else:
        with pytest.raises(NoSpace):
            asyncio.run(made.writer.record(RESERVE))
        asyncio.run(made.writer.record(RESERVE))  # nothing has happened: it may be tried again
    assert made.emptied == 1


def test_a_failed_sync_poisons_once_the_log_stands_open() -> None:
    poisoned: list[str] = []

    def poison(cause: str) -> Poisoned:
        poisoned.append(cause)
        return Poisoned("poisoned", cause, "")

    for open_log in (False, True):
        made = Made()
        made.manifest.errors, made.manifest.sync_fails = [errno.EIO], True
        if open_log:
            made.writer.poison_with(poison)
        with pytest.raises(Poisoned if open_log else RevolumeError):
            asyncio.run(made.writer.record(RESERVE))
    assert poisoned == ["Writing the manifest failed: no."] and made.header.edit == 0


def reserving(scenario: Callable[[NumberReservation, Any, Memory], Any]) -> None:
    async def run() -> None:
        made = Made()
        made.manifest.state = apply(State(), EditKind.RESERVE, pack_number(100))
        appender: Any = SimpleNamespace(write=0)
        await scenario(NumberReservation(made.writer, appender, 100), appender, made.manifest)

    asyncio.run(run())


def test_numbers_are_reserved_before_half_of_them_are_left() -> None:
    async def scenario(numbers: NumberReservation, appender: Any, manifest: Memory) -> None:
        assert (numbers.upto, numbers.extend_above) == (100, 50)
        appender.write = 60
        numbers.extend()
        numbers.extend()  # once is enough
        await numbers.wait_for(60)
        assert (numbers.upto, numbers.extend_above) == (160, 110) == (manifest.state.reserved, 110)
        assert manifest.number == 1

    reserving(scenario)


def test_where_none_can_be_reserved_who_waits_is_told() -> None:
    async def scenario(numbers: NumberReservation, appender: Any, manifest: Memory) -> None:
        appender.write = 99
        manifest.errors = [errno.ENOSPC]
        with pytest.raises(NoSpace):
            await numbers.wait_for(1)
        await numbers.wait_for(1)
        assert numbers.upto == 199

    reserving(scenario)
