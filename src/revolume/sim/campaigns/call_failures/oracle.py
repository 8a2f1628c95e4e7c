"""What a volume shows, held against the model. It is read in one piece; by blocks only where some are lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.errors import RevolumeError
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import open_view
from revolume.sim.campaigns.call_failures.case import Found
from revolume.sim.checks.clean import check_clean
from revolume.sim.kernel.machine import Machine
from revolume.sim.kernel.simulated_fs import Platter
from revolume.sim.oracle.corruption_oracle import Readable
from revolume.sim.oracle.model import Model, blocks_of
from revolume.volume.volume_base import OpenVolume

LOST = re.compile(r"block (\d+) could not be read any more when it was made$")


class Oracle:
    """Blocks that were said to be lost are errors from then on, and for the model anything. ``paused``: how faults
    are kept away from what is read ``unwatched``."""

    def __init__(self, model: Model, found: Found) -> None:
        self.model = model
        self.paused: Callable[[], AbstractContextManager[None]] = nullcontext
        self._found = found

    async def unwatched(self, volume: Readable) -> bytearray:
        """All of it, whatever fails else."""
        with self.paused():
            return await self.content(volume)

    async def content(self, volume: Readable) -> bytearray:
        """All of it."""
        content = bytearray(self.model.size)
        if not self._found.lost:
            await volume.read(0, memoryview(content))
            return content
        for at in range(0, len(content), BLOCK):
            try:
                await volume.read(at, memoryview(content)[at : at + BLOCK])
            except RevolumeError:
                if at // BLOCK not in self._found.lost:
                    raise
        return content

    def number_of(self, content: bytearray) -> int | None:
        """The newest number at which it was this, lost blocks excepted."""
        lost = self._found.lost
        if not lost:
            return self.model.find(content)
        have = {block: data for block, data in blocks_of(content).items() if block not in lost}
        for number, blocks in sorted(self.model.moments.items(), reverse=True):
            if have == {block: data for block, data in blocks.items() if block not in lost}:
                return number
        return None

    def checked(self, machine: Machine, who: str, platter: Platter | None = None) -> list[str]:
        """What check has against its disk, but for blocks that were said to be lost: those are errors from now on,
        where that may be."""
        said = check_clean(machine, platter or machine.platter, who)
        lost = {int(found[1]) for one in said if (found := LOST.search(one))}
        if lost and self._found.may_lose:
            self._found.lost |= lost
            said = [one for one in said if not LOST.search(one)]
        return said

    async def look(self, volume: OpenVolume, number: int) -> None:
        """Into its past: it is what it was then."""
        view = await open_view(volume, ResolvedMoment(WriteNumber(number), 0), "nth")
        try:
            content = await self.content(view.reader)
        finally:
            view.close()
        blocks = self.model.at(number)
        for block in self._found.lost:
            content[block * BLOCK : (block + 1) * BLOCK] = blocks.get(block, bytes(BLOCK))
        if differs := self.model.differs(number, content):
            self._found.wrong.append(f"@w{number}: {differs}")
