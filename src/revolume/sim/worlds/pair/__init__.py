"""A primary and a mirror: ``PairWorld`` (see ``world``)."""

from __future__ import annotations

from revolume.sim.worlds.pair.world import PairWorld

__all__ = ["PairWorld"]
