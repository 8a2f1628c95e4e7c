"""Bugs planted into scrubs: one that is blind, and one that cries wolf."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from revolume.blocks.block_set import BlockSet
from revolume.sim.campaigns.plant import Plant
from revolume.volume.scrub.image_stage import ImageStage
from revolume.volume.scrub.stage import SliceRead
from revolume.volume.space.folder import Folder


async def _nothing_to_read(*_: Any) -> SliceRead:
    return SliceRead()


@contextlib.asynccontextmanager
async def _beside_folds(_: Folder) -> AsyncIterator[None]:
    yield


async def _as_the_digests_say(_: ImageStage) -> BlockSet:
    return BlockSet()


SCRUB_PLANTS: Final = (
    Plant("scrub-skips-the-image", "a scrub does not read the image", "primary", 20,
          ((ImageStage, "read", _nothing_to_read),), "scrub point moments", told="a scrub of all did not find it"),
    Plant("scrub-beside-a-fold", "a scrub takes the image for what its digest pages say, beside a fold", "primary",
          40, ((Folder, "paused", _beside_folds), (ImageStage, "_being_replaced", _as_the_digests_say)),
          "scrub point", told="scrub: block"),
)  # fmt: skip
