"""Clusters with clients and operators. ``WORLDS`` has them by name; each is one seed's whole life."""

from __future__ import annotations

from revolume.sim.worlds.away import AwayWorld
from revolume.sim.worlds.cluster import ClusterWorld
from revolume.sim.worlds.comparison import ComparisonWorld
from revolume.sim.worlds.fetch import FetchWorld
from revolume.sim.worlds.heal import HealWorld
from revolume.sim.worlds.lease import LeaseWorld
from revolume.sim.worlds.pair import PairWorld
from revolume.sim.worlds.primary import PrimaryWorld
from revolume.sim.worlds.restore import RestoreWorld
from revolume.sim.worlds.rot import RotWorld
from revolume.sim.worlds.trio import TrioWorld
from revolume.sim.worlds.world import World

WORLDS: dict[str, type[World]] = {
    "primary": PrimaryWorld, "pair": PairWorld, "away": AwayWorld, "trio": TrioWorld,
    "cluster": ClusterWorld, "lease": LeaseWorld, "rot": RotWorld, "comparison": ComparisonWorld,
    "heal": HealWorld, "restore": RestoreWorld, "fetch": FetchWorld,
}  # fmt: skip

__all__ = ["WORLDS", "World"]
