"""How a mirror's log waits for room while a point is being agreed to."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import NoSpace
from revolume.log.write.operations import OP_WRITE
from revolume.volume.points.record_processor import RecordProcessor

from .driver import BLOCK, SEGMENT
from .mirrored import THERE, Mirrored
from .store import inline_host, payload


def test_who_waits_for_a_point_to_be_agreed_leaves_the_processor_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its budget is used up and only the point that is being dealt with will let it fold: it asked without end."""

    async def scenario() -> None:
        driver = Mirrored(inline_host(), tmp_path / "v", 1 << 20)
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, 4 * BLOCK))])
        there = await driver.begin(replace(THERE, budget_bytes=16 * SEGMENT, spare_bytes=2 * SEGMENT))
        await driver.send_base()
        monkeypatch.setattr(RecordProcessor, "progressing", True)
        room = there.admission._room
        assert room is not None
        asked, make = 0, room.make

        async def counted(may_cut: bool, wanted: int) -> bool:
            nonlocal asked
            asked += 1
            return await make(may_cut, wanted)

        monkeypatch.setattr(room, "make", counted)
        with contextlib.suppress(TimeoutError, NoSpace):
            await asyncio.wait_for(there.room(20 * SEGMENT // BLOCK), 0.7)
        assert 1 < asked < 20
        await there.close()
        await driver.volume.close()

    asyncio.run(scenario())
