"""What a target does before anything of a session's rule comes: nothing is received meanwhile.

Where the copy goes on, it is told first what its source says that it had acknowledged, and how large a transfer
may be; and each way the server hears that the session has begun.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from revolume.mirror.catch_up_plan import SourceFacts, point_in_common
from revolume.mirror.copy_protocols import CopyDirectory, TargetVolume
from revolume.mirror.link import finish_uncancelled
from revolume.mirror.target.block_stores import DifferenceStore, jump_target
from revolume.mirror.wire.begin_messages import Begin
from revolume.mirror.wire.greeting_messages import Hello, Welcome


class Preparation:
    """For one session, by what both ends have said. ``begun`` is awaited once the session may begin."""

    def __init__(
        self,
        directory: CopyDirectory,
        hello: Hello,
        welcome: Welcome,
        begin: Begin,
        begun: Callable[[], Awaitable[None]],
    ) -> None:
        self._directory = directory
        self._hello = hello
        self._welcome = welcome
        self._begin = begin
        self._begun = begun

    def _copy(self) -> TargetVolume:
        """The one that is here; no rule but that of a base is found without one."""
        assert self._directory.secondary is not None
        return self._directory.secondary

    async def log(self) -> TargetVolume:
        """The copy to which the log comes; one that is made, if its base comes with it."""
        hello, start = self._hello, self._begin.start
        if start is not None:
            created = self._directory.create(hello.volume, hello.name, start, self._welcome.seeded)
            volume = await finish_uncancelled(created)
        else:
            volume = self._copy()
        await volume.bound.told(hello.acknowledged)
        await volume.bound.bounded(hello.largest_blocks)
        await volume.bound.follows()
        await self._begun()
        return volume

    async def difference(self) -> tuple[DifferenceStore, int, int]:
        """Where the changed blocks go, the point to which they lead, and the block from which on they are missing.
        What comes is kept beside the copy's state; what an earlier session brought of the same goes on."""
        volume, start = self._copy(), self._begin.start
        assert start is not None
        await volume.bound.told(self._hello.acknowledged)
        await volume.bound.bounded(self._hello.largest_blocks)
        await self._begun()
        await finish_uncancelled(volume.begin_jump(jump_target(start, volume.agreed.number)))
        staged = volume.jump
        assert staged is not None
        return DifferenceStore(volume, self._directory.finish_jump), start.number, staged.next_block

    async def take_back(self) -> str:
        """The copy goes back to the point that both ends have, as the sentence says; the session after this one
        goes on from there."""
        begin, end = self._begin, self._welcome.end
        facts = SourceFacts(self._hello, begin.at_target_end, begin.pin, common=begin.common)
        point = point_in_common(facts, self._welcome)
        assert point is not None
        await self._begun()
        name = f"opening{end.epoch}-w{end.write}"
        return await finish_uncancelled(self._directory.take_back(point, name))
