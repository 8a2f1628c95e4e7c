"""The bodies of the edits about moments: the horizon, openings, snapshots. Little endian."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from revolume.volume.metadata.manifest_state import Epoch, Horizon, PinnedSnapshot

HORIZON: Final = struct.Struct("<8Q16sQ")
EPOCH: Final = struct.Struct("<Q16sQQ")
SNAPSHOT: Final = struct.Struct("<QQQ")


def pack_horizon(h: Horizon) -> bytes:
    """HORIZON."""
    return HORIZON.pack(
        h.point, h.write, h.position, h.address, h.time_ns, h.size,
        h.root_low, h.root_high, h.chain, h.pages_generation,
    )  # fmt: skip


def unpack_horizon(body: bytes, at: int = 0) -> Horizon:
    return Horizon(*HORIZON.unpack_from(body, at))


def pack_epoch(epoch: Epoch) -> bytes:
    """EPOCH: number, reign id, position and write number at its begin."""
    return EPOCH.pack(epoch.number, epoch.reign, epoch.position, epoch.write)


def pack_epochs(epochs: Iterable[Epoch]) -> bytes:
    """LINEAGE: rows as in EPOCH."""
    return b"".join(pack_epoch(epoch) for epoch in epochs)


def unpack_epochs(body: bytes) -> tuple[Epoch, ...]:
    """EPOCH, LINEAGE."""
    return tuple(Epoch(*row) for row in EPOCH.iter_unpack(body))


def pack_snapshot(snapshot: PinnedSnapshot) -> bytes:
    """SNAPSHOT, LACKING: write number, point, time, name in UTF-8."""
    return SNAPSHOT.pack(snapshot.write, snapshot.point, snapshot.time_ns) + snapshot.name.encode()


def unpack_snapshot(body: bytes) -> PinnedSnapshot:
    return PinnedSnapshot(body[SNAPSHOT.size :].decode(), *SNAPSHOT.unpack_from(body))


def unnamed(snapshots: tuple[PinnedSnapshot, ...], name: bytes) -> tuple[PinnedSnapshot, ...]:
    """All snapshots but the one of this name."""
    return tuple(snapshot for snapshot in snapshots if snapshot.name.encode() != name)
