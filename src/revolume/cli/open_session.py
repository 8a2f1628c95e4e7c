"""The way into a volume's content for a verb: NBD on the volume's own socket, whoever serves it.

If the volume runs, its socket is there. If not, it is opened and served here for as long as the verb works; so
copy and bisect have one way of reading and need not know which it was. A stopped volume is read without changing
anything in it (``looking.py``). One that is written to keeps its whole history: nothing that its usual options
would keep is let go, whatever they are.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from revolume.cli.addresses import own_address
from revolume.cli.remote import NbdRemote, connected
from revolume.cli.serving import Serving
from revolume.cli.target import holds_volume, trusted, wanted_name
from revolume.history.moments import SPAN_SECONDS_MAX
from revolume.host import Host, real_host
from revolume.nbd.uri import uri

if TYPE_CHECKING:
    from revolume.api.client import ControlClient
    from revolume.cli.service import Service

ALL_ROOM: Final = 1 << 60
_SOCKET_PATH_BYTES_MAX: Final = 107


class Questions(Protocol):
    """What a verb asks of a volume besides its content."""

    async def oldest(self) -> int:
        """The first write that is retained."""

    async def points(self) -> list[dict[str, Any]]:
        """The retained points, oldest first."""

    async def moment(self, text: str) -> dict[str, Any]:
        """What a moment is. Raises NotFound, UsageError."""


class Door:
    """A volume that is being served, by whomever."""

    def __init__(self, host: Host, way: str, questions: Questions) -> None:
        self._host = host
        self._address = own_address(way)
        self.oldest = questions.oldest
        self.points = questions.points
        self.moment = questions.moment

    def uri(self, export: str) -> str:
        """The export's URI, for other programs."""
        return uri(self._address, export)

    def remote(self, export: str) -> AbstractAsyncContextManager[NbdRemote]:
        """The export over NBD."""
        return connected(self._host, self.uri(export))


@asynccontextmanager
async def open_door(directory: str, *, create_size: int | None = None) -> AsyncIterator[Door]:
    """The volume in ``directory``; with ``create_size``, a new one of that size if there is none."""
    from revolume.api.client import connect

    trusted(directory)
    async with AsyncExitStack() as ends:
        host = real_host()
        ends.push_async_callback(host.work.close)
        way = ends.enter_context(short_way(directory))
        client = connect(directory)
        if client is not None:
            ends.enter_context(client)
            yield Door(host, way, Running(client))
            return
        log_nothing()
        if create_size is None:
            from revolume.cli.looking import looked_into

            yield await ends.enter_async_context(looked_into(directory))
        else:
            from revolume.cli.service import served

            service = await ends.enter_async_context(served(quiet(directory, create_size)))
            yield Door(host, way, Own(service))


def log_nothing() -> None:
    """What a service would log; a verb prints its result, or the error."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@contextmanager
def short_way(directory: str) -> Iterator[str]:
    """A path to ``directory`` short enough that other programs can reach a socket in it."""
    straight = os.path.abspath(directory)
    if len(os.fsencode(own_address(straight).removeprefix("unix:"))) <= _SOCKET_PATH_BYTES_MAX:
        yield straight
        return
    with tempfile.TemporaryDirectory(prefix="revolume-") as place:
        link = os.path.join(place, "v")
        os.symlink(straight, link)
        yield link


def quiet(directory: str, create_size: int | None = None) -> Serving:
    """A service for ourselves: it lets no history go and prepares little for the future."""
    new = create_size is not None and not holds_volume(directory)
    return Serving(
        directory=directory,
        addresses=(own_address(directory),),
        name=wanted_name(directory) if new else None,
        size=create_size if new else None,
        keep_s=SPAN_SECONDS_MAX,
        budget_bytes=ALL_ROOM,
        budget_once=True,
        spare_bytes=0,
        control=False,
    )


class Running:
    """A volume that another process serves, asked over its control socket."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    async def oldest(self) -> int:
        return int((await asyncio.to_thread(self._client.status))["horizon_write"])

    async def points(self) -> list[dict[str, Any]]:
        return list((await asyncio.to_thread(self._client.points))["points"])

    async def moment(self, text: str) -> dict[str, Any]:
        return dict((await asyncio.to_thread(self._client.points, text))["at"])


class Own:
    """A volume that is served here."""

    def __init__(self, service: Service) -> None:
        self._control = service.control

    async def oldest(self) -> int:
        return int(self._control.status()["horizon_write"])

    async def points(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(point) for point in self._control.points().points]

    async def moment(self, text: str) -> dict[str, Any]:
        at = self._control.points(text).at
        assert at is not None
        return dataclasses.asdict(at)
