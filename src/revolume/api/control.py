"""One volume under control: what the HTTP face and the verbs can ask of it, in plain values.

A verb asks the running volume over HTTP or, when it is stopped, opens the directory and asks ``Control``
itself; the answers are the same objects. Nothing is decided here: each method names the part of the
volume that does the work and gives the answer its shape.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from revolume.api.shapes import (
    PointShape,
    PointsShape,
    PointValues,
    PromotedShape,
    SnapshotShape,
    SnapshotValues,
    moment_shape,
    point_shape,
    snapshot_shape,
)
from revolume.errors import Refused
from revolume.history.moments import Moment, check_snapshot_name, parse_moment
from revolume.history.spot import Spot


class ReadVolume(Protocol):
    """What looking needs of a volume, stopped or not."""

    @property
    def name(self) -> str: ...
    def status(self) -> Any: ...  # a dataclass of plain values
    def points(self) -> Sequence[PointValues]: ...
    def snapshots(self) -> Sequence[SnapshotValues]: ...


class ControlledVolume(ReadVolume, Protocol):
    """What control needs of a volume."""

    @property
    def size(self) -> int: ...
    async def cut(self) -> PointValues: ...
    async def snapshot(self, name: str) -> SnapshotValues: ...
    async def drop_snapshot(self, name: str) -> None: ...
    async def grow(self, size: int) -> None: ...
    async def detach(self, name: str) -> None: ...
    async def replace_mirror(self, name: str, yes: bool) -> str: ...


# The write that a moment means in this volume now. Raises NotFound naming the nearest moments.
Resolve = Callable[[Moment], Spot]


def plain(value: Any) -> Any:
    """A shape, or a list of shapes, as JSON has it."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


class Look:
    """What can be asked without changing anything."""

    def __init__(self, volume: ReadVolume, resolve: Resolve, serving: Callable[[], dict[str, Any]] = dict) -> None:
        self._read = volume
        self._resolve = resolve
        self._serving = serving

    def status(self) -> dict[str, Any]:
        """The volume's status, its role and mirrors and, where it is being served, addresses and connections."""
        more = {name: plain(value) for name, value in self._serving().items()}
        return {**dataclasses.asdict(self._read.status()), **more}

    def points(self, at: str | None = None) -> PointsShape:
        """The retained points; with ``at``, also what that moment is. Raises UsageError, NotFound."""
        points = [point_shape(self._read.name, point) for point in self._read.points()]
        if at is None:
            return PointsShape(points)
        spot = self._resolve(parse_moment(at))
        return PointsShape(points, moment_shape(self._read.name, at, spot, points))

    def snapshots(self) -> list[SnapshotShape]:
        """The named moments."""
        return [snapshot_shape(self._read.name, snapshot) for snapshot in self._read.snapshots()]


class Control(Look):
    """The volume's face towards its operator."""

    def __init__(
        self,
        volume: ControlledVolume,
        resolve: Resolve,
        serving: Callable[[], dict[str, Any]] = dict,
        promote: Callable[[Sequence[str], Sequence[str], bool], Awaitable[PromotedShape]] | None = None,
    ) -> None:
        super().__init__(volume, resolve, serving)
        self._volume = volume
        self._promote = promote

    def follow(self, volume: ControlledVolume, resolve: Resolve) -> None:
        """The volume is this one from now on: it was opened anew, in another role."""
        self._read = self._volume = volume
        self._resolve = resolve

    async def cut(self) -> PointShape:
        """A consistency point now. Idempotent while nothing changes."""
        return point_shape(self._volume.name, await self._volume.cut())

    async def snapshot(self, name: str) -> SnapshotShape:
        """Name the present. Refused if the name is taken."""
        return snapshot_shape(self._volume.name, await self._volume.snapshot(check_snapshot_name(name)))

    async def drop_snapshot(self, name: str) -> None:
        """Forget a name. NotFound if there is none."""
        await self._volume.drop_snapshot(check_snapshot_name(name))

    async def grow(self, size: int) -> int:
        """The new size in bytes. Refused if it would shrink."""
        await self._volume.grow(size)
        return self._volume.size

    async def promote(
        self, addresses: Sequence[str] = (), others: Sequence[str] = (), yes: bool = False
    ) -> PromotedShape:
        """Make a mirror a primary, which listens at ``addresses`` too. Refused while its source lives, or while
        it is no whole copy."""
        if self._promote is None:
            raise Refused(
                "is-primary", f"{self._volume.name} is a primary already.", "There is nothing to be done."
            )
        return await self._promote(addresses, others, yes)

    async def detach(self, name: str) -> None:
        """Give a mirror up. NotFound if there is none."""
        await self._volume.detach(name)

    async def replace_mirror(self, name: str, yes: bool) -> str:
        """Forget which copy a mirror is, so that another may become it; what was given up. NotFound if there is
        no such mirror; Refused without ``yes`` if answers rest on a copy that is away."""
        return await self._volume.replace_mirror(name, yes)
