"""Bugs planted into the comparison of a mirror with its primary, and into what puts the mirror right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from revolume.blocks import root as roots
from revolume.resync import verification
from revolume.resync.history_marks import HistoryMarks
from revolume.sim.campaigns.plant import Plant
from revolume.volume.points.apply_point import PointApplier


def _not_subtracted(compared: Any, scan: Any) -> Any:
    return compared


async def _root_moved(self: PointApplier, point: Any, record: Any) -> Any:
    found, record = await _put_right(self, point, record)
    self._moved = _moving(self, found) if len(found) else _moved.__get__(self)  # type: ignore[method-assign]
    return found, record


def _moving(self: PointApplier, found: Any) -> Any:
    def moved(point: Any, sent_whole: Any) -> None:
        _moved(self, point, sent_whole)
        last = self._retained.last
        self._retained.last = replace(last, root=roots.add(last.root, found.blocks, found.digests))

    return moved


_put_right, _moved = PointApplier._put_right, PointApplier._moved


async def _unmarked(self: HistoryMarks, *_: Any) -> int:
    return 0


PLANTED_COMPARISONS: Final = (
    Plant("scan-not-subtracted", "what clients write during the scan is called different", "comparison", 20,
          ((verification, "revise", _not_subtracted),), "verify", told="none was planted"),
    Plant("fixup-moves-root", "the root follows what puts the copy right, too", "comparison", 20,
          ((PointApplier, "_put_right", _root_moved),), "diverge verify", told="finds that it differs"),
    Plant("history-not-marked", "history before what was put right is not called suspect", "comparison", 20,
          ((HistoryMarks, "mark", _unmarked),), "diverge verify"),
)  # fmt: skip
