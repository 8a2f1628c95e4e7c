"""The regions of a store on a real file system (``sim/oracle/regions.py`` has the theory)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from revolume.host import Host
from revolume.sim.oracle import regions as of_a_store
from revolume.sim.oracle.regions import IDLE, TOLD


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes [start, end) of a file, all of one kind."""

    kind: str
    name: Path
    start: int
    end: int


def regions(host: Host, path: Path) -> list[Region]:
    """Every byte of the store, each in one region."""
    directory = host.disk.open(str(path))
    try:
        return [Region(r.kind, Path(r.name), r.start, r.end) for r in of_a_store.regions(directory)]
    finally:
        directory.close()


__all__ = ["IDLE", "TOLD", "Region", "regions"]
