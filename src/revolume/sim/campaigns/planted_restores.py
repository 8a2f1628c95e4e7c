"""Bugs planted into how a volume goes back to a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import numpy as np

from revolume.blocks.numbers import Position
from revolume.log.write.operations import Op
from revolume.log.write.writer import Group
from revolume.nbd.server.server import Server
from revolume.node.restore import Restore
from revolume.sim.campaigns.plant import Plant
from revolume.volume.metadata import log_facts as facts
from revolume.volume.points.named_moments import NamedMoments
from revolume.volume.points.point_maker import PointMaker
from revolume.volume.rescue.rescued_blocks import RescuedBlocks
from revolume.volume.whole_writes import WholeWrites, need_of


async def _in_pieces(self: WholeWrites, ops: Sequence[Op]) -> None:
    """A write for each slice."""
    await self._numbers.wait_for(len(ops))
    await self._room(need_of(ops).log_blocks(self._transfer_blocks))
    group = Group(self._log.writer)
    for op in ops:
        group.add(op)
    group.flush()
    self._live.absorb()
    self._appended()


async def _at_once(self: NamedMoments, body: bytes) -> Position:
    """Whoever has the turn."""
    self._log.writer.emit(facts.draft(body))
    position = self._log.appender.position
    await self._log.commit.wait_durable(position)
    return position


@asynccontextmanager
async def _not_paused(self: PointMaker) -> AsyncIterator[None]:
    """Points are made as ever."""
    yield


def _nothing_rescued(self: RescuedBlocks, since: Any, until: Any, blocks: Any) -> Any:
    return np.zeros(len(blocks), bool)


async def _nobody(*_: Any) -> None:
    """No connection is ended."""


PLANTED_RESTORES: Final = (
    Plant("restore-in-pieces", "a restore is many writes, of which a crash leaves some", "restore", 40,
          ((WholeWrites, "_append_slice", _in_pieces),), "restore_power restore_power snapshot",
          told="in no state in which it ever was"),
    Plant("fact-within-restore", "a name is dropped within a restore, which makes a part a whole", "restore", 40,
          ((NamedMoments, "_append_fact", _at_once),), "restore_beside restore_beside snapshot", 1,
          told="in no state in which it ever was"),
    Plant("point-within-restore", "a point is made of the half of a restore", "restore", 60,
          ((PointMaker, "paused", _not_paused),), "restore_beside restore_beside snapshot", 29,
          told="in no state in which it ever was"),
    Plant("restore-by-log-alone", "what was rescued for a snapshot is not looked at", "restore", 30,
          ((RescuedBlocks, "changed", _nothing_rescued),), "restore snapshot point", told="not what it was then"),
    Plant("restored-under-writers", "clients write on while the volume is restored", "restore", 30,
          ((Restore, "_check", lambda *_: None), (Server, "hang_up_from", _nobody)), "restore",
          told="not what it was then"),
)  # fmt: skip
