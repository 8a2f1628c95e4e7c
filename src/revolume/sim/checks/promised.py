"""What the policy promises is open, and is what the volume was.

Which points are promised is found out beside ``volume/space/policy_stops.py``: from the ages of the points that
are in the log, and of those that folds have taken out of it since this policy was set. What a copy says that it
has given up for want of room is believed; that only the oldest go, and nothing goes without need, other checks
ask. """

from __future__ import annotations

from revolume.errors import GaveWay, NotFound
from revolume.log.format.columns import LIVED_NS
from revolume.sim.checks.moments import check_moment
from revolume.sim.kernel.chance import Chance
from revolume.sim.oracle.model import Model
from revolume.volume.volume_base import OpenVolume

COUNT = 4
MARGIN_MS = 500
"""So much older a point may become while it is looked at."""


async def check_promised(volume: OpenVolume, model: Model, chance: Chance, who: str) -> list[str]:
    """Some of the points that the policy promises, always the oldest."""
    promised, wrong = _promised(volume, model), list[str]()
    chosen = {*promised[:1], *(chance.choice(promised) for _ in range(COUNT))} if promised else set()
    for write in sorted(chosen):
        try:
            wrong += await check_moment(volume, model, write, who)
        except GaveWay:
            continue
        except NotFound:
            if write in _promised(volume, model):
                wrong.append(f"{who}: the policy promises w{write}, and it is gone")
    return wrong


def _promised(volume: OpenVolume, model: Model) -> list[int]:
    policy, given_up = volume.policy.policy, volume.manifest.state.retention.given_up_ms
    points: dict[int, int] = {**model.folded, **{int(p.write): p.lived_ms for p in volume.retained}}
    now_ms, found = volume.clocks.lived.now_ns() // LIVED_NS + MARGIN_MS, set[int]()
    for tier in policy.tiers:
        firsts: dict[int, int] = {}
        for write, lived_ms in sorted(points.items()):
            firsts.setdefault(lived_ms // tier.period_ms, write)
        found |= {
            write
            for period, write in firsts.items()
            if period > (given_up // tier.period_ms if given_up else -1) and now_ms - points[write] <= tier.span_ms
        }
    span = policy.every_point_ms
    found |= {w for w, lived_ms in points.items() if span and lived_ms > given_up and now_ms - lived_ms <= span}
    return sorted(found & model.folded.keys())
