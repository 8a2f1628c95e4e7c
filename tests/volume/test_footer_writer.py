"""Footers alone: written beside appending, synced at a clean stop, tried again where the disk failed."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from revolume.errors import Poisoned
from revolume.host.disk import Buffer, File
from revolume.host.real.disk import RealDisk
from revolume.log.format.columns import ColumnsBuilder
from revolume.log.format.segment import Segment, read_footer
from revolume.log.write.appender import NodeHeaderState
from revolume.log.write.group_commit import GroupCommit
from revolume.volume.footer_writer import FooterWriter
from revolume.volume.state.events import Events

from .store import Inline

VOLUME = bytes(range(16))
BLOCKS = 16


class Faulty:
    """A file of which the next calls fail."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.failing: list[str] = []
        self.syncs = 0

    def _maybe(self, call: str) -> None:
        if call in self.failing:
            self.failing.remove(call)
            raise OSError(errno.EIO, "Input/output error")

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        self._maybe("pwritev")
        self._file.pwritev(buffers, offset)

    def preadv(self, buffers: Sequence[Buffer], offset: int) -> int:
        return self._file.preadv(buffers, offset)

    def datasync(self) -> None:
        self.syncs += 1
        self._maybe("datasync")


class Made:
    """A writer with segments to seal."""

    def __init__(self, path: Path) -> None:
        self._directory = RealDisk().open(str(path))
        self.by_use: dict[int, Segment] = {}
        self.closed: list[int] = []
        self.pool: Any = SimpleNamespace(by_use=self.by_use, kept_open=8, sealed=self.closed.append)
        self.header = NodeHeaderState(durable=7, edit=3)
        self.events = Events(lambda: 0)
        self.commit = GroupCommit(Inline(), lambda: 0, self.header)
        self.footers = FooterWriter(VOLUME, Inline(), self.pool, self.commit, self.header, self.events)

    def segment(self, use: int) -> tuple[Segment, Faulty]:
        file = self._directory.open(f"{use}.seg", create=True)
        file.truncate(BLOCKS * 4096)
        faulty = Faulty(file)
        segment = self.by_use[use] = Segment(use, use, BLOCKS, faulty)  # type: ignore[arg-type]
        return segment, faulty

    def seal(self, segment: Segment) -> None:
        appender: Any = SimpleNamespace(
            chain_before=bytes(16), chain=b"c" * 16, columns=ColumnsBuilder(segment.base), next_block=1
        )
        self.footers.seal(segment, appender)


def play(path: Path, scenario: Callable[[Made], Awaitable[None]]) -> None:
    async def run() -> None:
        await asyncio.wait_for(scenario(Made(path)), 60)

    asyncio.run(run())


def test_a_sealed_segment_gets_its_footer_and_a_stop_syncs_it(tmp_path: Path) -> None:
    async def scenario(made: Made) -> None:
        segment, file = made.segment(4)
        made.seal(segment)
        assert read_footer(segment, VOLUME) is None, "whoever appends does not wait for it"
        await made.footers.written()
        footer = read_footer(segment, VOLUME)
        assert footer is not None and footer.end_block == 1 and file.syncs == 0
        await made.footers.durable()
        assert file.syncs == 1

    play(tmp_path, scenario)


def test_a_footer_that_was_not_written_is_written_by_the_stop(tmp_path: Path) -> None:
    async def scenario(made: Made) -> None:
        segment, file = made.segment(4)
        file.failing = ["pwritev"]
        made.seal(segment)
        await made.footers.written()
        assert read_footer(segment, VOLUME) is None and list(made.footers.unwritten) == [4]
        assert any("was not written" in text for text in made.events.texts())
        await made.footers.durable()
        assert read_footer(segment, VOLUME) is not None and not made.footers.unwritten

    play(tmp_path, scenario)


def test_a_footer_that_can_not_be_synced_poisons(tmp_path: Path) -> None:
    async def scenario(made: Made) -> None:
        segment, file = made.segment(4)
        made.seal(segment)
        file.failing = ["datasync"]
        with pytest.raises(Poisoned):
            await made.footers.durable()
        assert made.commit.failure is not None

    play(tmp_path, scenario)


def test_what_was_recycled_needs_no_footer_any_more(tmp_path: Path) -> None:
    async def scenario(made: Made) -> None:
        segment, file = made.segment(4)
        made.seal(segment)
        await made.footers.written()
        del made.by_use[4]
        await made.footers.durable()
        assert file.syncs == 0

    play(tmp_path, scenario)


def test_only_some_wait_for_their_sync_the_oldest_is_closed(tmp_path: Path) -> None:
    async def scenario(made: Made) -> None:
        files = []
        for use in (4, 5, 6):
            segment, file = made.segment(use)
            files.append(file)
            made.seal(segment)
            await made.footers.written()
        assert made.closed == [4] and [file.syncs for file in files] == [1, 0, 0]

    play(tmp_path, scenario)


def test_footers_that_an_earlier_opening_left_in_memory_are_synced(tmp_path: Path) -> None:
    async def scenario(made: Made) -> None:
        segment, file = made.segment(4)
        made.footers.adopt({4: segment})
        await made.footers.durable()
        assert file.syncs == 1

    play(tmp_path, scenario)
