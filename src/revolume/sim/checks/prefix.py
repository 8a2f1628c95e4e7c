"""O2, O4: after a crash a volume is what it was at one of its write numbers, and nothing promised lies behind."""

from __future__ import annotations

from revolume.sim.oracle.model import Model
from revolume.sim.oracle.sector_history import Promised, SectorHistory


def check_recovered(
    model: Model, register: SectorHistory, content: bytearray, written: int, promised: Promised, who: str
) -> list[str]:
    """Model and clients' register go on from what was found. ``written``: the last write that the volume says it
    has, which content alone doesn't tell: a write may have changed nothing."""
    register.recovered(content, promised, who)
    found = model.find(content)
    if found is None:
        return [f"{who}: it is in no state in which it ever was; newest w{model.newest}: "
                f"{model.differs(model.newest, content)}"]  # fmt: skip
    model.cut_back(written)
    if different := model.differs(model.newest, content):
        return [f"{who}: it says that it ends with w{written}, and is what it was at w{found}: {different}"]
    return []
