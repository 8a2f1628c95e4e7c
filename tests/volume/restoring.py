"""A volume under test that goes back to its moments, beside its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import asynccontextmanager

from revolume.history.exports import VolumeExports
from revolume.history.moments import AtWrite
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.restoring import Difference, Restoring, open_restoring

from .driver import BLOCK, Driver

__all__ = ["Restorer"]


class Restorer(Driver):
    """``restore`` is what a node does, without clients to be kept away."""

    @asynccontextmanager
    async def restoring(self, number: int, first: int = 0, end: int | None = None) -> Iterator[Restoring]:  # type: ignore[misc]
        volume = self.volume
        exports = VolumeExports(volume, volume)
        bounds = first, -(-volume.size // BLOCK) if end is None else end
        opened = await open_restoring(volume, exports, ResolvedMoment(number, 0), bounds)
        try:
            yield opened
        finally:
            opened.close()

    def resolved(self, number: int) -> int:
        """The write that ``@wNUMBER`` means."""
        exports = VolumeExports(self.volume, self.volume)
        return int(exports.resolver.resolve(AtWrite(number)).write)

    async def restore(self, number: int, first: int = 0, end: int | None = None) -> Difference:
        """Go back to the moment at a write, in the blocks [first, end)."""
        async with self.restoring(number, first, end) as restoring:
            await self.volume.point_maker.cut()
            difference = await restoring.difference(lambda done, total: None)
            if not difference.empty:
                await restoring.read(difference, lambda done, total: None)
                await restoring.write(difference, lambda: None)
        self.took(number, first, end)
        return difference

    def took(self, number: int, first: int = 0, end: int | None = None) -> None:
        """The model, once that has been done."""
        _, then = self.model.moments[number]
        last = -(-self.model.size // BLOCK) if end is None else end
        kept = {block: data for block, data in self.model.blocks.items() if not first <= block < last}
        self.model.blocks = kept | {block: data for block, data in then.items() if first <= block < last}
        self.model.seal(self.volume.write)
