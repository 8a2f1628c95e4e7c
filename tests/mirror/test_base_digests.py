"""No digest of a base is committed before its block is durable: after a power cut, digests are compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from revolume.blocks.digest import block_digests
from tests.mirror.test_storage_contract import BLOCK, RealEnds, play


class SlowSync:
    """Work that writes ``meanwhile`` once an image's sync has begun, and notes what happens in which order."""

    def __init__(self, work: Any, image: Any, happened: list[str]) -> None:
        self._work = work
        self._image = image
        self._happened = happened
        self.call = work.call
        self.meanwhile: Callable[[], Any] | None = None

    async def call_sync(self, what: Callable[..., Any], *arguments: Any) -> Any:
        self._happened.append("image" if what == self._image.datasync else "digests")
        found = await self._work.call_sync(what, *arguments)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
            self._happened.append("put")
        return found


def test_a_block_that_comes_behind_the_images_sync_is_synced_before_its_digest(folder: Path) -> None:
    async def scenario(ends: Any) -> None:
        target = await ends.begin()
        fill: Any = target._store._fill if hasattr(target, "_store") else target._fill
        happened: list[str] = []
        fill._work = work = SlowSync(fill._work, fill._image.file, happened)

        async def put(block: int) -> None:
            content = os.urandom(BLOCK)
            digests = np.array(block_digests(content, 1), np.uint64)
            await fill.put(np.array([block], np.uint64), digests, content, block + 1)

        await put(0)
        work.meanwhile = lambda: put(1)
        await fill._commit()
        assert happened == ["image", "put", "image", "digests"]
        assert fill.durable_block == 2

    play(RealEnds(folder), scenario)
