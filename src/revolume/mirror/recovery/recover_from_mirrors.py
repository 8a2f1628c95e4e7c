"""Before a primary opens after an unclean stop: its mirrors are asked for a longer end of its log.

A write is answered in ``sync`` mode when it is in the log files of both nodes, and what a power cut took from
this one's page cache it did not take from the mirror's. So every mirror that has joined is asked, whatever becomes
of the others, and what any of them has is taken. As long as a required one can't be asked, or can't prove what it
has, the volume stays closed: or it is opened *alone*, with what the others have, and it is told how far each
mirror that was not asked is known to have been, and the bound of what may be missing. An async mirror is asked as
well, if it answers soon; nothing was promised of it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from revolume.errors import Refused, RevolumeError
from revolume.history.moments import format_time
from revolume.host import Host
from revolume.host.error_text import error_text
from revolume.mirror.recovery.tail_fetcher import FetchedTail, fetch_tail
from revolume.mirror.target.target import NODE_TWICE
from revolume.mirror.wire.tail_messages import Fetch
from revolume.volume.members.mirrors import missing
from revolume.volume.members.replace import known_of
from revolume.volume.metadata.manifest_state import MirrorState, State
from revolume.volume.open.options import OpenOptions
from revolume.volume.open.tail_catch_up import ANOTHER_PRIMARY, TailCatchUp, open_tail_catch_up, unclean_primary

REQUIRED_SECONDS: Final = 10.0
ASYNC_SECONDS: Final = 5.0
"""Also a required mirror's, when the volume is opened whether it answers or not."""
PAUSE_SECONDS: Final = 0.25
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MirrorAddress:
    """Where a mirror is said to be."""

    name: str
    address: str
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking one mirror: ``problem`` is a sentence, or empty where it has proved what it has."""

    mirror: MirrorState
    place: MirrorAddress
    problem: str = ""
    code: str = ""

    @property
    def told(self) -> str:
        """For a person: what is known of this mirror."""
        if not self.problem:
            return f"mirror {self.mirror.name} at {self.place.address} was asked, and what it has is here"
        why = self.problem.rstrip(".")
        return f"mirror {self.mirror.name} at {self.place.address}: {why}; {known_of(self.mirror)}"


async def fetch_longer_tail(
    host: Host,
    path: str,
    options: OpenOptions,
    places: Sequence[MirrorAddress],
    context: ssl.SSLContext | None,
    alone: bool,
    tell: Tell,
) -> None:
    """Take from each mirror that has joined what this node's log lacks. Refused: a required mirror is not named,
    or does not answer, or holds another log."""
    state = await host.work.call(unclean_primary, host, path)
    joined = {mirror.name: mirror for mirror in state.mirrors if mirror.joined} if state is not None else {}
    _refuse_unnamed(joined, {place.name for place in places})
    if state is None or not joined:
        return
    tail = await open_tail_catch_up(host, path, options)
    try:
        asking = _Inquiry(host, state, tail, context, alone, tell)
        asked = [await asking.ask(place, joined[place.name]) for place in places if place.name in joined]
        unproved = [each for each in asked if each.problem and each.mirror.required]
        if superseded := next((each for each in asked if each.code == ANOTHER_PRIMARY), None):
            raise _superseded(superseded)
        if unproved and not alone:
            raise _closed([each for each in asked if each.mirror.required])
        if unproved:
            tell(_bound(tail, options, asked))
    finally:
        await tail.close()


def _refuse_unnamed(joined: dict[str, MirrorState], named: set[str]) -> None:
    for mirror in joined.values():
        if mirror.required and mirror.name not in named:
            raise missing(mirror.name)


def _sentence(asked: Sequence[Asked]) -> str:
    text = ". ".join(each.told[0].upper() + each.told[1:] for each in asked)
    return f"{text}."


def _bound(tail: TailCatchUp, options: OpenOptions, asked: Sequence[Asked]) -> str:
    """What may be missing, said before it is gone for good."""
    end, mib = tail.end, options.unsynced_bytes_max >> 20
    names = ", ".join(each.mirror.name for each in asked if each.problem and each.mirror.required)
    return (
        f"Opened alone, without asking {names}. {_sentence(asked)} The log here ends with w{end.write} (position "
        f"{end.position}) of {format_time(end.time_ns)}. If this machine lost power, what was answered after that "
        f"may be missing: at most the writes of {options.sync_interval_s:g} s and of {mib} MiB, which were not on "
        "its disk yet."
    )


class _Inquiry:
    """One opening that asks."""

    def __init__(
        self, host: Host, state: State, tail: TailCatchUp, context: ssl.SSLContext | None, alone: bool, tell: Tell
    ) -> None:
        self._host = host
        self._state = state
        self._tail = tail
        self._context = context
        self._alone = alone
        self._tell = tell

    async def ask(self, place: MirrorAddress, mirror: MirrorState) -> Asked:
        """Take what this mirror has behind our end."""
        before = self._tail.received
        try:
            insists = mirror.required and not self._alone
            fetched = await (self._insist(place, mirror) if insists else self._fetch(place, mirror, ASYNC_SECONDS))
        except (OSError, RevolumeError) as error:
            if not mirror.required:
                self._tell(f"Mirror {place.name} was not asked for a longer log: {error_text(error)}")
            cause = error.cause if isinstance(error, RevolumeError) else error_text(error)
            return Asked(mirror, place, f"it can't be asked: {cause}", getattr(error, "code", ""))
        finally:
            self._tell_more(place, self._tail.received - before)
        if fetched.short or fetched.mirror.position < mirror.durable:
            problem = f"it holds less than it had acknowledged, its log ends at position {fetched.mirror.position}"
            return Asked(mirror, place, problem)
        return Asked(mirror, place)

    def _tell_more(self, place: MirrorAddress, more: int) -> None:
        if more:
            self._tell(f"Mirror {place.name} had a longer log: {more} transfers were fetched from it.")

    async def _insist(self, place: MirrorAddress, mirror: MirrorState) -> FetchedTail:
        """It may be starting too; or what we sent before the stop is still arriving there."""
        clock = self._host.clock
        deadline = clock.monotonic_ns() + int(REQUIRED_SECONDS * 1e9)
        while True:
            try:
                return await self._fetch(place, mirror, REQUIRED_SECONDS)
            except (OSError, RevolumeError) as error:
                passes = isinstance(error, OSError) or error.code == NODE_TWICE
                if not passes or clock.monotonic_ns() >= deadline:
                    raise
            await clock.sleep(PAUSE_SECONDS)

    async def _fetch(self, place: MirrorAddress, mirror: MirrorState, seconds: float) -> FetchedTail:
        tail, state = self._tail, self._state
        context = None if place.address.startswith("unix:") else self._context
        fetch = Fetch(state.volume, state.node, tail.end, mirror.node)
        name = place.peer if place.peer is not None else mirror.peer
        return await fetch_tail(
            self._host, place.address, context, fetch, tail, state.largest_transfer, seconds, name or None
        )


def _closed(asked: Sequence[Asked]) -> Refused:
    names = [each.mirror.name for each in asked if each.problem]
    others = "with what the other mirrors have, " if len(asked) > len(names) else ""
    return Refused(
        "mirror-not-asked",
        "The volume was not closed cleanly, and answered writes that are missing here may live on a required "
        f"mirror that does not prove what it has. {_sentence(asked)}",
        f"Start mirror {names[0]}. If it is gone for good, give it up with 'revolume detach DIR {names[0]}'. "
        f"Opening with --alone goes on {others}and says what may be lost. Or promote a mirror instead.",
    )


def _superseded(asked: Asked) -> Refused:
    return Refused(
        ANOTHER_PRIMARY,
        f"Another node has been primary since: {_sentence([asked])}",
        "Serve the one that is the primary; make this one its mirror with 'revolume demote DIR'. If that mirror's "
        f"log does not count, give it up with 'revolume detach DIR {asked.mirror.name}' first.",
    )
