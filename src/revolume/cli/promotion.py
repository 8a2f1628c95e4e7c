"""A mirror becomes a primary: in a running service without its listeners going, or in its directory.

    asked → the addresses that it takes over are bound, or it is refused
          → refused while the source lives or the base is not whole
          → nothing is offered, connections end, views close, the source's listener goes
          → the copy is closed and opened as primary (``OpenOptions.promote``); it is offered
          → the addresses are served

If it can't be opened as primary it is served as the mirror that it was, and the error is the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from revolume.api.shapes import PromotedShape
from revolume.cli.mirror import LACKS_HINT, SecondaryRole, open_mirror
from revolume.cli.offered import Offered
from revolume.cli.primary import PrimaryRole
from revolume.cli.role import Role, open_options
from revolume.cli.serving import Serving
from revolume.cli.takeover import reserve
from revolume.errors import Refused, RevolumeError
from revolume.history.moments import SPAN_SECONDS_MAX
from revolume.host import Host, real_host
from revolume.nbd.server import Server
from revolume.volume.manifest import Role as Kept
from revolume.volume.manifest import load
from revolume.volume.opening import open_volume
from revolume.volume.options import OpenOptions

_GRACE_S: Final = 2.0
_ALL_ROOM: Final = 1 << 60


class Promotion:
    """Of a running service's volume. ``become`` is called with the role that is served from then on, ``announce``
    with the URIs of what it listens at besides."""

    def __init__(
        self,
        host: Host,
        asked: Serving,
        server: Server,
        offered: Offered,
        become: Callable[[Role], None],
        announce: Callable[[tuple[str, ...]], None],
        tell: Callable[[str], None],
    ) -> None:
        self._host = host
        self._asked = asked
        self._server = server
        self._offered = offered
        self._become = become
        self._announce = announce
        self._tell = tell
        self._turn = asyncio.Lock()

    async def promote(
        self, current: Callable[[], Role], addresses: Sequence[str], others: Sequence[str] = (), yes: bool = False
    ) -> PromotedShape:
        """Make the mirror a primary, which listens at ``addresses`` too. Refused, or why it can't be opened;
        without ``yes`` also if a mirror at one of the ``others`` has more, or if this one lacks what it had
        acknowledged."""
        async with self._turn:
            role = current()
            if not isinstance(role, SecondaryRole):
                raise Refused("is-primary", f"{role.name} is a primary already.", "There is nothing to be done.")
            takeover = await reserve(self._server, self._asked, addresses)
            try:
                role.refuse_promotion(yes)
                if others and not yes:
                    await role.refuse_shorter(others)
                    role.refuse_promotion(yes)  # its source may have come back while they were asked
                told = await self._promoted(role)
            except BaseException:
                takeover.close()
                raise
            found = takeover.open(told.name)
            self._announce(found)
            return replace(told, nbd=found)

    async def _promoted(self, mirror: SecondaryRole) -> PromotedShape:
        self._offered.withdraw(Refused("promoting", "The mirror is being promoted.", "Try again in a moment."))
        await self._server.dismiss(_GRACE_S)
        await mirror.close()
        try:
            options = open_options(self._asked, promote=True)
            volume = await open_volume(self._host, self._asked.directory, options)
        except BaseException:
            await self._fall_back()
            raise
        primary = PrimaryRole(self._host, volume, self._tell)
        self._become(primary)
        self._tell(f"{volume.name} is a primary now, opening {volume.epoch}.")
        return PromotedShape(volume.name, "primary", volume.epoch, volume.write, volume.core.last.number)

    async def _fall_back(self) -> None:
        try:
            self._become(await open_mirror(self._host, self._asked, self._tell))
        except (OSError, RevolumeError) as error:
            self._become(SecondaryRole(self._host, self._asked, self._tell, f"It could not be opened: {error}"))


async def promote_stopped(directory: str, yes: bool = False) -> PromotedShape:
    """Open the mirror in ``directory`` as primary once, and close it cleanly. No history is let go."""
    host = real_host()
    try:
        await host.work.call(_refuse_primary, host, directory, yes)
        options = OpenOptions(
            keep_s=SPAN_SECONDS_MAX, budget_bytes=_ALL_ROOM, budget_once=True, spare_bytes=0, promote=True
        )
        volume = await open_volume(host, directory, options)
        told = PromotedShape(volume.name, "primary", volume.epoch, volume.write, volume.core.last.number)
        await volume.close()
        return told
    finally:
        await host.work.close()


def _refuse_primary(host: Host, path: str, yes: bool) -> None:
    directory = host.disk.open(path)
    try:
        state = load(directory).state
    finally:
        directory.close()
    if state.role == Kept.PRIMARY:
        raise Refused("is-primary", f"{state.name} in {path} is a primary already.", "Serve it.")
    held = max(state.durable.position, state.clean.position if state.clean else 0)
    if state.owes > held and not yes:
        raise Refused(
            "lacks-acknowledged", f"This mirror had acknowledged the log up to position {state.owes}, and holds "
            f"it up to {held}: its directory is an older state of itself.", LACKS_HINT,
        )  # fmt: skip
