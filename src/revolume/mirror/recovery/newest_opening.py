"""Before a primary opens: does another node know a newer opening of the volume?

Its mirrors are asked; who does not answer soon is not waited for. If one knows a newer opening than this directory
does, another node has been primary since, and what would be written here would go apart from it. That nobody knows
of one proves nothing. A mirror that was given up is not asked: by that order a primary opens all the same.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Final

from revolume.errors import NotFound, Refused, RevolumeError
from revolume.host import Host
from revolume.host.clock import within
from revolume.mirror.recovery.examine import examine
from revolume.mirror.recovery.recover_from_mirrors import MirrorAddress
from revolume.mirror.wire.codec import NOWHERE
from revolume.mirror.wire.examine_messages import Examined
from revolume.mirror.wire.tail_messages import Fetch
from revolume.volume.metadata.manifest_state import Role, State
from revolume.volume.open.directory_state import stated
from revolume.volume.open.tail_catch_up import ANOTHER_PRIMARY

ANSWER_SECONDS: Final = 2.0


async def refuse_superseded(
    host: Host, path: str, places: Sequence[MirrorAddress], context: ssl.SSLContext | None
) -> None:
    """Refused if a node at one of these places knows a newer opening of the volume in ``path``."""
    state = await host.work.call(_primary, host, path)
    if state is None:
        return
    answers = await asyncio.gather(*(_ask(host, state, place, context) for place in places))
    for place, found in zip(places, answers, strict=True):
        if found is not None and found.whole and found.volume == state.volume:
            _refuse_newer(state, place, found)


def _primary(host: Host, path: str) -> State | None:
    """What the directory says; None: there is no primary that has been opened before."""
    try:
        state = stated(host.disk, path)
    except (FileNotFoundError, NotADirectoryError, NotFound):
        return None
    return state if state.role == Role.PRIMARY and state.epochs else None


async def refuse_taken_over(host: Host, state: State, context: ssl.SSLContext | None) -> None:
    """Before a copy that was the primary is promoted: refused if one of the mirrors that it had knows a newer
    opening; or if it has handed over to one that can't be asked whether it has taken over."""
    places = [MirrorAddress(m.name, m.address, m.peer) for m in state.mirrors if m.address]
    answers = await asyncio.gather(*(_ask(host, state, place, context) for place in places))
    for place, found in zip(places, answers, strict=True):
        if found is not None and found.whole and found.volume == state.volume:
            _refuse_newer(state, place, found)
        elif place.name == state.handed_to:
            raise handed_over(state)


def handed_over(state: State) -> Refused:
    """The node to which this one has handed over can't be asked what became of that."""
    return Refused(
        "handover-unanswered",
        f"This copy of {state.name} has handed over to {state.handed_to}, which can't be asked whether it has "
        "taken over: if it has, there would be two primaries.",
        f"Look at {state.handed_to}. If it is no primary, or is gone for good, promote this one with --force.",
    )


async def _ask(host: Host, state: State, place: MirrorAddress, context: ssl.SSLContext | None) -> Examined | None:
    """None: it does not answer."""
    question = Fetch(state.volume, state.node, NOWHERE)
    try:
        return await within(
            host.clock, ANSWER_SECONDS, examine(host, place.address, context, question, place.peer or None)
        )
    except (OSError, RevolumeError):
        return None


def _refuse_newer(state: State, place: MirrorAddress, found: Examined) -> None:
    known = max([found.end.epoch, *(epoch.number for epoch in found.epochs)])
    if known > state.epochs[-1].number:
        raise Refused(
            ANOTHER_PRIMARY,
            f"{place.name} at {place.address} knows opening {known} of {state.name}; the last one here "
            f"is {state.epochs[-1].number}: another node has been primary since.",
            "Serve the one that is the primary; make this one its mirror with 'revolume demote DIR'. If that node "
            f"does not count, give it up with 'revolume mirror remove DIR {place.name}' first.",
        )
