"""A scrub on a fair disk finds nothing, whatever goes on beside it, and finds what the medium has not kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from revolume.blocks.digest import LOST_DIGEST
from revolume.blocks.geometry import BLOCK
from revolume.errors import RevolumeError
from revolume.host.clock import within
from revolume.pace.pacer import Pacer
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.disk import SimFile
from revolume.sim.kernel.monkeypatch import patched
from revolume.volume.scrub.scrubber import Scrubbed
from revolume.volume.volume_base import OpenVolume


async def check_scrubbed(volume: OpenVolume, chance: Chance, who: str) -> list[str]:
    """A pass from the place where the last one was left, to its end or for a while only. What a scrub may meet on
    a disk that fails or is full is raised: RevolumeError, OSError."""
    seconds = chance.choice((0.01, 0.3, 600.0, 600.0))
    try:
        found = await within(volume.context.host.clock, seconds, _scrubbed(volume))
    except TimeoutError:
        counts = volume.scrubber.record.counts
        return [f"{who}: a scrub found {counts.damaged} places damaged"] if counts.damaged else []
    return [f"{who}: scrub: {told}" for told in found.found]


async def check_scrub_finds(volume: OpenVolume, chance: Chance, who: str) -> list[str]:
    """One block of the image rots on the medium, beneath a page cache that has it as it was: a pass must name it,
    and nothing else, unless the image has no such block any more, or is just being folded into."""
    blocks = _in_image(volume)
    if not blocks:
        return []
    block = chance.choice(blocks)
    await volume.scrubber.give_up()
    with patched([(SimFile, "preadv_medium", _rotten(block))]):
        found = await _scrubbed(volume)
    named = [told for told in found.found if told.startswith(f"block {block} at image")]
    wrong = [f"{who}: scrub: {told}" for told in found.found if told not in named]
    moved = block not in _in_image(volume) or volume.folder.retired_write > volume.image.horizon.write
    if not named and not moved:
        wrong.append(f"{who}: block {block} of the image has rotted, and a scrub of all did not find it")
    return wrong


async def _scrubbed(volume: OpenVolume) -> Scrubbed:
    clock = volume.context.host.clock
    return await volume.scrubber.run((Pacer(clock),), lambda stage, done, total: None)


def _in_image(volume: OpenVolume) -> Sequence[int]:
    """Blocks that the image has. Nothing where its digests are just being exchanged."""
    try:
        pieces = list(volume.image.digests.chunks())
    except (RevolumeError, OSError):
        return []
    lost = np.uint64(LOST_DIGEST)
    return [block for blocks, digests in pieces for block in blocks[digests != lost].tolist()]


def _rotten(block: int) -> Any:
    def preadv_medium(file: SimFile, buffers: Sequence[memoryview], offset: int) -> int:
        count = file.preadv(buffers, offset)
        at = block * BLOCK + 77 - offset
        if file.name == "image" and 0 <= at < count:
            buffers[0][at] ^= 1
        return count

    return preadv_medium
