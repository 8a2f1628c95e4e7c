"""The points at which this copy was promoted, kept until every member has been seen since.

A member that was away may have gone another way behind such a point: the former primary, or a mirror that it fed.
As long as the point is pinned, that member can go back to it and be brought up to date from there. It is let go of
once every mirror has joined and no former primary is left among the members: it has become a mirror, or was given
up by 'revolume detach'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from revolume.blocks.numbers import WriteNumber
from revolume.errors import RevolumeError
from revolume.volume.metadata.fork import Fork
from revolume.volume.metadata.manifest_edits import EditKind, pack_number
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.space.holder import HolderKind
from revolume.volume.space.holders import Holders
from revolume.volume.state.events import EventKind, Events
from revolume.volume.uncancelled_tasks import UncancelledTasks

FORKS_MAX: Final = 4
"""So many are kept; of more the oldest goes."""


class Forks:
    """Of one open primary."""

    def __init__(
        self, *, manifest: ManifestWriter, holders: Holders, events: Events, tasks: UncancelledTasks
    ) -> None:
        self._manifest = manifest
        self._events = events
        self._tasks = tasks
        self._held: dict[int, Callable[[], None]] = {
            fork.opening: holders.lease(
                HolderKind.UNDER_WAY, f"fork of opening {fork.opening}", WriteNumber(fork.write), pinned=True
            )
            for fork in manifest.state.forks
            if _standing(manifest.state, fork)
        }
        self._dropping = False

    def look(self) -> None:
        """Let go of what nobody needs any more, after a change among the members."""
        if not self._dropping and self._unneeded():
            self._dropping = True
            self._tasks.begin(self._drop())

    def _unneeded(self) -> list[Fork]:
        state = self._manifest.state
        return list(state.forks[: -FORKS_MAX or None]) if unseen(state) else list(state.forks)

    async def _drop(self) -> None:
        try:
            for fork in self._unneeded():
                await self._manifest.record((EditKind.DROP_FORK, pack_number(fork.opening)))
                self._held.pop(fork.opening, lambda: None)()
        except RevolumeError as error:
            self._events.tell(f"a fork point is kept on: {error}", EventKind.TROUBLE)
        finally:
            self._dropping = False


def unseen(state: State) -> list[str]:
    """Names of the members that have not been seen since this copy was promoted."""
    mirrors = {mirror.node for mirror in state.mirrors}
    former = [
        member.name for member in state.members
        if member.mode is None and member.node != state.node and member.node not in mirrors
    ]  # fmt: skip
    return [mirror.name for mirror in state.mirrors if not mirror.joined] + former


def _standing(state: State, fork: Fork) -> bool:
    """Whether it can still be read: the horizon has not left it without rescuing for it."""
    return fork.write >= state.horizon.write or any(r.moment.write == fork.write for r in state.rescues)
