"""Group commit alone: one sync for all who wait, and none that is tried again."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from revolume.errors import Poisoned
from revolume.log.write.appender import NodeHeaderState
from revolume.log.write.group_commit import GroupCommit


class File:
    """A file that counts its syncs; with ``fails`` each of them does."""

    def __init__(self, name: str = "000.seg", fails: bool = False) -> None:
        self.name = name
        self.syncs = 0
        self._fails = fails

    def datasync(self) -> None:
        self.syncs += 1
        if self._fails:
            raise OSError(errno.EIO, "Input/output error")


class Log:
    """A log of which only positions matter. Syncs run when ``gate`` is open."""

    def __init__(self) -> None:
        self.position = 0
        self.syncing = False
        self.header = NodeHeaderState()
        self.told: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.half_there = 0
        self.commit = GroupCommit(
            self, lambda: self.position, self.header, self.told.append, lambda: self.position + self.half_there,  # type: ignore[arg-type]
        )  # fmt: skip

    async def call_sync(self, fn: Callable[[], Any]) -> Any:
        self.syncing = True
        await self.gate.wait()
        return fn()

    def write(self, file: File) -> int:
        self.position += 1
        self.commit.dirtied(file, 4096)  # type: ignore[arg-type]
        return self.position


def play(scenario: Callable[[Log], Awaitable[None]]) -> None:
    async def run() -> None:
        await asyncio.wait_for(scenario(Log()), 60)

    asyncio.run(run())


def test_one_sync_answers_everybody_who_waited_for_it() -> None:
    async def scenario(log: Log) -> None:
        file = File()
        positions = [log.write(file) for _ in range(100)]
        await asyncio.gather(*(log.commit.wait_durable(position) for position in positions))
        assert (file.syncs, log.commit.syncs, log.commit.durable, log.header.durable) == (1, 1, 100, 100)
        assert log.commit.unsynced_bytes == 0
        await log.commit.wait_durable(3)
        assert file.syncs == 1, "it was durable already"

    play(scenario)


def test_what_is_appended_while_a_sync_runs_waits_for_the_next() -> None:
    async def scenario(log: Log) -> None:
        file, followed = File(), list[int]()
        log.commit.follow(followed.append)
        log.gate.clear()
        first = asyncio.ensure_future(log.commit.wait_durable(log.write(file)))
        while not log.syncing:
            await asyncio.sleep(0)
        second = asyncio.ensure_future(log.commit.wait_durable(log.write(file)))
        await asyncio.sleep(0)
        log.gate.set()
        await first
        assert followed[0] == 1
        await second
        assert followed == [1, 2] and file.syncs == 2

    play(scenario)


def test_a_failed_sync_poisons_for_good() -> None:
    async def scenario(log: Log) -> None:
        file = File(fails=True)
        waiters = [asyncio.ensure_future(log.commit.wait_durable(log.write(file))) for _ in range(3)]
        found = await asyncio.gather(*waiters, return_exceptions=True)
        assert all(isinstance(each, Poisoned) for each in found)
        with pytest.raises(Poisoned):
            await log.commit.wait_durable(1)
        with pytest.raises(Poisoned):
            await log.commit.synced()
        log.commit.poison("something else")
        assert len(log.told) == 1 and file.syncs == 1 and log.header.durable == 0, "no sync is tried again"

    play(scenario)


def test_synced_covers_what_has_no_position_of_its_own() -> None:
    async def scenario(log: Log) -> None:
        file = File()
        log.commit.dirtied(file, 4096)  # type: ignore[arg-type]
        await log.commit.synced()
        assert file.syncs == 1

    play(scenario)


def test_what_is_half_there_is_synced_and_not_durable() -> None:
    async def scenario(log: Log) -> None:
        position, log.half_there = log.write(File()), 3
        log.gate.clear()
        synced = asyncio.create_task(log.commit.synced())
        while not log.syncing:
            await asyncio.sleep(0)
        log.half_there = 5  # behind the sync that runs
        log.gate.set()
        await synced
        assert (log.commit.durable, log.header.durable, log.header.synced) == (position, position, position + 3)

    play(scenario)
