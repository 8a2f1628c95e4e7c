"""Clusters with clients and operators. ``WORLDS`` has them by name; each is one seed's whole life."""

from __future__ import annotations

from revolume.sim.worlds.pair import PairWorld
from revolume.sim.worlds.primary import PrimaryWorld
from revolume.sim.worlds.rot import RotWorld
from revolume.sim.worlds.world import World

WORLDS: dict[str, type[World]] = {"primary": PrimaryWorld, "pair": PairWorld, "rot": RotWorld}

__all__ = ["WORLDS", "World"]
