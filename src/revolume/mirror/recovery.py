"""Before a primary opens after an unclean stop: its mirrors are asked for a longer end of its log.

A write is answered in ``sync`` mode when it is in the log files of both nodes, and what a power cut took from
this one's page cache it did not take from the mirror. So every required mirror is asked first, and as long as one
of them can't be, the volume stays closed: or it is opened *alone*, and the bound of what may be missing is told.
An async mirror is asked as well, if it answers soon; nothing was promised of it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from revolume.errors import Refused, RevolumeError
from revolume.history.moments import format_time
from revolume.host import Host
from revolume.host.words import spoken
from revolume.mirror.fetch import Fetched, fetch_tail
from revolume.mirror.messages import Fetch
from revolume.mirror.target import NODE_TWICE
from revolume.volume.longer_tail import LongerTail, left_behind, open_longer_tail
from revolume.volume.manifest import MirrorMode, MirrorState, State
from revolume.volume.mirrors import missing
from revolume.volume.options import OpenOptions

REQUIRED_SECONDS: Final = 10.0
ASYNC_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.25
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where a mirror is said to be."""

    name: str
    address: str


async def fetch_longer_tail(
    host: Host,
    path: str,
    options: OpenOptions,
    places: Sequence[Elsewhere],
    context: ssl.SSLContext | None,
    alone: bool,
    tell: Tell,
) -> None:
    """See the module's text. Refused: a required mirror is not named, or does not answer, or holds another log."""
    state = await host.work.call(left_behind, host, path)
    joined = {mirror.name: mirror for mirror in state.mirrors if mirror.joined} if state is not None else {}
    _refuse_unnamed(joined, {place.name for place in places})
    if state is None or not joined:
        return
    asked = [place for place in places if place.name in joined and not (alone and _required(joined[place.name]))]
    tail = await open_longer_tail(host, path, options)
    try:
        for place in asked:
            await _Asking(host, state, tail, context, tell).ask(place, _required(joined[place.name]))
        if len(asked) < len(joined) and alone:
            tell(_bound(tail, options, [name for name in joined if _required(joined[name])]))
    finally:
        await tail.close()


def _refuse_unnamed(joined: dict[str, MirrorState], named: set[str]) -> None:
    for mirror in filter(_required, joined.values()):
        if mirror.name not in named:
            raise missing(mirror.name)


def _required(mirror: MirrorState) -> bool:
    return mirror.joined and mirror.mode == MirrorMode.SYNC


def _bound(tail: LongerTail, options: OpenOptions, names: list[str]) -> str:
    """What may be missing, said before it is gone for good."""
    end, mib = tail.end, options.unsynced_bytes_max >> 20
    return (
        f"Opened alone, without asking {', '.join(names)}. The log here ends with w{end.write} of "
        f"{format_time(end.time_ns)}. If this machine lost power, what was answered after that may be missing: "
        f"at most the writes of {options.sync_interval_s:g} s and of {mib} MiB, which were not on its disk yet."
    )


class _Asking:
    """One opening that asks."""

    def __init__(
        self, host: Host, state: State, tail: LongerTail, context: ssl.SSLContext | None, tell: Tell
    ) -> None:
        self._host = host
        self._state = state
        self._tail = tail
        self._context = context
        self._tell = tell

    async def ask(self, place: Elsewhere, required: bool) -> None:
        """Take what this mirror has behind our end."""
        before = self._tail.received
        try:
            await (self._insist(place) if required else self._fetch(place, ASYNC_SECONDS))
        except (OSError, RevolumeError) as error:
            if required:
                raise _closed(place, error) from error
            self._tell(f"Mirror {place.name} was not asked for a longer log: {spoken(error)}")
            return
        more = self._tail.received - before
        if more:
            self._tell(f"Mirror {place.name} had a longer log: {more} transfers were fetched from it.")

    async def _insist(self, place: Elsewhere) -> None:
        """It may be starting too; or what we sent before the stop is still arriving there."""
        clock = self._host.clock
        deadline = clock.monotonic_ns() + int(REQUIRED_SECONDS * 1e9)
        while True:
            try:
                await self._fetch(place, REQUIRED_SECONDS)
                return
            except (OSError, RevolumeError) as error:
                passes = isinstance(error, OSError) or error.code == NODE_TWICE
                if not passes or clock.monotonic_ns() >= deadline:
                    raise
            await clock.sleep(PAUSE_SECONDS)

    async def _fetch(self, place: Elsewhere, seconds: float) -> Fetched:
        tail, state = self._tail, self._state
        context = None if place.address.startswith("unix:") else self._context
        fetch = Fetch(state.volume, state.node, tail.end)
        return await fetch_tail(self._host, place.address, context, fetch, tail, state.segment_blocks, seconds)


def _closed(place: Elsewhere, error: Exception) -> Refused:
    return Refused(
        "mirror-not-asked",
        f"The volume was not closed cleanly, and mirror {place.name} at {place.address}, which may hold answered "
        f"writes that are missing here, can't be asked: {spoken(error)}",
        "Start the mirror; or open with --alone, which says what may be lost; or promote the mirror instead.",
    )
