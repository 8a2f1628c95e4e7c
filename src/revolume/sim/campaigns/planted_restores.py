"""Bugs planted into how a volume goes back to a moment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from revolume.log.write.operations import Op
from revolume.log.write.writer import Group, Writer
from revolume.nbd.server.server import Server
from revolume.node.restore import Restore
from revolume.sim.campaigns.plant import Plant
from revolume.volume.rescue.rescued_blocks import RescuedBlocks


def _in_pieces(self: Writer, ops: Iterable[Op], size: int) -> None:
    """One write after the other."""
    for op in ops:
        group = Group(self)
        group.add(op)
        group.flush()
    self._sink.absorb()
    self.resize(size)


def _nothing_rescued(self: RescuedBlocks, since: Any, until: Any, blocks: Any) -> Any:
    return np.zeros(len(blocks), bool)


async def _nobody(*_: Any) -> None:
    """No connection is ended."""


PLANTED_RESTORES: Final = (
    Plant("restore-in-pieces", "a restore is many writes, of which a crash leaves some", "restore", 40,
          ((Writer, "append_whole", _in_pieces),), "restore_power restore_power snapshot",
          told="in no state in which it ever was"),
    Plant("restore-by-log-alone", "what was rescued for a snapshot is not looked at", "restore", 30,
          ((RescuedBlocks, "changed", _nothing_rescued),), "restore snapshot point", told="not what it was then"),
    Plant("restored-under-writers", "clients write on while the volume is restored", "restore", 30,
          ((Restore, "_check", lambda *_: None), (Server, "hang_up_from", _nobody)), "restore",
          told="not what it was then"),
)  # fmt: skip
