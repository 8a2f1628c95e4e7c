"""What a refusal advises, and who follows it: a mirror that can't go on is made anew, or given more room."""

from __future__ import annotations

from dataclasses import replace

from revolume.sim.worlds.pair.link import PairLink
from revolume.sim.worlds.world import MiB


class PairAdvice(PairLink):
    """See the module's text."""

    async def _advised(self) -> None:
        """Do as we were told. Only what was detached, lost for want of room, or has what its source lost, may be
        told to begin anew."""
        if self._no_room(0):
            await self._more_room()
        lost = self.primary is not None and any(mirror.lost for mirror in self.primary.volume.mirrors)
        given_up = self._detached_at is not None and self._was_told("Create the mirror anew", self._detached_at)
        if lost or given_up or (self._may_part is not None and self._refused(self._may_part)):
            await self.op_wipe_mirror()

    def _was_told(self, what: str, since: int) -> bool:
        return any(what in told for told in self.told[since:])

    def _refused(self, since: int) -> bool:
        return self._was_told("are not of the log", since) or self._was_told("log goes on to", since)

    def _no_room(self, since: int) -> bool:
        """A mirror keeps what snapshots hold as its source does, but may have less room for it."""
        return self._was_told("The log can't grow", since) or self._was_told("The mirror needs", since)

    async def _more_room(self) -> None:
        """A bigger disk, and leave to use it."""
        for machine in (self.first, self.second):
            machine.platter.capacity *= 4
            self._asked[machine.name] = replace(self._asked[machine.name], budget_bytes=256 * MiB)
        await self.op_stop_mirror()
        await self.op_stop()
