"""Silent divergence, planted in a stopped mirror's copy: content and digest are changed together, so that nothing
that the copy can check by itself is wrong."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import numpy as np

from revolume.blocks.digest import fragment_digest
from revolume.host import real_host
from revolume.volume.image.digest_writer import DigestWriter
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest import load
from revolume.volume.open.open import open_secondary
from revolume.volume.open.options import OpenOptions

BLOCK = 4096


def plant_in_image(directory: Path, contents: dict[int, bytes]) -> None:
    """In the image and its page of digests: for blocks of which the log holds no newer version."""
    with closing(real_host().disk.open(str(directory))) as held:
        state = load(held).state
        horizon = state.horizon
        with closing(DigestWriter.open_to_change(held, state.volume, horizon.pages_generation)) as sums:
            with closing(held.open(layout.IMAGE)) as image:
                for block, content in contents.items():
                    assert len(content) == BLOCK
                    image.pwritev([content], block * BLOCK)
                image.datasync()
            blocks = np.array(sorted(contents), np.uint64)
            digests = np.array([fragment_digest(contents[block]) for block in sorted(contents)], np.uint64)
            sums.put(blocks, digests)
            facts = sums.facts
            sums.commit(facts.write, facts.address, facts.point, facts.generation)


def plant_in_log(directory: Path, contents: dict[int, bytes]) -> None:
    """In the log: as blocks that the copy was sent whole for the point at which it stands."""

    async def plant() -> None:
        host = real_host()
        copy = await open_secondary(host, str(directory), OpenOptions())
        try:
            await copy.point_applier._stored(copy.agreed, sorted(contents.items()), copy.agreed.record)
        finally:
            await copy.close()
            await host.work.close()

    asyncio.run(plant())
