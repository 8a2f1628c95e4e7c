"""The image of an open volume: its state at the horizon, block by block, with a digest for each.

A fold writes the image and its digests in the helper process; what readers see of it moves in one step, the
*flip*: the horizon is recorded in the manifest, then digests, live map and horizon are exchanged in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from revolume.host.disk import File
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.origin_image import OriginImage
from revolume.volume.metadata.manifest_state import Horizon
from revolume.volume.metadata.manifest_writer import ManifestWriter


class VolumeImage:
    """``generation`` counts exchanges of what lies below the live map's overlay: whoever has looked something up
    before one, and did not find it, looks again. ``lock`` is held while those layers are exchanged, and while a
    point is computed from them. ``origin``: of a clone, what of it lies in its parent."""

    def __init__(
        self, file: File, digests: BlockDigests, manifest: ManifestWriter, origin: OriginImage | None = None
    ) -> None:
        self._manifest = manifest
        self._before: Horizon | None = None
        self.file = file
        self.digests = digests
        self.origin = origin
        self.generation = 0
        self.lock = asyncio.Lock()

    @property
    def horizon(self) -> Horizon:
        """The image's moment, as everything in memory has it: while a flip is recorded, the one before."""
        return self._before or self._manifest.state.horizon

    @property
    def bytes(self) -> int:
        """The file's length; it is sparse."""
        return self.file.size()

    @contextlib.asynccontextmanager
    async def flip(self, record: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        """Await ``record``, which makes a new horizon durable; within the block memory follows it. Nothing in the
        block may fail or wait."""
        self._before = self.horizon
        try:
            await record
        except BaseException:
            self._before = None
            raise
        async with self.exchange():
            self._before = None
            yield

    @contextlib.asynccontextmanager
    async def exchange(self) -> AsyncIterator[None]:
        """Within the block layers below the overlay are exchanged, while no point is computed from them."""
        async with self.lock:
            yield
            self.generation += 1

    def close(self) -> None:
        """Close image and digests."""
        if self.origin is not None:
            self.origin.close()
        self.digests.close()
        self.file.close()
