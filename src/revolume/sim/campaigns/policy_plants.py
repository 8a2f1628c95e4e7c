"""Bugs planted into retention by a policy."""

from __future__ import annotations

from typing import Final

from revolume.sim.campaigns.plant import Plant
from revolume.volume.space.policy_pins import PolicyPins


def _by_the_clock(pins: PolicyPins) -> int:
    clock = pins._lived._monotonic_ns.__self__  # type: ignore[attr-defined]
    return int(clock.wall_ns()) // 10**6


POLICY_PLANTS: Final = (
    Plant("policy-passed-over", "folds do not stop at the points that the policy keeps", "primary", 30,
          ((PolicyPins, "next_stop", lambda self: None),), "point moments keep kill", told="the policy promises"),
    Plant("ages-not-written-down", "nobody knows how old a point is that has left the log", "primary", 30,
          ((PolicyPins, "edits", lambda self, target: []),), "point moments stop", told="the policy promises"),
    Plant("policy-ages-by-the-clock", "the policy's points age by the wall clock", "primary", 30,
          ((PolicyPins, "now_ms", property(_by_the_clock)),), "point moments clock", told="the policy promises"),
)  # fmt: skip
